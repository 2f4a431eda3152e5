"""What is refused before it is read, and how every refusal is said: one sentence."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from effir.errors import EffirError
from effir.serve.batching import TooMuchWaitingError
from effir.serve.schema import OPENAI, OWN

LARGEST = 1_000_000  # bytes of a body
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def refusal(status: int, sentence: str, **headers: str) -> JSONResponse:
    """Say one sentence, in the form in which OpenAI's clients look for it."""
    return JSONResponse({"error": {"message": sentence, "type": "invalid_request_error"}}, status, headers or None)


class BodyLimit:
    """Reads a body no further than ``LARGEST``, and refuses a larger one."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        is_large, size, messages = declared.isdigit() and int(declared) > LARGEST, 0, list[Message]()
        while not is_large and (not messages or messages[-1].get("more_body")):
            messages.append(await receive())
            size += len(messages[-1].get("body", b""))
            is_large = size > LARGEST
        if is_large:
            said = refusal(413, f"the body has more than {LARGEST:,} bytes: send fewer or shorter texts")
            return await said(scope, receive, send)
        rest = iter(messages)

        async def replay() -> Message:
            return next(rest, None) or await receive()

        await self.app(scope, replay, send)


def say_refusals(app: FastAPI) -> None:
    """Let every error of a client be one sentence."""

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return refusal(400, "the body is not JSON: send an object, as /docs shows it")
        where = ".".join(str(part) for part in first["loc"] if part not in ("body", OWN, OPENAI)) or "the body"
        problem = str(first["msg"]).removeprefix("Value error, ")
        return refusal(422, f"{where}: {problem[0].lower()}{problem[1:]}; /docs shows what is allowed")

    @app.exception_handler(HTTPException)
    async def _refused(request: Request, error: HTTPException) -> JSONResponse:
        said = {
            400: "the body is not JSON in UTF-8: send an object, as /docs shows it",
            404: f"{request.url.path} is not here: /docs shows what is",
            405: f"{request.url.path} does not answer {request.method}: /docs shows what it answers",
        }
        return refusal(error.status_code, said.get(error.status_code, str(error.detail)))

    @app.exception_handler(EffirError)
    async def _broken(request: Request, error: EffirError) -> JSONResponse:
        return refusal(503, str(error))

    @app.exception_handler(TooMuchWaitingError)
    async def _busy(request: Request, error: TooMuchWaitingError) -> JSONResponse:
        return refusal(503, "too many requests wait already: try again in a second", **{"Retry-After": "1"})
