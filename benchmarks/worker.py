"""One contender in a process of its own, so that its threads and memory are separate."""

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

from benchmarks.processes import peak_memory

Encode = Callable[[list[str]], Any]
Contender = Callable[[], tuple[Encode, Encode]]
"""Opens a model and returns two functions, for documents and for queries; it must be picklable."""


class Worker:
    """A process with an open contender; it sleeps until it is asked."""

    def __init__(self, open_contender: Contender) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, open_contender), daemon=True)
        self._process.start()
        theirs.close()  # so that a contender that fails to open raises here instead of blocking
        self._ask("documents", ["warm up"])

    def seconds(self, texts: Sequence[str]) -> float:
        """Return the seconds to encode documents, in batches of the contender's choice."""
        return float(self._ask("documents", list(texts)))

    def latencies(self, texts: Sequence[str]) -> list[float]:
        """Return the seconds of each query, encoded one by one."""
        return [float(each) for each in self._ask("queries", list(texts))]

    def peak(self) -> int:
        """Return the peak memory of the process, in bytes."""
        return int(self._ask("peak", []))

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()

    def _ask(self, what: str, texts: list[str]) -> Any:
        self._pipe.send((what, texts))
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(pipe: Connection, open_contender: Contender) -> None:
    documents, queries = open_contender()
    while True:
        what, texts = pipe.recv()
        try:
            if what == "queries":
                pipe.send([_seconds(queries, [text]) for text in texts])
            else:
                pipe.send(peak_memory() if what == "peak" else _seconds(documents, texts))
        except Exception as error:
            pipe.send(error)


def _seconds(encode: Encode, texts: list[str]) -> float:
    started = perf_counter()
    encode(texts)
    return perf_counter() - started
