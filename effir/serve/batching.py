"""Requests that wait at the same time are worked on together, where a batch costs less than each of them alone."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

Task = TypeVar("Task")
Done = TypeVar("Done")


class TooMuchWaitingError(Exception):
    """More waits than can be worked off in a time that anyone would wait."""


class Batcher(Generic[Task, Done]):
    """Hands what waits to ``work``, at most ``most`` of it at a time; one batch runs, the next one gathers.

    How much a task is, ``size`` says; one that is more than ``most`` runs alone. While no more than ``few`` wait, they
    are worked on one by one: the first need not wait for the last.
    A lone task is begun at once, in ``executor``. ``work`` gets tasks and returns each one's result in their order;
    what it raises, all of the batch raise. ``seen`` hears the size of each batch.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Task]], Sequence[Done]],
        executor: Executor,
        *,
        most: int,
        waiting: int,
        few: int = 1,
        size: Callable[[Task], int] = lambda task: 1,
        seen: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._work, self._executor, self._seen = work, executor, seen
        self._most, self._limit, self._few, self._size = most, waiting, few, size
        self._waiting: deque[tuple[Task, asyncio.Future[Done]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def do(self, task: Task) -> Done:
        """Return the result of one task; TooMuchWaitingError at once where too many wait already."""
        if len(self._waiting) >= self._limit:
            raise TooMuchWaitingError
        done: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self._waiting.append((task, done))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await done

    def _gathered(self) -> list[tuple[Task, asyncio.Future[Done]]]:
        one_by_one = len(self._waiting) <= self._few
        batch = [self._waiting.popleft()]
        if one_by_one:
            return batch
        room = self._most - self._size(batch[0][0])
        while self._waiting and (room := room - self._size(self._waiting[0][0])) >= 0:
            batch.append(self._waiting.popleft())
        return batch

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._gathered()
            self._seen(len(batch))
            try:
                results = await loop.run_in_executor(self._executor, self._work, [task for task, _ in batch])
            except Exception as error:
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
                continue
            for (_, done), result in zip(batch, results, strict=True):
                if not done.done():  # its client went away
                    done.set_result(result)
