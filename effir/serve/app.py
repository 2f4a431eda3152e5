"""The service: search, vectors, health, figures, and one page."""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from effir.encoding.encoder import TextEncoder
from effir.errors import EffirError
from effir.serve.batching import Batcher
from effir.serve.documents import MANIFEST, DocumentStore, Found
from effir.serve.limits import BodyLimit, refusal, say_refusals
from effir.serve.schema import (
    MOST_HITS,
    EitherRequest,
    EmbedAnswer,
    Health,
    Hit,
    OpenAIAnswer,
    OpenAIEmbedding,
    OpenAIRequest,
    OpenAIUsage,
    SearchAnswer,
    SearchRequest,
    Text,
)

WAITING = 1024
"""Requests that may wait; more are told to come again."""
TOGETHER = 32
"""Texts worked on at a time, or those of one request."""
USUAL = 8, 32
"""The texts together and the tokens of each for which kernels are prepared before the first request: seconds once,
instead of some ten milliseconds in each of the first hundreds of requests."""
PATHS = {"/", "/search", "/embed", "/v1/embeddings", "/health", "/metrics"}
PAGE = Path(__file__).with_name("page.html")

Asked = tuple[str, int]
Told = tuple[Sequence[str], str]
Vectors = NDArray[np.float32]


class Service:
    """An index and the encoder of its model; a change of the index on disk is noticed at the next search."""

    def __init__(self, folder: Path, encoder: TextEncoder) -> None:
        self.folder, self.encoder = folder, encoder
        self._changed, self.index = self._stamp(), DocumentStore(folder)
        self._model = self.index.manifest.model
        encoder.warm(*USUAL)

    @property
    def model(self) -> str:
        """The model as the index names it."""
        return self._model.name

    def search(self, asked: Sequence[Asked]) -> list[list[Found]]:
        """Find for each (query, k); EffirError where the index is gone, or another model's by now."""
        self._notice()
        vectors, most = self.encoder.queries([query for query, _ in asked]), max(k for _, k in asked)
        try:
            found = self.index.search(vectors, most)
        except OSError:  # its texts were merged into other segments just now
            self._notice(surely=True)
            found = self.index.search(vectors, most)
        return [hits[:k] for hits, (_, k) in zip(found, asked, strict=True)]

    def _notice(self, surely: bool = False) -> None:
        stamp = self._stamp()
        if stamp != self._changed or surely:
            index = DocumentStore(self.folder)
            if index.manifest.model.key != self._model.key:
                raise EffirError(f"{self.folder} is an index of another model now: start the service again")
            self._changed, self.index = stamp, index

    def _stamp(self) -> int:
        try:
            return (self.folder / MANIFEST).stat().st_mtime_ns
        except OSError:
            raise EffirError(f"{self.folder} holds no index any more: build it again, and start the service") from None

    def embed(self, told: Sequence[Told]) -> list[Vectors]:
        """Encode for each (texts, kind): (texts, dimension) float32."""
        found: list[Vectors] = [np.empty(0, np.float32)] * len(told)
        for kind, encode in (("document", self.encoder.documents), ("query", self.encoder.queries)):
            mine = [i for i, (_, wanted) in enumerate(told) if wanted == kind]
            if mine:
                vectors = encode([text for i in mine for text in told[i][0]])
                ends = np.cumsum([len(told[i][0]) for i in mine])
                for i, part in zip(mine, np.split(vectors, ends[:-1]), strict=True):
                    found[i] = part
        return found

    def tokens(self, texts: Sequence[str], kind: str) -> int:
        """Count the tokens that are read of some texts."""
        return sum(len(ids) for ids in self.encoder.reader.read(texts, kind))


class Figures:
    """What `/metrics` tells, in Prometheus's format."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made: Any = {"registry": self.registry}
        self.requests = Counter("effir_requests", "Requests answered.", ["path", "status"], **made)
        self.seconds = Histogram("effir_request_seconds", "Seconds from request to answer.", ["path"], **made)
        buckets = (1, 2, 4, 8, 16, TOGETHER)
        self.batches = Histogram("effir_batch_requests", "Requests worked on together.", buckets=buckets, **made)
        self.documents = Gauge("effir_documents", "Documents in the index.", **made)


def create_app(service: Service) -> FastAPI:
    """Make the application over an opened index."""
    figures, executor = Figures(), ThreadPoolExecutor(1)  # one batch at a time: it has all cores
    limits: dict[str, Any] = {"most": TOGETHER, "waiting": WAITING, "few": service.encoder.few}
    limits["seen"] = figures.batches.observe

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        yield
        executor.shutdown()

    app = FastAPI(title="effir", description="Search and embeddings by one small retriever.", lifespan=lifespan)
    app.add_middleware(BodyLimit)
    say_refusals(app)
    _count(app, figures)
    _answer_searches(app, Batcher(service.search, executor, **limits))
    _answer_texts(app, service, Batcher(service.embed, executor, **limits, size=lambda told: len(told[0])))
    _tell(app, service, figures)
    return app


def _count(app: FastAPI, figures: Figures) -> None:
    @app.middleware("http")
    async def _counted(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        started, path = time.perf_counter(), request.url.path if request.url.path in PATHS else "other"
        status = 500
        try:
            response = await answer(request)
            status = response.status_code
            return response
        finally:
            figures.requests.labels(path, str(status)).inc()
            figures.seconds.labels(path).observe(time.perf_counter() - started)


def _answer_searches(app: FastAPI, searching: Batcher[Asked, list[Found]]) -> None:
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def _page() -> str:
        return PAGE.read_text(encoding="utf-8")

    @app.post("/search")
    async def _search(body: SearchRequest) -> SearchAnswer:
        """Find the documents nearest to a query."""
        hits = await searching.do((body.query, body.k))
        return SearchAnswer(hits=[Hit(**asdict(hit)) for hit in hits])

    @app.get("/search")
    async def _find(q: Text, k: Annotated[int, Query(ge=1, le=MOST_HITS)] = 10) -> SearchAnswer:
        """Find the documents nearest to a query, by an address that can be shared."""
        return await _search(SearchRequest(query=q, k=k))


def _answer_texts(app: FastAPI, service: Service, embedding: Batcher[Told, Vectors]) -> None:
    @app.post("/embed", response_model=EmbedAnswer | OpenAIAnswer)
    async def _embed(body: EitherRequest) -> EmbedAnswer | OpenAIAnswer | Response:
        """Turn texts into unit vectors; with `input` instead of `texts`, in OpenAI's format."""
        if isinstance(body, OpenAIRequest):
            return await _openai(body)
        vectors = await embedding.do((body.texts, body.kind))
        return EmbedAnswer(model=service.model, dimension=vectors.shape[1], vectors=vectors.tolist())

    @app.post("/v1/embeddings", response_model=OpenAIAnswer)
    async def _openai(body: OpenAIRequest) -> OpenAIAnswer | Response:
        """Turn texts into unit vectors, in the format of OpenAI's embeddings."""
        texts = [body.input] if isinstance(body.input, str) else body.input
        vectors = await embedding.do((texts, body.input_type))
        if body.dimensions not in (None, vectors.shape[1]):
            return refusal(422, f"dimensions: this model has {vectors.shape[1]}, and no others")
        count = await asyncio.to_thread(service.tokens, texts, body.input_type)
        return OpenAIAnswer(
            data=[OpenAIEmbedding(index=i, embedding=each) for i, each in _written(vectors, body.encoding_format)],
            model=body.model or service.model,
            usage=OpenAIUsage(prompt_tokens=count, total_tokens=count),
        )


def _tell(app: FastAPI, service: Service, figures: Figures) -> None:
    figures.documents.set_function(lambda: service.index.count)

    @app.get("/health")
    async def _health() -> Health:
        """Tell that the service is there, and what it serves."""
        return Health(model=service.model, documents=service.index.count)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def _metrics() -> str:
        """Tell requests, seconds and batch sizes, in Prometheus's format."""
        return generate_latest(figures.registry).decode()


def _written(vectors: Vectors, form: str) -> Iterator[tuple[int, list[float] | str]]:
    for i, vector in enumerate(vectors):
        if form == "base64":
            yield i, base64.b64encode(vector.astype("<f4").tobytes()).decode()
        else:
            yield i, vector.tolist()
