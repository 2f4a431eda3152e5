"""Requests that wait together run in one batch, and each gets its own answer."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from effir.serve.batching import Batcher, TooMuchWaitingError


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


def test_tasks_that_arrive_while_a_batch_runs_form_the_next(executor: ThreadPoolExecutor) -> None:
    gate, batches = threading.Event(), list[list[int]]()

    def work(tasks: Sequence[int]) -> list[int]:
        gate.wait(5)
        batches.append(list(tasks))
        return [-task for task in tasks]

    async def scenario() -> list[int]:
        batcher = Batcher(work, executor, most=4, waiting=100)
        waiting = [asyncio.create_task(batcher.do(task)) for task in range(10)]
        await asyncio.sleep(0)
        first = asyncio.create_task(asyncio.to_thread(gate.set))
        results = await asyncio.gather(*waiting)
        await first
        return results

    assert asyncio.run(scenario()) == [-task for task in range(10)]
    assert [len(batch) for batch in batches] == [4, 4, 2]


def test_a_batch_stays_within_its_size_and_a_larger_task_runs_alone(executor: ThreadPoolExecutor) -> None:
    batches = list[list[int]]()

    def work(tasks: Sequence[int]) -> list[int]:
        batches.append(list(tasks))
        return list(tasks)

    async def scenario() -> None:
        batcher = Batcher(work, executor, most=5, waiting=100, size=lambda task: task)
        await asyncio.gather(*(batcher.do(task) for task in (2, 3, 1, 9, 4, 1)))

    asyncio.run(scenario())
    assert batches == [[2, 3], [1], [9], [4, 1]]


def test_a_few_waiting_tasks_run_one_by_one(executor: ThreadPoolExecutor) -> None:
    batches = list[list[int]]()

    def work(tasks: Sequence[int]) -> list[int]:
        batches.append(list(tasks))
        return list(tasks)

    async def scenario() -> None:
        batcher = Batcher(work, executor, most=4, waiting=100, few=3)
        await asyncio.gather(*(batcher.do(task) for task in range(10)))

    asyncio.run(scenario())
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8], [9]]


def test_an_error_fails_its_batch_and_not_the_next(executor: ThreadPoolExecutor) -> None:
    def work(tasks: Sequence[int]) -> list[int]:
        if 1 in tasks:
            raise ValueError("one")
        return list(tasks)

    async def scenario() -> list[int | BaseException]:
        batcher = Batcher(work, executor, most=1, waiting=100)
        return await asyncio.gather(*(batcher.do(task) for task in range(3)), return_exceptions=True)

    first, second, third = asyncio.run(scenario())
    assert (first, third) == (0, 2)
    assert isinstance(second, ValueError)


def test_a_full_queue_refuses_at_once(executor: ThreadPoolExecutor) -> None:
    gate = threading.Event()

    def work(tasks: Sequence[int]) -> list[int]:
        gate.wait(5)
        return list(tasks)

    async def scenario() -> list[int]:
        batcher = Batcher(work, executor, most=1, waiting=2)
        running = asyncio.create_task(batcher.do(0))
        await asyncio.sleep(0.05)
        waiting = [asyncio.create_task(batcher.do(task)) for task in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(TooMuchWaitingError):
            await batcher.do(3)
        gate.set()
        return await asyncio.gather(running, *waiting)

    assert asyncio.run(scenario()) == [0, 1, 2]


def test_a_client_that_left_does_not_affect_others(executor: ThreadPoolExecutor) -> None:
    gate = threading.Event()

    def work(tasks: Sequence[int]) -> list[int]:
        gate.wait(5)
        return list(tasks)

    async def scenario() -> int:
        batcher = Batcher(work, executor, most=4, waiting=10)
        gone, stays = (asyncio.create_task(batcher.do(task)) for task in (1, 2))
        await asyncio.sleep(0.05)
        gone.cancel()
        gate.set()
        return await stays

    assert asyncio.run(scenario()) == 2
