"""The service over HTTP: what it answers, what it refuses in one sentence, and how it stops."""

import asyncio
import base64
import json
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from click.testing import CliRunner
from fastapi.testclient import TestClient
from openai import OpenAI
from tokenizers.normalizers import Replace

from benchmarks.processes import Served, serving
from effir.cli import main
from effir.data.beir import Document
from effir.model.retriever import open_retriever
from effir.serve.app import Service, create_app
from effir.serve.documents import MOST_SEGMENTS, add_documents, create_index, delete_documents, read_manifest
from effir.serve.open_model import model_of, open_model
from effir.serve.run import listen
from effir.serve.schema import SearchRequest
from tests.serve.conftest import indexed

pytestmark = pytest.mark.slow


def ask(served: Served, query: str, k: int = 3) -> list[dict[str, Any]]:
    answer = requests.post(f"{served.address}/search", json={"query": query, "k": k}, timeout=30)
    answer.raise_for_status()
    return list(answer.json()["hits"])


def test_search_finds_what_the_model_finds(served: Served, retriever: Path) -> None:
    hits = ask(served, "w9 w10 w11", k=5)
    model = open_retriever(retriever)
    query = model.encode("w9 w10 w11", prompt_name="query")
    texts = {f"d{i}": f"w{i} w{i} w{i + 1} w{i + 2}" for i in range(4, 50)}
    scores = dict(zip(texts, model.encode(list(texts.values())) @ query, strict=True))
    assert [hit["id"] for hit in hits] == sorted(scores, key=lambda id_: -scores[id_])[:5]
    assert hits[0]["score"] == pytest.approx(float(scores[hits[0]["id"]]), abs=1e-5)
    assert hits[0]["text"].startswith("w")
    shared = requests.get(f"{served.address}/search", params={"q": "w9 w10 w11", "k": 5}, timeout=30)
    assert shared.json()["hits"] == hits


def test_a_search_returns_the_passage_that_matches_best_if_asked(retriever: Path, tmp_path: Path) -> None:
    filler = " ".join(f"w{i}" for i in range(20, 26))
    index = tmp_path / "index"
    model = model_of(str(retriever), precision="float32")
    encoder = open_model(model)
    create_index(index, [Document("d", "", f"{filler}. w9 w10 w11.")], encoder.documents, model, "Flat")
    service = Service(index, encoder)
    plainly = SearchRequest(query="w9 w10 w11", k=1)
    (plain,), (asked,) = service.search([plainly, plainly.model_copy(update={"snippets": True})])
    assert (plain.passage, asked.passage) == (None, f"{filler}. w9 w10 w11.")  # one passage of 9 words
    answer = TestClient(create_app(service)).get("/search", params={"q": "w9", "snippets": True}).json()
    assert answer["hits"][0]["passage"] == asked.passage
    assert "passage" not in TestClient(create_app(service)).get("/search", params={"q": "w9"}).json()["hits"][0]


def test_the_docs_need_no_other_host(served: Served) -> None:
    page = requests.get(f"{served.address}/docs", timeout=30).text
    addresses = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", page)
    assert len(addresses) >= 4  # a script, a style sheet, an icon and the schema
    for address in addresses:
        assert address.startswith("/"), address
        assert requests.get(served.address + address, timeout=30).status_code == 200
    assert "//" not in page


def test_vectors_are_those_of_sentence_transformers_also_by_openais_client(served: Served, retriever: Path) -> None:
    texts = ["w9 w10", "w20"]
    model = open_retriever(retriever)
    wanted = {"document": model.encode(texts), "query": model.encode(texts, prompt_name="query")}
    for kind, vectors in wanted.items():
        answer = requests.post(f"{served.address}/embed", json={"texts": texts, "kind": kind}, timeout=30).json()
        np.testing.assert_allclose(answer["vectors"], vectors, atol=1e-5)
    assert (answer["dimension"], answer["model"]) == (32, "tiny")
    assert not np.allclose(wanted["document"], wanted["query"], atol=1e-2)

    client = OpenAI(base_url=f"{served.address}/v1", api_key="none")
    for form in ("float", "base64"):
        found = client.embeddings.create(model="any", input=texts, encoding_format=form)  # type: ignore[arg-type]
        raw = [each.embedding for each in found.data]
        got = [np.frombuffer(base64.b64decode(one), "<f4") if isinstance(one, str) else one for one in raw]
        np.testing.assert_allclose(got, wanted["document"], atol=1e-5)
    assert found.usage.prompt_tokens == 5  # w9 w10 EOS, w20 EOS
    (one,) = client.embeddings.create(model="any", input="w9 w10", extra_body={"input_type": "query"}).data
    np.testing.assert_allclose(one.embedding, wanted["query"][0], atol=1e-5)
    also = requests.post(f"{served.address}/embed", json={"input": texts, "model": "any"}, timeout=30).json()
    assert [row["object"] for row in also["data"]] == ["embedding", "embedding"]


def test_null_is_as_if_a_field_were_absent(served: Served) -> None:
    nulls = {"encoding_format": None, "model": None, "user": None, "dimensions": None, "input_type": None}
    for path, body in (("v1/embeddings", {"input": "w9"}), ("search", {"query": "w9"}), ("embed", {"texts": ["w9"]})):
        also = nulls if path.startswith("v1") else {"k": None} if path == "search" else {"kind": None}
        answers = [requests.post(f"{served.address}/{path}", json={**body, **more}, timeout=30) for more in ({}, also)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].json() == answers[1].json()


def test_a_text_of_which_the_model_reads_nothing_is_refused(retriever: Path, tmp_path: Path) -> None:
    index = indexed(retriever, tmp_path / "index")
    encoder = open_model(read_manifest(index).model)
    encoder.reader.tokenizer.normalizer = Replace("\u200b", "")  # as tokenizers of encoders do
    client = TestClient(create_app(Service(index, encoder)))
    for path, body in (
        ("v1/embeddings", {"input": ["w9", "\u200b"]}),
        ("embed", {"texts": ["\u200b"]}),
        ("search", {"query": "\u200b"}),
    ):
        answer = client.post(f"/{path}", json=body)
        said = "the model reads nothing of the text '\\u200b': send a text with words"
        assert (answer.status_code, answer.json()["error"]["message"]) == (422, said)


def test_many_texts_are_worked_off_in_parts(served: Served, retriever: Path) -> None:
    texts = [f"w{i % 50 + 4} w{i % 7 + 4}" for i in range(150)]  # three parts of 64, 64 and 22
    client = OpenAI(base_url=f"{served.address}/v1", api_key="none")
    found = client.embeddings.create(model="any", input=texts).data
    assert [each.index for each in found] == list(range(150))
    wanted = open_retriever(retriever).encode(texts)
    np.testing.assert_allclose([each.embedding for each in found], wanted, atol=1e-5)


def test_health_metrics_and_the_schema_describe_the_service(served: Served) -> None:
    ask(served, "w9")
    health = requests.get(f"{served.address}/health", timeout=30).json()
    assert health == {"status": "ok", "model": "tiny", "documents": 46}
    metrics = requests.get(f"{served.address}/metrics", timeout=30).text
    assert 'effir_requests_total{path="/search",status="200"}' in metrics
    assert "effir_documents 46.0" in metrics
    described = requests.get(f"{served.address}/openapi.json", timeout=30).json()["paths"]
    assert {"/search", "/embed", "/v1/embeddings", "/health", "/metrics"} <= described.keys()


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/search", b"", 422, "the body"),
        ("/search", b"{}", 422, "query: field required"),
        ("/search", b'{"query": ""}', 422, "query: string should have at least 1 character"),
        ("/search", b'{"query": "  "}', 422, "query: string should have at least 1 character"),
        ("/search", b'{"query": 3}', 422, "query: input should be a valid string"),
        ("/search", b'{"query": "x", "k": 0}', 422, "k: input should be greater than or equal to 1"),
        ("/search", b'{"query": "x", "k": "3"}', 422, "k: input should be a valid integer"),
        ("/search", b'{"query": "x", "size": 3}', 422, "size: extra inputs are not permitted"),
        ("/search", b'{"query": "\\ud800"}', 422, "query: input should be a valid string"),
        ("/search", b'{"query": "\xff\xfe"}', 400, "the body is not JSON in UTF-8"),
        ("/search", b"query=x", 400, "the body is not JSON"),
        ("/search", b"[1]", 422, "the body"),
        ("/search", json.dumps({"query": "x" * 20_001}).encode(), 422, "query: string should have at most 20000"),
        ("/search", b'{"query": "' + b"x" * 10_000_000 + b'"}', 413, "the body has more than 1,000,000 bytes"),
        ("/embed", json.dumps({"texts": ["x"] * 2049}).encode(), 422, "texts: list should have at most 2048 items"),
        ("/v1/embeddings", json.dumps({"input": ["x"] * 2049}).encode(), 422, "input: list should have at most 2048"),
        ("/v1/embeddings", b'{"input": ""}', 422, "input.0: string should have at least 1 character"),
        ("/v1/embeddings", b'{"input": ["x", " "]}', 422, "input.1: string should have at least 1 character"),
        ("/v1/embeddings", b'{"input": null}', 422, "input: input should be a valid list"),
        ("/v1/embeddings", b'{"input": [[1, 2], [3]]}', 422, "input: it holds token ids"),
        ("/embed", b'{"texts": []}', 422, "texts: list should have at least 1 item"),
        ("/embed", b'{"texts": ["x"], "kind": "picture"}', 422, "kind: input should be 'document' or 'query'"),
        ("/v1/embeddings", b'{"input": "x", "dimensions": 7}', 422, "dimensions: must be 32"),
        ("/v1/embeddings", b'{"input": [1, 2]}', 422, "input: it holds token ids"),
        ("/nowhere", b"{}", 404, "there is no /nowhere: /docs lists the paths"),
        ("/health", b"{}", 405, "/health does not support POST"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_sentence(
    served: Served, path: str, body: bytes, status: int, said: str
) -> None:
    answer = requests.post(served.address + path, data=body, headers={"Content-Type": "application/json"}, timeout=30)
    assert answer.status_code == status, answer.text
    message = answer.json()["error"]["message"]
    assert message.startswith(said)
    assert "\n" not in message
    assert ask(served, "w9")  # and the next one is answered


def test_a_body_without_a_length_is_read_no_further_than_the_limit(served: Served) -> None:
    pieces = (b"x" * 100_000 for _ in range(100))
    answer = requests.post(f"{served.address}/search", data=pieces, timeout=30)
    assert answer.status_code == 413


def test_many_at_once_each_get_their_own_answer(served: Served) -> None:
    alone = {i: ask(served, f"w{i} w{i + 1}")[0]["id"] for i in range(4, 44)}
    with ThreadPoolExecutor(20) as clients:
        together = dict(zip(alone, clients.map(lambda i: ask(served, f"w{i} w{i + 1}")[0]["id"], alone), strict=True))
    assert together == alone
    metrics = requests.get(f"{served.address}/metrics", timeout=30).text
    counts = {
        line.split()[0]: float(line.split()[1])
        for line in metrics.splitlines()
        if "effir_batch_requests" in line and line[0] != "#"
    }
    assert counts["effir_batch_requests_sum"] > counts["effir_batch_requests_count"]  # some ran together


def test_documents_that_change_while_it_runs_are_noticed(retriever: Path, tmp_path: Path) -> None:
    with serving(indexed(retriever, tmp_path / "index")) as served:
        assert ask(served, "w55 w56")[0]["id"] != "new"
        encode = open_model(read_manifest(tmp_path / "index").model).documents
        add_documents(tmp_path / "index", [Document("new", "", "w60 w55 w56")], encode)
        assert ask(served, "w55 w56")[0]["id"] == "new"
        delete_documents(tmp_path / "index", ["new"])
        assert "new" not in {hit["id"] for hit in ask(served, "w55 w56", k=100)}


def test_segments_that_are_merged_under_a_search_still_answer_it(retriever: Path, tmp_path: Path) -> None:
    index = indexed(retriever, tmp_path / "index")
    encoder = open_model(read_manifest(index).model)
    add_documents(index, [Document("more", "", "w50 w51")], encoder.documents)
    service, every = Service(index, encoder), SearchRequest(query="w9", k=100)
    for i in range(MOST_SEGMENTS):
        add_documents(index, [Document(f"new{i}", "", f"w{i + 40} w55 w56")], encoder.documents)
    before, service._changed = service._changed, service._stamp()  # as where the merge comes after the look at it
    assert "more" in {hit.id for hit in service.search([every])[0]}
    service._changed = before
    assert {f"new{i}" for i in range(MOST_SEGMENTS)} <= {hit.id for hit in service.search([every])[0]}


def test_an_index_of_another_model_or_none_is_refused_and_counted(retriever: Path, tmp_path: Path) -> None:
    index = indexed(retriever, tmp_path / "index")
    with serving(index) as served:
        manifest = json.loads((index / "manifest.json").read_text(encoding="utf-8"))
        other = {**manifest, "model": {**manifest["model"], "fingerprint": "another"}}
        (index / "manifest.json").write_text(json.dumps(other), encoding="utf-8")
        answer = requests.post(f"{served.address}/search", json={"query": "w9"}, timeout=30)
        assert answer.status_code == 503
        assert "belongs to another model now: restart the service" in answer.json()["error"]["message"]
        (index / "manifest.json").unlink()
        answer = requests.post(f"{served.address}/search", json={"query": "w9"}, timeout=30)
        assert "was removed: build it again" in answer.json()["error"]["message"]
        metrics = requests.get(f"{served.address}/metrics", timeout=30).text
        assert 'effir_requests_total{path="/search",status="503"} 2.0' in metrics
        (index / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        assert ask(served, "w9")


def test_stopped_in_the_middle_it_finishes_what_it_began(retriever: Path, tmp_path: Path) -> None:
    with serving(indexed(retriever, tmp_path / "index")) as served:
        texts = {"texts": ["w9 " * 15] * 64}
        answers: list[int] = []

        def send() -> None:
            answers.append(requests.post(f"{served.address}/embed", json=texts, timeout=60).status_code)

        clients = [threading.Thread(target=send) for _ in range(40)]
        for client in clients:
            client.start()
        while 'path="/embed"' not in requests.get(f"{served.address}/metrics", timeout=30).text:
            time.sleep(0.01)
        assert len(answers) < 40
        served.process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join()
        assert answers == [200] * 40
        assert served.process.wait(timeout=40) == 0


def test_an_answer_is_sent_at_once_not_when_its_client_has_confirmed_the_last_packet() -> None:
    """Otherwise the second packet of an answer waits for the delayed confirmation of the first, 40 ms."""

    async def scenario() -> int:
        accepted = asyncio.Queue[asyncio.StreamWriter]()
        place = listen("127.0.0.1", 0)
        async with await asyncio.start_server(lambda _, writer: accepted.put_nowait(writer), sock=place):
            _, client = await asyncio.open_connection(*place.getsockname())
            server = await accepted.get()
            found = server.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            server.close()
            client.close()
        return int(found)

    assert asyncio.run(scenario()) != 0


def test_a_port_that_is_taken_is_one_sentence(retriever: Path, tmp_path: Path) -> None:
    index = indexed(retriever, tmp_path / "index")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(main, ["serve", str(index), "--port", port])
    assert result.exit_code == 2
    assert f"cannot listen at 127.0.0.1:{port} (Address already in use): choose another --host or" in result.output


def test_a_folder_without_index_is_one_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["serve", str(tmp_path)])
    assert result.exit_code == 2
    assert "holds no index: make one by `effir index build`" in result.output
