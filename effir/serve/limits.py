"""Limit the size of requests, and answer every error of a client with one sentence."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from effir.errors import EffirError
from effir.serve.batching import TooMuchWaitingError
from effir.serve.schema import OPENAI, OWN

LARGEST = 1_000_000  # bytes of a body
LARGER = {"/embed": 10_000_000, "/v1/embeddings": 10_000_000}  # of requests that may hold many texts


class UnreadTextError(ValueError):
    """A text of which the model reads nothing."""


def refusal(status: int, sentence: str, **headers: str) -> JSONResponse:
    """Answer with one sentence, in the format that OpenAI's clients read."""
    return JSONResponse({"error": {"message": sentence, "type": "invalid_request_error"}}, status, headers or None)


class BodyLimit:
    """Refuse a body of more bytes than its path allows, and read no more than that."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        declared, limit = dict(scope["headers"]).get(b"content-length", b"0"), LARGER.get(scope["path"], LARGEST)
        is_large, size, messages = declared.isdigit() and int(declared) > limit, 0, list[Message]()
        while not is_large and (not messages or messages[-1].get("more_body")):
            messages.append(await receive())
            size += len(messages[-1].get("body", b""))
            is_large = size > limit
        if is_large:
            said = refusal(413, f"the body has more than {limit:,} bytes: send fewer or shorter texts")
            return await said(scope, receive, send)
        rest = iter(messages)

        async def replay() -> Message:
            return next(rest, None) or await receive()

        await self.app(scope, replay, send)


def answer_errors(app: FastAPI) -> None:
    """Answer each kind of error with a sentence."""

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return refusal(400, "the body is not JSON: send an object as /docs shows")
        where = ".".join(str(part) for part in first["loc"] if part not in ("body", OWN, OPENAI)) or "the body"
        problem = str(first["msg"]).removeprefix("Value error, ")
        return refusal(422, f"{where}: {problem[0].lower()}{problem[1:]}; /docs lists what is allowed")

    @app.exception_handler(UnreadTextError)
    async def _unread(request: Request, error: UnreadTextError) -> JSONResponse:
        return refusal(422, str(error))

    @app.exception_handler(HTTPException)
    async def _refused(request: Request, error: HTTPException) -> JSONResponse:
        said = {
            400: "the body is not JSON in UTF-8: send an object as /docs shows",
            404: f"there is no {request.url.path}: /docs lists the paths",
            405: f"{request.url.path} does not support {request.method}: /docs lists the methods",
        }
        return refusal(error.status_code, said.get(error.status_code, str(error.detail)))

    @app.exception_handler(EffirError)
    async def _broken(request: Request, error: EffirError) -> JSONResponse:
        return refusal(503, str(error))

    @app.exception_handler(TooMuchWaitingError)
    async def _busy(request: Request, error: TooMuchWaitingError) -> JSONResponse:
        return refusal(503, "too many requests are waiting: try again in a second", **{"Retry-After": "1"})
