"""Hard negatives, the examples made of them, and the BM25 that both rest on."""

import math
import zipfile
from pathlib import Path

import numpy as np
import pytest

from effir.data.beir import Collection, Document, open_collection, write_collection
from effir.data.bm25 import best, bm25_search
from effir.data.examples import Example, load_examples, write_negatives
from effir.errors import EffirError
from effir.files import read_jsonl, sha256_of, write_jsonl

SCIFACT = Path(__file__).parents[2] / "../shared/data/beir/scifact.zip"

DOCUMENTS = [
    Document("own", "a.Set.rename", "change the names of variables quickly"),
    Document("graded", "a.relabel", "change names of variables"),
    Document("namesake", "b.Frame.rename", "change names of variables and columns"),
    Document("twin", "c.alias", "change the names of variables quickly"),
    Document("backward", "a.label", "names of variables that may change"),
    Document("alike", "d.names", "change variables names here"),
    Document("hard", "d.values", "change the values of variables"),
    Document("easy", "e.sort", "order rows"),
    Document("other", "e.drop", "remove rows"),
]
QUERIES = {
    "q1": "change names of variables",
    "q2": "attach labels",
    "q3": "change all names of variables",
}
JUDGEMENTS = {"q1": {"own": 2, "graded": 1}, "q2": {"backward": 2, "own": 1}, "q3": {"alike": 2}}


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return write_collection(tmp_path / "toy", DOCUMENTS, QUERIES, {"train": JUDGEMENTS})


def negatives_of(collection: Collection, query: str) -> list[str]:
    return {row["query_id"]: row["neg_ids"] for row in read_jsonl(collection.folder / "negatives.jsonl")}[query]


def test_bm25_scores_are_lucenes() -> None:
    documents = [Document("1", "", "cat dog"), Document("2", "", "cat cat fish bird"), Document("3", "", "bird")]
    found = bm25_search(documents, {"q": "cat"}, k=3)["q"]
    # idf = ln(1 + (3 - 2 + 0.5) / (2 + 0.5)); mean length 7/3; tf / (tf + 0.9 (0.6 + 0.4 length / mean))
    idf = math.log(1 + 1.5 / 2.5)
    first = idf * 1 / (1 + 0.9 * (0.6 + 0.4 * 2 / (7 / 3)))
    second = idf * 2 / (2 + 0.9 * (0.6 + 0.4 * 4 / (7 / 3)))
    assert found == pytest.approx({"2": second, "1": first}, rel=1e-5)
    assert list(found) == ["2", "1"]


def test_bm25_breaks_ties_by_the_corpus_and_stops_at_k() -> None:
    documents = [Document(str(number), "", "cat") for number in range(20)]
    assert list(bm25_search(documents, {"q": "cat"}, k=3)["q"]) == ["0", "1", "2"]


def test_bm25_finds_nothing_for_a_query_without_known_words() -> None:
    assert bm25_search([Document("1", "", "cat")], {"q": "zebra", "": ""}, k=3) == {"q": {}, "": {}}


def test_bm25_refuses_a_corpus_without_words() -> None:
    with pytest.raises(EffirError, match="corpus is empty"):
        bm25_search([Document("1", "", "")], {"q": "cat"}, k=3)


def test_best_agrees_with_a_full_stable_sort() -> None:
    scores = np.random.default_rng(0).integers(0, 6, 100).astype(np.float32)
    expected = [int(place) for place in np.argsort(-scores, kind="stable") if scores[place] > 0]
    assert [best(scores, k) for k in (1, 10, 100, 200)] == [expected[:k] for k in (1, 10, 100, 200)]


def test_likely_answers_are_no_negatives(collection: Collection) -> None:
    dropped = write_negatives(collection, "train", 3)
    # Of q1's candidates: own and graded are judged, namesake and twin go with own, backward's query q2 judges own,
    # alike's query q3 shares change, names, variables of the four words in either (3/4). One sharing words is left.
    assert negatives_of(collection, "q1")[0] == "hard"
    assert set(negatives_of(collection, "q1")) == {"hard", "easy", "other"}
    assert dropped["neighbour"] >= 1
    assert dropped["judged"] >= 2
    assert dropped["namesake"] >= 2
    assert dropped["asked alike"] >= 1


def test_negatives_are_the_same_bytes_again(collection: Collection) -> None:
    write_negatives(collection, "train", 3)
    first = sha256_of(collection.folder / "negatives.jsonl")
    write_negatives(collection, "train", 3)
    assert sha256_of(collection.folder / "negatives.jsonl") == first


def test_more_negatives_than_the_corpus_holds_are_refused(collection: Collection) -> None:
    with pytest.raises(EffirError, match="fewer than 9 negatives for query 'q1': ask for fewer or add documents"):
        write_negatives(collection, "train", 9)
    assert not (collection.folder / "negatives.jsonl").exists()


def test_an_example_joins_the_highest_graded_document_with_its_negatives(collection: Collection) -> None:
    write_negatives(collection, "train", 3)
    examples = load_examples(collection.folder, "train", 1)
    assert [example.query for example in examples] == list(QUERIES.values())
    assert examples[0] == Example(
        "change names of variables",
        "a.Set.rename change the names of variables quickly",
        ("d.values change the values of variables",),
    )


def test_every_highest_graded_document_makes_an_example(tmp_path: Path) -> None:
    write_collection(tmp_path / "toy", DOCUMENTS, QUERIES, {"train": {"q1": {"own": 1, "easy": 0, "graded": 1}}})
    examples = load_examples(tmp_path / "toy", "train", 0)
    assert [example.positive.split()[0] for example in examples] == ["a.Set.rename", "a.relabel"]


@pytest.mark.parametrize("asked", [4, 7])
def test_too_few_negatives_name_the_file_and_the_remedy(collection: Collection, asked: int) -> None:
    write_negatives(collection, "train", 3)
    with pytest.raises(EffirError, match=rf"negatives\.jsonl has 3 negatives for query 'q1', {asked} are asked for"):
        load_examples(collection.folder, "train", asked)


def test_missing_negatives_name_the_command_that_makes_them(collection: Collection) -> None:
    with pytest.raises(EffirError, match=r"negatives\.jsonl is missing .* `dvc repro download`"):
        load_examples(collection.folder, "train", 1)


def test_a_judged_document_that_the_corpus_lacks_is_named_with_what_mends_it(collection: Collection) -> None:
    with (collection.folder / "qrels/train.tsv").open("a") as judgements:
        judgements.write("q1\tgone\t9\n")
    with pytest.raises(EffirError, match=r"'gone' is judged.*: add it to the collection that data\.train names, or"):
        load_examples(collection.folder, "train", 0)


def test_a_negative_that_is_no_document_is_named(collection: Collection) -> None:
    rows = [{"query_id": query, "pos_ids": [], "neg_ids": ["gone"]} for query in QUERIES]
    write_jsonl(collection.folder / "negatives.jsonl", rows)
    with pytest.raises(EffirError, match="'gone' is judged or a negative but not in"):
        load_examples(collection.folder, "train", 1)


@pytest.mark.skipif(not SCIFACT.exists(), reason="shared/data/beir/scifact.zip is not beside this checkout")
def test_scifacts_train_split_gives_an_example_for_every_judged_pair(tmp_path: Path) -> None:
    with zipfile.ZipFile(SCIFACT) as archive:
        archive.extractall(tmp_path)
    collection = open_collection(tmp_path / "scifact")
    write_negatives(collection, "train", 3)
    examples = load_examples(collection.folder, "train", 3)
    assert len(examples) == 919  # all of its judgements have grade 1
    assert {len(set(example.negatives)) for example in examples} == {3}
    assert not any(example.positive in example.negatives for example in examples)
