"""Training examples: a query, a document that answers it, and hard negatives.

Hard negatives are the documents that BM25 ranks highest and that probably do not answer the query. Likely answers
without a relevance judgement are dropped by four rules, `is_likely_answer`: pure functions of ids, words and qrels.

A rule by score ("a candidate above 0.9 of the positive's BM25 score") was left out on purpose: the query is a sentence
taken out of its own document, so the positive often has a low score, and the rule would drop the hardest negatives.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from effir.data.beir import CORPUS, Collection, Document, open_collection
from effir.data.bm25 import bm25_search, words
from effir.errors import EffirError
from effir.files import read_jsonl, require, text_digest, write_jsonl

NEGATIVES = "negatives.jsonl"
MIXTURE = "mixture.json"  # if it exists, query ids begin with the name of their part
CANDIDATES = 50  # negatives are chosen among this many results of BM25
SAME_WORDS = 0.5  # two queries ask for the same if they share more than this part of their words


@dataclass(frozen=True)
class Example:
    """Texts to train on: ``negatives`` hardest first, ``part`` the collection of a mixture that it comes from."""

    query: str
    positive: str
    negatives: tuple[str, ...]
    part: str = ""


@dataclass(frozen=True)
class Judged:
    """The facts about one split of a collection that tell likely answers."""

    qrels: Mapping[str, Mapping[str, int]]
    queries: Mapping[str, frozenset[str]]  # query id to its words
    owners: Mapping[str, tuple[str, ...]]  # document id to the queries it answers best
    names: Mapping[str, str]  # document id to the last component of a title that is a qualified name, else ""
    texts: Mapping[str, str]  # document id to a digest of its text

    def positives(self, query: str) -> list[str]:
        """Documents with a grade above 0 for ``query``."""
        return [document for document, grade in self.qrels[query].items() if grade > 0]


def is_namesake(known: Judged, query: str, candidate: str) -> bool:
    """Return whether ``candidate`` has the name (``Dataset.rename``, ``DataArray.rename``) or text of a positive."""
    return any(
        (known.names[candidate] != "" and known.names[candidate] == known.names.get(positive))
        or known.texts[candidate] == known.texts.get(positive)
        for positive in known.positives(query)
    )


def is_neighbour(known: Judged, query: str, candidate: str) -> bool:
    """Return whether a positive answers a query of ``candidate``: "See Also" works in both directions."""
    answers, owners = known.positives(query), known.owners.get(candidate, ())
    return any(known.qrels[own].get(answer, 0) > 0 for own in owners for answer in answers)


def is_asked_alike(known: Judged, query: str, candidate: str) -> bool:
    """Return whether ``candidate`` answers a query that shares more than half of its words with ``query``."""
    asked = known.queries[query]
    return any(similarity(asked, known.queries[own]) > SAME_WORDS for own in known.owners.get(candidate, ()))


def is_likely_answer(known: Judged, query: str, candidate: str) -> bool:
    """Return whether ``candidate`` has any grade for ``query``, 0 included, or one of the other rules drops it."""
    rules = (is_namesake, is_neighbour, is_asked_alike)
    return candidate in known.qrels[query] or any(rule(known, query, candidate) for rule in rules)


def similarity(first: frozenset[str], second: frozenset[str]) -> float:
    """Return the number of words in both over the number in either; 0 if both are empty.

    >>> similarity(frozenset({"sort", "array"}), frozenset({"sort", "list"})) == 1 / 3
    True
    """
    return len(first & second) / max(1, len(first | second))


def write_negatives(collection: Collection, split: str, count: int, qualified: tuple[str, ...] = ()) -> None:
    """Mine ``count`` hard negatives for each query of ``split`` into ``negatives.jsonl`` beside the corpus.

    Rows are ``{query_id, pos_ids, neg_ids}``, negatives hardest first. If BM25 finds too few for a query, other
    documents, ordered by hash, fill up. A small corpus may have fewer: a training that needs them all refuses them.
    Titles are qualified names where the document's id starts with one of ``qualified``.
    """
    known = judged(collection, split, qualified)
    ranked = bm25_search(collection.documents(), collection.queries(split), max(CANDIDATES, 5 * count))
    reserve = sorted(known.names, key=text_digest)
    rows = []
    for query in known.qrels:
        accepted: dict[str, None] = {}
        for candidate in (*ranked[query], *reserve):
            if len(accepted) == count:
                break
            if not is_likely_answer(known, query, candidate):
                accepted[candidate] = None
        rows.append({"query_id": query, "pos_ids": highest(known.qrels[query]), "neg_ids": list(accepted)})
    write_jsonl(collection.folder / NEGATIVES, rows)


def judged(collection: Collection, split: str, qualified: tuple[str, ...] = ()) -> Judged:
    """Read what the rules need, in one pass over the corpus; no text is kept."""
    qrels = collection.qrels(split)
    owners: dict[str, tuple[str, ...]] = {}
    for query, grades in qrels.items():
        for answer in highest(grades):
            owners[answer] = (*owners.get(answer, ()), query)
    # Titles of other texts are no names: `a.pdf` and `b.pdf`, or `FAQ` twice, do not answer the same question.
    seen = [
        (d.id, last_name(d.title) if d.id.startswith(qualified) else "", text_digest(d.text))
        for d in collection.documents()
    ]
    names, texts = {id_: name for id_, name, _ in seen}, {id_: digest for id_, _, digest in seen}
    asked = {query: frozenset(words(text)) for query, text in collection.queries(split).items()}
    return Judged(qrels, asked, owners, names, texts)


def last_name(title: str) -> str:
    """Return the last component of a qualified name; any other title is kept.

    >>> last_name("dask.array.Array.topk"), last_name("The E. coli genome")
    ('topk', 'the e. coli genome')
    """
    folded = title.strip().lower()
    return folded if " " in folded else folded.rpartition(".")[2]


def highest(grades: Mapping[str, int]) -> list[str]:
    """Return the documents with the highest grade above 0, in their order.

    >>> highest({"a": 1, "b": 2, "c": 2, "d": 0})
    ['b', 'c']
    """
    top = max((grade for grade in grades.values() if grade > 0), default=None)
    return [document for document, grade in grades.items() if grade == top]


def load_examples(folder: Path, split: str, negatives: int) -> list[Example]:
    """Read training examples in file order: one for each query and each of its highest-graded documents.

    EffirError names the file if a query has too few negatives or a document is missing.
    """
    collection = open_collection(folder)
    mined = _mined(folder / NEGATIVES) if negatives else {}
    if negatives:
        _require_negatives(folder, {query: len(mined.get(query, ())) for query in collection.qrels(split)}, negatives)
    chosen: list[tuple[str, str, list[str]]] = []
    for query, grades in collection.qrels(split).items():
        others = mined.get(query, [])
        chosen += [(query, positive, others[:negatives]) for positive in highest(grades)]
    wanted = {id_ for _, positive, others in chosen for id_ in (positive, *others)}
    texts, queries = _texts(collection.documents(), wanted, folder), collection.queries(split)
    mixed = (folder / MIXTURE).exists()
    return [
        Example(queries[q], texts[answer], tuple(texts[id_] for id_ in others), q.partition("/")[0] if mixed else "")
        for q, answer, others in chosen
    ]


def _mined(path: Path) -> dict[str, list[str]]:
    mined: dict[str, list[str]] = {}
    for row in read_jsonl(require(path)):
        query, others = row.get("query_id"), row.get("neg_ids")
        texts = [query, *others] if isinstance(others, list) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise EffirError(f"{path} has a row without `query_id` or `neg_ids`: delete it and mine negatives again")
        mined[str(query)] = row["neg_ids"]
    return mined


def _require_negatives(folder: Path, mined: Mapping[str, int], wanted: int) -> None:
    fewest = min(mined, key=lambda query: mined[query])
    if (count := mined[fewest]) < wanted:
        fix = f"set data.negatives to {count}" if count else "set training.negatives to 0"
        few = f"{count} negatives for query {fewest!r}, but {wanted} are wanted"
        raise EffirError(f"{folder / NEGATIVES} has {few}: {fix}, or add documents that answer other queries")


def _texts(documents: Iterable[Document], wanted: set[str], folder: Path) -> dict[str, str]:
    found = {document.id: document.content for document in documents if document.id in wanted}
    for missing in sorted(wanted - found.keys()):
        fix = "add it, or remove its relevance judgements, in the set that this folder was installed from"
        raise EffirError(f"{folder / CORPUS} has no document {missing!r}, which is judged or a negative: {fix}")
    return found
