"""Install a collection by its name: the embedded ones, BEIR's public ones, the user's own, and mixtures of them."""

import hashlib
import shutil
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from effir.data.apidocs import Part, install_apidocs
from effir.data.archives import unpack
from effir.data.beir import CORPUS, QRELS, QUERIES, Collection, Document, open_collection, write_collection
from effir.data.examples import MIXTURE, write_negatives
from effir.data.inspection import Use, inspect_collection
from effir.data.sources import fetch
from effir.errors import EffirError
from effir.files import read_json, scratch, text_digest, write_json, writing

TRAINING: Mapping[str, Part] = {"apidocs": "train", "apidocs-large": "large-train", "apidocs-small": "small-train"}
EVALUATION: Mapping[str, Part] = {"apidocs": "test", "apidocs-dev": "dev", "apidocs-small": "small-dev"}
SPLIT, SOURCES = "train", "SOURCES.json"
Sources = Mapping[str, str]  # names of the user's own collections to the sources of their files

ADDRESS = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets"
UNPACKED_LIMIT = 20_000_000_000  # bytes; the largest public set unpacks to about a sixth of that
# The 13 public sets that the paper evaluates on, with the MD5 of their archives (BEIR's README).
PUBLIC = {
    "trec-covid": "ce62140cb23feb9becf6270d0d1fe6d1",
    "nfcorpus": "a89dba18a62ef92f7d323ec890a0d38d",
    "nq": "d4d3d2e48787a744b6f6e691ff534307",
    "hotpotqa": "f412724f78b0d91183a0e86805e16114",
    "fiqa": "17918ed23cd04fb15047f73e6c3bd9d9",
    "arguana": "8ad3e3c2a5867cdced806d6503f29b99",
    "webis-touche2020": "46f650ba5a527fc69e0a6521c5a23563",
    "quora": "18fb154900ba42a600f84b839c173167",
    "dbpedia-entity": "c2a39eb420a3164af735795df012ac2c",
    "scidocs": "38121350fc3a4d2f48850f6aff52e4a9",
    "fever": "5a818580227bfb4b35bb6fa46d9b6c03",
    "climate-fever": "8b66f0a9126c521bae2bde127b4dc99d",
    "scifact": "5f7d1de60b170fc8027bb7898e2efca1",
}


def qualified_names(wanted: str | Mapping[str, float]) -> tuple[str, ...]:
    """Return the beginnings of the ids of API documentation in a training collection: its titles are qualified names.

    >>> qualified_names("apidocs"), qualified_names({"apidocs": 1, "fiqa": 1}), qualified_names("fiqa")
    (('',), ('apidocs/',), ())
    """
    if isinstance(wanted, str):
        return ("",) if wanted in TRAINING else ()
    return tuple(f"{name}/" for name in wanted if name in TRAINING)


def install_training(
    wanted: str | Mapping[str, float], into: Path, *, negatives: int, mirror: str, collections: Sources, cache: Path
) -> Collection:
    """Install the training collection, or a mixture by weight, and mine ``negatives`` hard negatives per query.

    ``into`` is complete, or as it was before.
    """

    def install(name: str, folder: Path) -> Collection:
        if name in TRAINING:
            return install_apidocs(TRAINING[name], folder, cache)
        return install_collection(name, folder, mirror=mirror, collections=collections, cache=cache, use="train")

    with writing(into) as draft:
        try:
            if isinstance(wanted, str):
                collection = install(wanted, draft)
            else:
                with scratch(cache / "parts") as parts:
                    collection = mix({name: install(name, parts / name) for name in wanted}, wanted, draft)
            _require_train(str(wanted), collection)
            write_negatives(collection, SPLIT, negatives, qualified_names(wanted))
        except EffirError as error:
            raise EffirError(str(error).replace(str(draft), str(into))) from None
    return open_collection(into)


def install_evaluation(
    name: str, into: Path, *, train: str | Mapping[str, float], mirror: str, collections: Sources, cache: Path
) -> Collection:
    """Install one collection to evaluate on; ``train`` names what is trained on, which must not leak into it."""
    if name in EVALUATION:
        return install_apidocs(EVALUATION[name], into, cache)
    use: Use = "trained_on" if name in ([train] if isinstance(train, str) else train) else "evaluation"
    return install_collection(name, into, mirror=mirror, collections=collections, cache=cache, use=use)


def install_collection(
    name: str, into: Path, *, mirror: str, collections: Sources, cache: Path, use: Use = "texts"
) -> Collection:
    """Install a collection into folder ``into``, atomically, and open it.

    ``collections`` maps the names of the user's own sets to the source (``effir.data.sources``) of a folder or zip in
    BEIR layout. Any other name is a public BEIR set, ``<mirror>/<name>.zip``. At BEIR's own address its MD5 is checked.
    **From another mirror (https or file://) the bytes are not checked**: to check them, name the set in ``collections``
    with a ``#sha256=``. EffirError for an unknown name, faults that make its ``use`` wrong
    (:func:`effir.data.inspection.inspect_collection`), and for everything that ``fetch`` and ``unpack`` refuse.
    """
    source = source_of(name, mirror, collections)
    found = fetch(source, cache)
    if name not in collections and mirror.rstrip("/") == ADDRESS and (md5 := _md5(found)) != PUBLIC[name]:
        found.unlink()
        raise EffirError(f"{name}.zip arrived with MD5 {md5}, not {PUBLIC[name]}, and was removed: run again")
    with writing(into) as draft:
        draft.mkdir()
        unpacked = found if found.is_dir() else draft / "unpacked"
        if found.is_file():
            unpack(found, unpacked, UNPACKED_LIMIT)
        _copy_collection(unpacked, draft, named=source)
        shutil.rmtree(draft / "unpacked", ignore_errors=True)
        inspect_collection(draft, name, use, cache, public=name not in collections)
    return open_collection(into)


def mix(parts: Mapping[str, Collection], weights: Mapping[str, float], into: Path) -> Collection:
    """Write one collection of the train splits of ``parts``: all documents, and queries in proportion to ``weights``.

    Ids become ``<part>/<id>``. If a part has more queries than its share, those with the lowest SHA-256 of their id
    are kept. Corpora are streamed. ``SOURCES.json`` joins the licences, ``mixture.json`` counts the queries of each
    part. EffirError if a part has no train split, or an empty one.
    """
    for name, part in parts.items():
        _require_train(name, part)
    asked = {name: part.queries(SPLIT) for name, part in parts.items()}
    for name, queries in asked.items():
        if not queries:
            raise EffirError(f"data.train: {name} has no query in its train split: name another set")
    wanted = shares({name: len(queries) for name, queries in asked.items()}, weights)
    chosen = {name: _drawn(queries, wanted[name]) for name, queries in asked.items()}
    queries = {f"{name}/{id_}": text for name, texts in chosen.items() for id_, text in texts.items()}
    qrels = {
        f"{name}/{query}": {f"{name}/{document}": grade for document, grade in grades.items()}
        for name, part in parts.items()
        for query, grades in part.qrels(SPLIT).items()
        if query in chosen[name]
    }
    documents = (Document(f"{name}/{d.id}", d.title, d.text) for name, part in parts.items() for d in part.documents())
    mixed = write_collection(into, documents, queries, {SPLIT: qrels})
    write_json(into / MIXTURE, {name: len(texts) for name, texts in chosen.items()})
    sources = {name: part.folder / SOURCES for name, part in parts.items()}
    known = [read_json(path) if path.exists() else [{"name": name}] for name, path in sources.items()]
    write_json(into / SOURCES, list(chain.from_iterable(known)))
    return mixed


def shares(counts: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, int]:
    """Return how many of each part's ``counts`` to take: in proportion to ``weights``, as many as possible.

    >>> shares({"a": 100, "b": 1000}, {"a": 1, "b": 2})
    {'a': 100, 'b': 200}
    """
    most = min(count / weights[name] for name, count in counts.items())
    return {name: max(1, round(most * weights[name])) for name in counts}


def _require_train(name: str, collection: Collection) -> None:
    if SPLIT not in collection.splits:
        raise EffirError(f"data.train: {name} has no train split, only {', '.join(collection.splits)}: name another")


def source_of(name: str, mirror: str, collections: Sources) -> str:
    """Return the source of a set that is not embedded; EffirError lists the names there are."""
    if name in collections:
        return collections[name]
    if name not in PUBLIC:
        own = f"your own are {', '.join(collections)}; " if collections else ""
        known = f"{own}the public ones are {', '.join(PUBLIC)}; name a folder or zip of your own under data.collections"
        raise EffirError(f"there is no collection {name!r}: {known}")
    return f"{mirror.rstrip('/')}/{name}.zip"


def _md5(archive: Path) -> str:
    with archive.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _copy_collection(source: Path, into: Path, named: str) -> None:
    """Copy only the files of a collection, from ``source`` or from the one folder in it that holds a corpus."""
    inner = [path.parent for path in source.glob(f"*/{CORPUS}")]
    root = inner[0] if len(inner) == 1 and not (source / CORPUS).exists() else source
    open_collection(root, named)
    (into / QRELS).mkdir()
    for path in [root / CORPUS, root / QUERIES, *sorted((root / QRELS).glob("*.tsv"))]:
        shutil.copyfile(path, into / path.relative_to(root))


def _drawn(queries: Mapping[str, str], count: int) -> dict[str, str]:
    ranked = sorted(queries, key=text_digest)
    kept = set(ranked[:count])
    return {id_: text for id_, text in queries.items() if id_ in kept}
