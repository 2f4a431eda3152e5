"""`effir vocabulary`."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from effir.cli.terminal import PATH, answer, json_option
from effir.errors import EffirError

if TYPE_CHECKING:
    from effir.compress.vocabulary import VocabularyCut
    from effir.encoding.text_reader import TextReader


@click.command()
@click.argument("folder", type=PATH)
@click.argument("texts", type=PATH, nargs=-1, required=True)
@click.option("--out", type=PATH, required=True, help="The folder to write.")
@click.option("--min-count", type=click.IntRange(1), default=1, show_default=True, help="Occurrences of a kept token.")
@json_option()
def vocabulary(folder: Path, texts: tuple[Path, ...], out: Path, min_count: int, as_json: bool) -> None:
    """Write the retriever FOLDER to --out without the tokens that TEXTS do not use.

    TEXTS are folders in BEIR layout, of which queries are read too, or what `effir index build` reads. With a
    --min-count of 1 the vectors of TEXTS stay the same. Other texts are read in smaller tokens. A graph of `effir
    export` is not copied. In the pipeline, use `-S retriever.vocabulary=train`.

    Example: effir vocabulary models/retriever docs.jsonl --out models/small
    """
    from effir.compress.vocabulary import fit_vocabulary
    from effir.encoding.text_reader import TextReader

    if out.exists():
        raise EffirError(f"{out} exists already: remove it, or name another folder")
    reader = TextReader.open(folder)
    found = fit_vocabulary(folder, out, lambda: _read(texts, reader), min_count)
    answer({"folder": str(out), **asdict(found)}, f"{out}: {_said(found)}", as_json)


def _read(sources: Iterable[Path], reader: "TextReader") -> Iterator[str]:
    from effir.compress.vocabulary import collection_texts
    from effir.data.beir import CORPUS, QUERIES, open_collection
    from effir.serve.texts import documents_of

    for source in sources:
        if (source / CORPUS).is_file() and (source / QUERIES).is_file():
            yield from collection_texts(open_collection(source), reader.prompts)
        else:
            yield from (reader.prompts["document"] + each.content for each in documents_of(source, reader))


def _said(found: "VocabularyCut") -> str:
    return (
        f"{found.tokens:,} of {found.tokens_before:,} tokens, {found.bytes_before / 1e6:,.1f} -> "
        f"{found.bytes / 1e6:,.1f} MB; {found.changed:,} of {found.texts:,} texts are tokenised differently "
        f"({found.lost / found.read:.2%} of their tokens are dropped)"
    )
