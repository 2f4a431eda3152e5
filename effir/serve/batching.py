"""Process waiting requests in one batch, if a batch costs less than the requests one by one."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

Task = TypeVar("Task")
Done = TypeVar("Done")


class TooMuchWaitingError(Exception):
    """The queue of waiting requests is full."""


class Batcher(Generic[Task, Done]):
    """Hand waiting tasks to ``work`` in batches: while one batch runs in ``executor``, the next one collects.

    The sizes of a batch's tasks add up to at most ``most``; a larger task runs alone. Up to ``few`` waiting tasks run
    one by one, so that the first does not wait for the last. ``work`` returns the results in the order of its tasks; if
    it raises, every task of the batch raises. ``seen`` is called with the number of tasks of each batch.
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
        """Return the result of one task; TooMuchWaitingError at once if ``waiting`` tasks wait already."""
        if len(self._waiting) >= self._limit:
            raise TooMuchWaitingError
        done: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self._waiting.append((task, done))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await done

    def _collected(self) -> list[tuple[Task, asyncio.Future[Done]]]:
        one_at_a_time = len(self._waiting) <= self._few
        batch = [self._waiting.popleft()]
        if one_at_a_time:
            return batch
        room = self._most - self._size(batch[0][0])
        while self._waiting and (room := room - self._size(self._waiting[0][0])) >= 0:
            batch.append(self._waiting.popleft())
        return batch

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._collected()
            self._seen(len(batch))
            try:
                results = await loop.run_in_executor(self._executor, self._work, [task for task, _ in batch])
            except Exception as error:
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
                continue
            for (_, done), result in zip(batch, results, strict=True):
                if not done.done():  # otherwise its client has gone
                    done.set_result(result)
