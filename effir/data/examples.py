"""Training examples: a query, a document that answers it, and hard negatives that look as if they did.

Negatives are the documents that BM25 ranks highest and that nothing suggests are answers. Likely answers that the
judgements do not know are dropped by four rules, `RULES`; each is a pure function of ids, words and judgements.

A rule by score ("a candidate above 0.9 of the positive's BM25 score") was left out on purpose: the query is a sentence
taken out of its own document, so that the positive often scores low, and the rule would drop the hardest negatives.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effir.data.beir import Collection, Document, open_collection
from effir.data.bm25 import bm25_search, words
from effir.errors import EffirError
from effir.files import read_jsonl, write_jsonl

NEGATIVES = "negatives.jsonl"
MIXTURE = "mixture.json"  # where it is, query ids begin with the name of their part
CANDIDATES = 50  # how far down BM25's ranking negatives are looked for
SAME_WORDS = 0.5  # share of common words above which two queries ask for the same


@dataclass(frozen=True)
class Example:
    """Texts to train on: ``negatives`` hardest first, ``part`` the collection of a mixture that it comes from."""

    query: str
    positive: str
    negatives: tuple[str, ...]
    part: str = ""


@dataclass(frozen=True)
class Judged:
    """What is known of a collection's split: enough to tell likely answers."""

    judgements: Mapping[str, Mapping[str, int]]
    queries: Mapping[str, frozenset[str]]  # query id to its words
    owners: Mapping[str, tuple[str, ...]]  # document id to the queries it answers best
    names: Mapping[str, str]  # document id to the last component of its title
    texts: Mapping[str, bytes]  # document id to a digest of its text

    def positives(self, query: str) -> list[str]:
        """Documents that answer ``query`` at all."""
        return [document for document, grade in self.judgements[query].items() if grade > 0]


def is_judged(known: Judged, query: str, candidate: str) -> bool:
    """Say whether ``candidate`` has a grade of any kind for ``query``; grade 0 too, its example may be another's."""
    return candidate in known.judgements[query]


def is_namesake(known: Judged, query: str, candidate: str) -> bool:
    """Say whether ``candidate`` has a positive's name (``Dataset.rename``, ``DataArray.rename``) or its very text."""
    return any(
        (known.names[candidate] != "" and known.names[candidate] == known.names.get(positive))
        or known.texts[candidate] == known.texts.get(positive)
        for positive in known.positives(query)
    )


def is_neighbour(known: Judged, query: str, candidate: str) -> bool:
    """Say whether a positive answers a query of ``candidate``: "See Also" points both ways."""
    positives = known.positives(query)
    return any(
        known.judgements[own].get(positive, 0) > 0 for own in known.owners.get(candidate, ()) for positive in positives
    )


def is_asked_alike(known: Judged, query: str, candidate: str) -> bool:
    """Say whether ``candidate`` answers a query with more than half of its words in common with ``query``."""
    asked = known.queries[query]
    return any(similarity(asked, known.queries[own]) > SAME_WORDS for own in known.owners.get(candidate, ()))


Rule = Callable[[Judged, str, str], bool]
RULES: dict[str, Rule] = {
    "judged": is_judged,
    "namesake": is_namesake,
    "neighbour": is_neighbour,
    "asked alike": is_asked_alike,
}


def similarity(first: frozenset[str], second: frozenset[str]) -> float:
    """Words in both over words in either, 0 where neither has any.

    >>> similarity(frozenset({"sort", "array"}), frozenset({"sort", "list"})) == 1 / 3
    True
    """
    return len(first & second) / max(1, len(first | second))


def write_negatives(collection: Collection, split: str, count: int) -> dict[str, int]:
    """Mine ``count`` hard negatives for each query of ``split`` into ``negatives.jsonl`` beside the corpus.

    Rows are ``{query_id, pos_ids, neg_ids}``, negatives hardest first. A query that BM25 finds too few for is filled up
    with other documents, chosen by hash. Returns how many candidates each rule dropped.
    EffirError where the corpus is too small to have ``count`` negatives for every query.
    """
    known = judged(collection, split)
    ranked = bm25_search(collection.documents(), collection.queries(split), max(CANDIDATES, 5 * count))
    dropped: Counter[str] = Counter(dict.fromkeys(RULES, 0))
    reserve = sorted(known.names, key=lambda document: hashlib.sha256(document.encode()).digest())
    rows = list(_rows(known, ranked, reserve, count, dropped))
    short = [row["query_id"] for row in rows if len(row["neg_ids"]) < count]
    if short:
        raise EffirError(
            f"{collection.folder} has fewer than {count} negatives for query {short[0]!r}: "
            "ask for fewer or add documents"
        )
    write_jsonl(collection.folder / NEGATIVES, rows)
    return dict(dropped)


def judged(collection: Collection, split: str) -> Judged:
    """Read what the rules look at; one pass over the corpus, no text is kept."""
    judgements = collection.judgements(split)
    owners: dict[str, tuple[str, ...]] = {}
    for query, grades in judgements.items():
        for answer in highest(grades):
            owners[answer] = (*owners.get(answer, ()), query)
    names: dict[str, str] = {}
    texts: dict[str, bytes] = {}
    for document in collection.documents():
        names[document.id] = last_name(document.title)
        texts[document.id] = hashlib.sha256(document.text.encode()).digest()
    asked = {query: frozenset(words(text)) for query, text in collection.queries(split).items()}
    return Judged(judgements, asked, owners, names, texts)


def last_name(title: str) -> str:
    """Reduce a qualified name to its last component; any other title stays whole.

    >>> last_name("dask.array.Array.topk"), last_name("The E. coli genome")
    ('topk', 'the e. coli genome')
    """
    folded = title.strip().lower()
    return folded if " " in folded else folded.rpartition(".")[2]


def highest(grades: Mapping[str, int]) -> list[str]:
    """Documents with the highest grade above 0, in their order.

    >>> highest({"a": 1, "b": 2, "c": 2, "d": 0})
    ['b', 'c']
    """
    top = max((grade for grade in grades.values() if grade > 0), default=None)
    return [document for document, grade in grades.items() if grade == top]


def load_examples(folder: Path, split: str, negatives: int) -> list[Example]:
    """Read training examples in file order: one for each query and each of its highest-graded documents.

    EffirError names the file and the remedy where a query has too few negatives or a document is missing.
    """
    collection = open_collection(folder)
    mined = _mined(folder / NEGATIVES, negatives) if negatives else {}
    chosen: list[tuple[str, str, list[str]]] = []
    for query, grades in collection.judgements(split).items():
        if negatives and len(mined.get(query, ())) < negatives:
            raise EffirError(
                f"{folder / NEGATIVES} has {len(mined.get(query, ()))} negatives for query {query!r}, "
                f"{negatives} are asked for: ask for fewer, or delete it and run `dvc repro download`"
            )
        chosen += [(query, positive, mined.get(query, [])[:negatives]) for positive in highest(grades)]
    texts = _texts(
        collection.documents(), {id_ for _, positive, others in chosen for id_ in (positive, *others)}, folder
    )
    queries, mixed = collection.queries(split), (folder / MIXTURE).exists()
    return [
        Example(
            queries[query],
            texts[positive],
            tuple(texts[id_] for id_ in others),
            query.partition("/")[0] if mixed else "",
        )
        for query, positive, others in chosen
    ]


def _rows(
    known: Judged, ranked: Mapping[str, Mapping[str, float]], reserve: list[str], count: int, dropped: Counter[str]
) -> Iterator[dict[str, Any]]:
    """One row a query; counts in ``dropped`` what each rule refuses."""
    for query in known.judgements:
        accepted: dict[str, None] = {}
        for candidate in (*ranked[query], *reserve):
            if len(accepted) == count:
                break
            rule = next((name for name, refuses in RULES.items() if refuses(known, query, candidate)), None)
            if rule is None:
                accepted[candidate] = None
            elif candidate in ranked[query]:
                dropped[rule] += 1
        yield {"query_id": query, "pos_ids": highest(known.judgements[query]), "neg_ids": list(accepted)}


def _mined(path: Path, negatives: int) -> dict[str, list[str]]:
    if not path.is_file():
        raise EffirError(f"{path} is missing and {negatives} negatives a query are asked for: run `dvc repro download`")
    mined: dict[str, list[str]] = {}
    for row in read_jsonl(path):
        query, others = row.get("query_id"), row.get("neg_ids")
        if (
            not isinstance(query, str)
            or not isinstance(others, list)
            or not all(isinstance(id_, str) for id_ in others)
        ):
            raise EffirError(
                f"{path} has a row without `query_id` or `neg_ids`: delete it and run `dvc repro download`"
            )
        mined[query] = others
    return mined


def _texts(documents: Iterable[Document], wanted: set[str], folder: Path) -> dict[str, str]:
    found = {document.id: document.content for document in documents if document.id in wanted}
    for missing in sorted(wanted - found.keys()):
        raise EffirError(
            f"{folder}: document {missing!r} is judged or a negative but not in corpus.jsonl: add it to the collection "
            "that data.train names, or remove its judgements, and run `dvc repro --force download`"
        )
    return found
