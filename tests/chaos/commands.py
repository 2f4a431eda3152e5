"""The short commands under fire: `effir index build`, `add`, `delete`, `effir promote`, `rollback`, `effir export`."""

import json
import shutil
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from effir.data.beir import Document, write_collection
from effir.files import settled, sha256_of, write_jsonl
from tests.chaos.fork import Ended
from tests.chaos.scenario import Scenario, effir

ROOT = Path(__file__).parents[2]
FIRST = [Document(f"d{i}", f"w{i}", f"w{i} w{i + 1} w{i + 2}") for i in range(4, 44)]
MORE = [Document(f"d{i}", f"w{i}", f"w{i + 3} w{i}") for i in range(34, 54)]  # half of them replace


class Index(Scenario):
    """A command on an index of documents; a reader finds each document with its vector."""

    def __init__(self, model: Path) -> None:
        self.model = model

    def result(self) -> Any:
        from effir.serve.documents import MANIFEST, DocumentStore

        if not Path("index", MANIFEST).exists():
            return None
        store = DocumentStore(Path("index"))
        pairs = ((d, v) for part in store._segments for d, v in zip(part.documents(), part.vectors(), strict=True))
        return sorted([d.id, d.text, sha256(v.tobytes()).hexdigest()] for d, v in pairs)

    def write(self, root: Path) -> None:
        for name, documents in (("first", FIRST), ("more", MORE)):
            rows = ({"_id": d.id, "title": d.title, "text": d.text} for d in documents)
            write_jsonl(root / f"{name}.jsonl", rows)

    def build(self) -> None:
        effir("index", "build", "first.jsonl", "index", "--model", str(self.model), "--precision", "float32")


class Build(Index):
    """`effir index build` of a new index."""

    name = "index build"

    def prepare(self, root: Path) -> None:
        self.write(root)

    def act(self) -> None:
        self.build()

    def was_done(self, repeated: Ended) -> bool:
        return "holds an index already" in repeated.output


class Add(Index):
    """`effir index add`, which replaces documents and merges segments."""

    name = "index add"

    def prepare(self, root: Path) -> None:
        from effir.serve.documents import MOST_SEGMENTS, add_documents, create_index
        from effir.serve.open_model import model_of, open_model

        self.write(root)
        model = replace(model_of(str(self.model), precision="float32"), name="tiny")
        encode = open_model(model).documents
        create_index(root / "index", FIRST, encode, model, "Flat")
        for i in range(MOST_SEGMENTS - 1):
            add_documents(root / "index", [Document(f"e{i}", "", f"w{i + 4} w60")], encode)

    def act(self) -> None:
        effir("index", "add", "more.jsonl", "index")


class Delete(Add):
    """`effir index delete` of documents in several segments."""

    name = "index delete"

    def act(self) -> None:
        effir("index", "delete", "index", "d4", "d5", "e0", "e3")

    def was_done(self, repeated: Ended) -> bool:
        return "has no document" in repeated.output


@cache
def empty_store(place: Path) -> Path:
    """Create MLflow's tables once: they take seconds."""
    from mlflow import MlflowClient

    path = place / "empty.db"
    if not path.exists():
        address = f"sqlite:///{place / 'draft.db'}"
        MlflowClient(address, address).search_experiments()
        (place / "draft.db").rename(path)
    return path


class Promote(Scenario):
    """`effir promote` of a better version; a reader finds the aliases."""

    name = "promote"

    def __init__(self, work: Path) -> None:
        self.work = work

    def prepare(self, root: Path) -> None:
        from effir.tracking.store import open_store

        shutil.copyfile(ROOT / "params.yaml", root / "params.yaml")
        shutil.copyfile(empty_store(self.work), root / "mlflow.db")
        for ndcg in (0.5, 0.55, 0.6):
            self.register(root, ndcg)
        client = open_store().client
        client.set_registered_model_alias("effir-retriever", "champion", "2")
        client.set_registered_model_alias("effir-retriever", "previous", "1")

    def register(self, root: Path, ndcg: float) -> None:
        from effir.tracking.runs import finish_pipeline, pipeline_run
        from effir.tracking.store import open_store

        queries = root / "reports/apidocs-queries.json"
        queries.parent.mkdir(exist_ok=True)
        queries.write_text(json.dumps({f"q{i}": {"ndcg_at_10": ndcg + i / 5000} for i in range(400)}))
        metrics = {"apidocs/ndcg_at_10": ndcg, "cost/document_speedup": 1.5, "cost/kept_share": 0.6}
        finish_pipeline(
            "variant", params={"ndcg": ndcg}, stages=[], records=root / "runs", metrics=metrics,
            artifacts=[queries.relative_to(root)], hashes={"data/eval/apidocs": "abc"},
        )  # fmt: skip
        client, run, name = open_store().client, pipeline_run({"ndcg": ndcg}), "effir-retriever"
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        found = client.create_model_version(name, f"runs:/{run}/model", run, {"variant": "d10"})
        client.set_registered_model_alias(name, "challenger", found.version)

    def act(self) -> None:
        effir("promote")

    def result(self) -> Any:
        from effir.tracking.store import open_store

        found = open_store().client.get_registered_model("effir-retriever").aliases
        return {alias: int(version) for alias, version in sorted(found.items())}

    def allowed(self, before: Any, after: Any, now: Any) -> bool:
        """The champion is the old or the new one, and once it is the new one the old one is known."""
        return now in (before, after, {**before, "previous": before["champion"]})

    def was_done(self, repeated: Ended) -> bool:
        return "is the champion already" in repeated.output


class Rollback(Promote):
    """`effir rollback` to the version that served before."""

    name = "rollback"

    def act(self) -> None:
        effir("rollback")

    def allowed(self, before: Any, after: Any, now: Any) -> bool:
        return now in (before, after, {**before, "champion": before["previous"]})

    def was_done(self, repeated: Ended) -> bool:
        return "nothing to roll back to" in repeated.output


class Export(Scenario):
    """`effir export` over a graph that is there already."""

    name = "export"

    def __init__(self, model: Path) -> None:
        self.model = model

    def prepare(self, root: Path) -> None:
        shutil.copyfile(ROOT / "params.yaml", root / "params.yaml")
        shutil.copytree(self.model, root / "retriever")
        write_jsonl(root / "texts.jsonl", ({"text": f"w{i % 50 + 4} w{i % 40 + 9}"} for i in range(64)))
        queries = {f"q{i}": f"w{i}" for i in range(4, 14)}
        write_collection(root / "dev", FIRST, queries, {"dev": {f"q{i}": {f"d{i}": 1} for i in range(4, 14)}})
        settled(root / "retriever/openvino").mkdir()
        (root / "retriever/openvino/float32").mkdir()
        (root / "retriever/openvino/float32/old.xml").write_text("the graph of an earlier export")

    def act(self) -> None:
        options = ["--dev", "dev", "--calibration", "texts.jsonl", "--max-drop", "1"]
        effir("export", "retriever", "--precision", "float32", *options)

    def result(self) -> Any:
        graph = settled(Path("retriever/openvino/float32"))
        return sha256_of(graph) if graph.is_dir() else None
