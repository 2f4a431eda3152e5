"""The HTTP service: search, embeddings, health, metrics and a page to search in."""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from effir.encoding.encoder import TextEncoder, Vectors
from effir.errors import EffirError
from effir.serve import schema
from effir.serve.batching import Batcher
from effir.serve.documents import MANIFEST, DocumentStore
from effir.serve.limits import BodyLimit, UnreadTextError, answer_errors, refusal
from effir.serve.segments import Found
from effir.serve.snippets import best_passages

WAITING = 1024  # requests that may wait; further ones are refused with 503
TOGETHER = 32  # texts in a batch
PART = 64  # texts of one request that are encoded before other requests have their turn
USUAL = 8, 32
"""Texts and tokens for which kernels are prepared at the start: it takes seconds once, instead of some ten milliseconds
in each of the first hundreds of requests."""
PATHS = {"/", "/search", "/embed", "/v1/embeddings", "/health", "/metrics"}
PAGE = Path(__file__).with_name("page.html")


class Service:
    """An index and the encoder of its model; the next search reads the index again if it has changed on disk."""

    def __init__(self, folder: Path, encoder: TextEncoder) -> None:
        self.folder, self.encoder = folder, encoder
        self._changed, self.index = self._stamp(), DocumentStore(folder)
        self.model = self.index.manifest.model
        encoder.warm(*USUAL)

    def search(self, searches: Sequence[schema.SearchRequest]) -> list[list[schema.Hit]]:
        """Run searches in one batch; EffirError if the index is missing or belongs to another model now."""
        self._update()
        vectors, most = self.encoder.queries([each.query for each in searches]), max(each.k for each in searches)
        found = self.index.search(vectors, most)
        return [self._hits(*each) for each in zip(searches, vectors, found, strict=True)]

    def _hits(self, search: schema.SearchRequest, vector: Vectors, found: Sequence[Found]) -> list[schema.Hit]:
        hits = [schema.Hit(**asdict(each)) for each in found[: search.k]]
        if search.snippets:
            for hit, passage in zip(hits, best_passages(self.encoder, vector, [h.text for h in hits]), strict=True):
                hit.passage = passage
        return hits

    def _update(self) -> None:
        stamp = self._stamp()
        if stamp != self._changed:
            index = DocumentStore(self.folder)
            if index.manifest.model.key != self.model.key:
                raise EffirError(f"the index in {self.folder} belongs to another model now: restart the service")
            self._changed, self.index = stamp, index

    def _stamp(self) -> int:
        try:
            return (self.folder / MANIFEST).stat().st_mtime_ns
        except OSError:
            raise EffirError(f"the index in {self.folder} was removed: build it again, restart the service") from None

    def embed(self, requests: Sequence[schema.EmbedRequest]) -> list[Vectors]:
        """Encode the texts of each request: (texts, dimension) float32."""
        found: list[Vectors] = [np.empty(0, np.float32)] * len(requests)
        for kind, encode in (("document", self.encoder.documents), ("query", self.encoder.queries)):
            mine = [i for i, request in enumerate(requests) if request.kind == kind]
            if mine:
                vectors = encode([text for i in mine for text in requests[i].texts])
                ends = np.cumsum([len(requests[i].texts) for i in mine])
                for i, part in zip(mine, np.split(vectors, ends[:-1]), strict=True):
                    found[i] = part
        return found

    def tokens(self, texts: Sequence[str], kind: str) -> int:
        """Count the tokens that the model reads of some texts; UnreadTextError if it reads nothing of one."""
        if unread := self.encoder.reader.unread(texts, kind):
            text = texts[unread[0]][:40]
            raise UnreadTextError(f"the model reads nothing of the text {text!r}: send a text with words")
        return sum(map(len, self.encoder.reader.read(texts, kind)))


class Metrics:
    """What `/metrics` returns, in Prometheus's format."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made: Any = {"registry": self.registry}
        self.requests = Counter("effir_requests", "Requests answered.", ["path", "status"], **made)
        self.seconds = Histogram("effir_request_seconds", "Seconds from request to answer.", ["path"], **made)
        buckets = (1, 2, 4, 8, 16, TOGETHER)
        self.batches = Histogram("effir_batch_requests", "Requests in a batch.", buckets=buckets, **made)
        self.documents = Gauge("effir_documents", "Documents in the index.", **made)


def create_app(service: Service) -> FastAPI:
    """Make the application of an opened index. `/docs` needs no internet: its scripts are served from here."""
    metrics, executor = Metrics(), ThreadPoolExecutor(1)  # one batch at a time: it uses all cores
    limits: dict[str, Any] = {"most": TOGETHER, "waiting": WAITING, "few": service.encoder.few}
    limits["seen"] = metrics.batches.observe

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        yield
        executor.shutdown()

    app = FastAPIOffline(title="effir", description="Search and embeddings by one small retriever.", lifespan=lifespan)
    app.add_middleware(BodyLimit)
    answer_errors(app)
    _count(app, metrics)
    _add_search(app, service, Batcher(service.search, executor, **limits))
    _add_embeddings(app, service, Batcher(service.embed, executor, **limits, size=lambda each: len(each.texts)))
    _add_state(app, service, metrics)
    return app


def _count(app: FastAPI, metrics: Metrics) -> None:
    @app.middleware("http")
    async def _counted(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        started, path = time.perf_counter(), request.url.path if request.url.path in PATHS else "other"
        status = 500
        try:
            response = await answer(request)
            status = response.status_code
            return response
        finally:
            metrics.requests.labels(path, str(status)).inc()
            metrics.seconds.labels(path).observe(time.perf_counter() - started)


def _add_search(app: FastAPI, service: Service, searching: Batcher[schema.SearchRequest, list[schema.Hit]]) -> None:
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def _page() -> str:
        return PAGE.read_text(encoding="utf-8")

    @app.post("/search", response_model_exclude_none=True)
    async def _search(body: schema.SearchRequest) -> schema.SearchAnswer:
        """Find the documents nearest to a query."""
        service.tokens([body.query], "query")  # refuses one that says nothing, alone: its batch is answered
        return schema.SearchAnswer(hits=await searching.do(body))

    @app.get("/search", response_model_exclude_none=True)
    async def _find(q: schema.Text, k: schema.Hits = 10, snippets: bool = False) -> schema.SearchAnswer:
        """Find the documents nearest to a query, by an address that can be shared."""
        return await _search(schema.SearchRequest(query=q, k=k, snippets=snippets))


def _add_embeddings(app: FastAPI, service: Service, embedding: Batcher[schema.EmbedRequest, Vectors]) -> None:
    async def _embedded(texts: list[str], kind: Literal["document", "query"]) -> tuple[Vectors, int]:
        """Return the vectors and the tokens of texts; part by part, so that requests of few texts need not wait."""
        count = await asyncio.to_thread(service.tokens, texts, kind)
        parts = [texts[start : start + PART] for start in range(0, len(texts), PART)]
        return np.concatenate([await embedding.do(schema.EmbedRequest(texts=part, kind=kind)) for part in parts]), count

    @app.post("/embed", response_model=schema.EmbedAnswer | schema.OpenAIAnswer)
    async def _embed(body: schema.EitherRequest) -> schema.EmbedAnswer | schema.OpenAIAnswer | Response:
        """Encode texts as unit vectors; with `input` instead of `texts`, in OpenAI's format."""
        if isinstance(body, schema.OpenAIRequest):
            return await _openai(body)
        vectors, _ = await _embedded(body.texts, body.kind)
        return schema.EmbedAnswer(model=service.model.name, dimension=vectors.shape[1], vectors=vectors.tolist())

    @app.post("/v1/embeddings", response_model=schema.OpenAIAnswer)
    async def _openai(body: schema.OpenAIRequest) -> schema.OpenAIAnswer | Response:
        """Encode texts as unit vectors, in the format of OpenAI's embeddings."""
        vectors, count = await _embedded(body.input, body.input_type)
        if body.dimensions not in (None, vectors.shape[1]):
            return refusal(422, f"dimensions: must be {vectors.shape[1]}, the dimension of this model")
        written = [_written(each, body.encoding_format) for each in vectors]
        return schema.OpenAIAnswer(
            data=[schema.OpenAIEmbedding(index=i, embedding=each) for i, each in enumerate(written)],
            model=body.model or service.model.name,
            usage=schema.OpenAIUsage(prompt_tokens=count, total_tokens=count),
        )


def _add_state(app: FastAPI, service: Service, metrics: Metrics) -> None:
    metrics.documents.set_function(lambda: service.index.count)

    @app.get("/health")
    async def _health() -> schema.Health:
        """Say that the service runs, and what it serves."""
        return schema.Health(model=service.model.name, documents=service.index.count)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def _metrics() -> str:
        """Return requests, seconds and batch sizes, in Prometheus's format."""
        return generate_latest(metrics.registry).decode()


def _written(vector: Vectors, form: str) -> list[float] | str:
    numbers: list[float] = vector.tolist()
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if form == "base64" else numbers
