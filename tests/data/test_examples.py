"""Hard negatives, and the training examples made of them."""

import zipfile
from pathlib import Path

import pytest

from effir.data.beir import Collection, Document, open_collection, write_collection
from effir.data.examples import (
    Example,
    is_asked_alike,
    is_likely_answer,
    is_namesake,
    is_neighbour,
    judged,
    load_examples,
    write_negatives,
)
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
QRELS = {"q1": {"own": 2, "graded": 1}, "q2": {"backward": 2, "own": 1}, "q3": {"alike": 2}}


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return write_collection(tmp_path / "toy", DOCUMENTS, QUERIES, {"train": QRELS})


def negatives_of(collection: Collection, query: str) -> list[str]:
    return {row["query_id"]: row["neg_ids"] for row in read_jsonl(collection.folder / "negatives.jsonl")}[query]


def test_likely_answers_are_no_negatives(collection: Collection) -> None:
    write_negatives(collection, "train", 3, qualified=("",))
    # Of q1's candidates: own and graded are judged, namesake and twin go with own, backward's query q2 judges own,
    # alike's query q3 shares change, names, variables of the four words in either (3/4). One sharing words is left.
    assert negatives_of(collection, "q1")[0] == "hard"
    assert set(negatives_of(collection, "q1")) == {"hard", "easy", "other"}
    known = judged(collection, "train", qualified=("",))
    assert {d.id for d in DOCUMENTS if is_namesake(known, "q1", d.id)} >= {"namesake", "twin"}
    assert is_neighbour(known, "q1", "backward")
    assert is_asked_alike(known, "q1", "alike")
    assert {d.id for d in DOCUMENTS if is_likely_answer(known, "q1", d.id)} >= {"own", "graded"}


def test_negatives_are_the_same_bytes_again(collection: Collection) -> None:
    write_negatives(collection, "train", 3)
    first = sha256_of(collection.folder / "negatives.jsonl")
    write_negatives(collection, "train", 3)
    assert sha256_of(collection.folder / "negatives.jsonl") == first


@pytest.mark.parametrize("titles", [[f"{i}.pdf" for i in range(50)], ["FAQ"] * 50], ids=["file names", "one title"])
def test_titles_that_are_no_qualified_names_tell_nothing(titles: list[str], tmp_path: Path) -> None:
    documents = [Document(f"d{i}", title, f"answer {i}") for i, title in enumerate(titles)]
    asked = {"q": "which answer?"}
    collection = write_collection(tmp_path / "own", documents, asked, {"train": {"q": {"d0": 1}}})
    write_negatives(collection, "train", 3)
    assert negatives_of(collection, "q") == ["d1", "d2", "d3"]  # equal BM25 scores keep the order of the corpus


def test_a_small_corpus_refuses_only_a_training_that_needs_more_negatives_than_it_has(collection: Collection) -> None:
    write_negatives(collection, "train", 9)
    assert len(load_examples(collection.folder, "train", 0)) == 3
    # Of nine documents, q1 judges own and graded, twin has own's text, backward and alike are likely answers.
    says = "4 negatives for query 'q1', but 9 are wanted: set data.negatives to 4, or add documents"
    with pytest.raises(EffirError, match=says):
        load_examples(collection.folder, "train", 9)
    assert len(load_examples(collection.folder, "train", 4)) == 3


def test_an_example_joins_the_highest_graded_document_with_its_negatives(collection: Collection) -> None:
    write_negatives(collection, "train", 3, qualified=("",))
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
def test_too_few_negatives_name_the_file_and_the_fix(collection: Collection, asked: int) -> None:
    write_negatives(collection, "train", 3)
    with pytest.raises(EffirError, match=rf"negatives\.jsonl has 3 negatives for query 'q1', but {asked} are wanted"):
        load_examples(collection.folder, "train", asked)


def test_missing_negatives_name_the_file(collection: Collection) -> None:
    with pytest.raises(EffirError, match=r"negatives\.jsonl is missing"):
        load_examples(collection.folder, "train", 1)


def test_a_judged_document_that_the_corpus_lacks_is_named_with_the_fix(collection: Collection) -> None:
    with (collection.folder / "qrels/train.tsv").open("a") as qrels:
        qrels.write("q1\tgone\t9\n")
    with pytest.raises(
        EffirError, match=r"corpus\.jsonl has no document 'gone', which is judged or a negative: add it, or remove its"
    ):
        load_examples(collection.folder, "train", 0)


def test_a_negative_that_is_no_document_is_named(collection: Collection) -> None:
    rows = [{"query_id": query, "pos_ids": [], "neg_ids": ["gone"]} for query in QUERIES]
    write_jsonl(collection.folder / "negatives.jsonl", rows)
    with pytest.raises(EffirError, match="has no document 'gone', which is judged or a negative"):
        load_examples(collection.folder, "train", 1)


@pytest.mark.slow
@pytest.mark.skipif(not SCIFACT.exists(), reason="shared/data/beir/scifact.zip is not beside this checkout")
def test_scifacts_train_split_gives_an_example_for_every_judged_pair(tmp_path: Path) -> None:
    with zipfile.ZipFile(SCIFACT) as archive:
        archive.extractall(tmp_path)
    collection = open_collection(tmp_path / "scifact")
    write_negatives(collection, "train", 3)
    examples = load_examples(collection.folder, "train", 3)
    assert len(examples) == 919  # all of its qrels have grade 1
    assert {len(set(example.negatives)) for example in examples} == {3}
    assert not any(example.positive in example.negatives for example in examples)
