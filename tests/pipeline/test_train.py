"""`effir train` over the real pipeline: from a table to a comparison on held-out questions, and again in seconds."""

import csv
import json
import math
import re
import subprocess
import time
from typing import Any

import numpy as np
import pytest
import yaml

from effir.data.beir import Collection, open_collection
from tests.pipeline.conftest import Project, ran

pytestmark = pytest.mark.pipeline


def write_table(project: Project) -> None:
    """Write all questions of the tiny collection, and their answers, as a CSV file."""
    tiny = open_collection(project.root.parent / "tiny")
    documents = {document.id: document for document in tiny.documents()}
    with (project.root / "docs.csv").open("w", newline="", encoding="utf-8") as table:
        rows = csv.writer(table)
        rows.writerow(["question", "answer", "title"])
        for split in tiny.splits:
            for query, grades in tiny.qrels(split).items():
                answer = documents[next(iter(grades))]
                rows.writerow([tiny.queries(split)[query], answer.text, answer.title])


def train(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [project.python, "-m", "effir.cli", "train", "docs.csv", "--query", "question", "--document", "answer"]
    return subprocess.run(
        [*command, "--test-share", "0.3", "--json", *arguments],
        cwd=project.root,
        env=project.env,
        capture_output=True,
        text=True,
        timeout=1800,  # of a busy machine
        check=False,
    )


def ndcg_by_hand(model: str, collection: Collection) -> float:
    """Mean nDCG@10 by sentence-transformers itself; with one answer to a question that is 1 / log2(rank + 1)."""
    from sentence_transformers import SentenceTransformer

    retriever, documents = SentenceTransformer(model), list(collection.documents())
    split = collection.evaluation_split()
    vectors = retriever.encode([document.content for document in documents], prompt_name="document")
    gains = []
    for query, text in collection.queries(split).items():
        ranking = np.argsort(-(vectors @ retriever.encode(text, prompt_name="query")))[:10]
        answers = collection.qrels(split)[query]
        assert len(answers) == 1
        ranks = [rank for rank, row in enumerate(ranking, start=1) if documents[row].id in answers]
        gains.append(1 / math.log2(ranks[0] + 1) if ranks else 0.0)
    return float(np.mean(gains))


def test_a_table_becomes_a_retriever_that_is_compared_on_held_out_questions(fresh: Project) -> None:
    write_table(fresh)
    before = (fresh.root / "params.yaml").read_text()
    short = train(fresh, "--minutes", "1")
    assert short.returncode == 2
    assert (fresh.root / "params.yaml").read_text() == before
    enough = re.search(r"Give (--minutes) (\d+) or more", short.stderr)
    assert enough, short.stderr

    done = train(fresh, *enough.groups())
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert {"finetune_full", "distill", "finetune", "evaluate@docs", "register"} <= set(ran(done.stderr))
    params = yaml.safe_load((fresh.root / "params.yaml").read_text())
    assert {name: params[name]["steps"] for name in found["steps"]} == found["steps"]
    assert params["data"]["train"] == "docs"
    assert params["data"]["eval"] == ["docs"]

    outcome = found["outcome"]
    collection = open_collection(fresh.root / "data/eval/docs")
    assert outcome["questions"] == found["questions"]["test"] == len(collection.queries("test"))
    systems = {system["name"]: system for system in outcome["systems"]}
    assert list(systems) == ["effir", "uncompressed", "BM25", "small"]
    assert all(system["low"] <= system["ndcg"] <= system["high"] for system in systems.values())
    metrics = fresh.json("metrics/docs.json")
    assert systems["effir"]["ndcg"] == pytest.approx(metrics["ndcg_at_10"])
    assert systems["BM25"]["ndcg"] == pytest.approx(metrics["bm25_ndcg_at_10"])
    by_hand = ndcg_by_hand(str(fresh.root / "models/full"), collection)
    assert systems["uncompressed"]["ndcg"] == pytest.approx(by_hand, abs=0.03)  # bfloat16 may swap neighbours
    assert outcome["advice"]

    started = time.monotonic()
    again = train(fresh, *enough.groups())
    assert again.returncode == 0, again.stderr
    assert time.monotonic() - started < 60
    assert not set(ran(again.stderr)) - {"register"}
    repeated = json.loads(again.stdout)
    assert repeated["changes"] == []
    assert repeated["outcome"] == outcome
