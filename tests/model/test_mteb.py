"""MTEB finds in a retriever's folder, untouched, what effir finds."""

from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from sentence_transformers import SentenceTransformer

from effir.data.beir import Collection, Document, write_collection
from effir.evaluation.metrics import evaluate_run
from effir.serve.documents import DocumentStore, create_index
from effir.serve.open_model import model_of, open_model
from tests.serve.conftest import retriever as retriever  # the fixture

pytestmark = pytest.mark.slow

METADATA: dict[str, Any] = {
    "name": "EffirTiny",
    "dataset": {"path": "effir/tiny", "revision": "1"},
    "description": "A tiny collection.",
    "reference": None,
    "type": "Retrieval",
    "category": "t2t",
    "modalities": ["text"],
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
    "main_score": "ndcg_at_10",
    "date": None,
    "domains": None,
    "task_subtypes": None,
    "license": None,
    "annotations_creators": None,
    "dialect": None,
    "sample_creation": None,
    "bibtex_citation": None,
}


def task_of(collection: Collection) -> AbsTaskRetrieval:
    class Tiny(AbsTaskRetrieval):
        metadata = mteb.TaskMetadata(**METADATA)

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            queries = [{"id": id_, "text": text} for id_, text in collection.queries("test").items()]
            corpus = [{"id": d.id, "title": d.title, "text": d.text} for d in collection.documents()]
            split = {"queries": Dataset.from_list(queries), "corpus": Dataset.from_list(corpus), "top_ranked": None}
            self.dataset = {"default": {"test": {**split, "relevant_docs": collection.qrels("test")}}}  # type: ignore[typeddict-item]
            self.data_loaded = True

    return Tiny()


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """Documents of random words, and questions of some words of one of them: the tiny model finds a part of them."""
    chance = np.random.default_rng(0)
    documents = [
        Document(f"d{i}", f"w{i % 50 + 4}", " ".join(f"w{w}" for w in chance.integers(4, 60, 8))) for i in range(200)
    ]
    queries = {f"q{i}": " ".join(documents[7 * i].text.split()[:5]) for i in range(25)}
    judged = {f"q{i}": {f"d{7 * i}": 2, f"d{7 * i + 1}": 1} for i in range(25)}
    return write_collection(tmp_path / "tiny", documents, queries, {"test": judged})


def test_mteb_gives_the_same_ndcg(retriever: Path, collection: Collection, tmp_path: Path) -> None:
    model = model_of(str(retriever), precision="float32")
    encoder = open_model(model)
    create_index(tmp_path / "index", collection.documents(), encoder.documents, model, "Flat")
    asked = collection.queries("test")
    found = DocumentStore(tmp_path / "index").search(encoder.queries(list(asked.values())), 100)
    run = {query: {hit.id: hit.score for hit in hits} for query, hits in zip(asked, found, strict=True)}
    ours = evaluate_run(run, collection.qrels("test")).by_query("ndcg_at_10")

    opened = SentenceTransformer(str(retriever), trust_remote_code=True)
    result = mteb.evaluate(opened, task_of(collection), cache=None, co2_tracker=False, show_progress_bar=False)
    theirs = result.task_results[0].get_score()
    assert theirs == pytest.approx(float(np.mean(list(ours.values()))), abs=1e-3)
    assert 0.05 < theirs < 0.999  # neither nothing nor everything is found, so a difference would show
