"""Pauses grow, stay bounded and differ; an outage is waited for once by all, and counts no attempt."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from hypothesis import given
from hypothesis import strategies as st

from ingest.retry import Backoff, Part

BACKOFF = Backoff(0.25, 30.0)


@given(attempt=st.integers(1, 10**9), seed=st.integers())
def test_a_pause_is_at_least_half_of_the_doubled_one_and_never_longer_than_the_longest(attempt: int, seed: int) -> None:
    pause = BACKOFF.pause(attempt, random.Random(seed))
    whole = min(30.0, 0.25 * 2 ** min(attempt - 1, 20))
    assert whole / 2 <= pause <= whole


def test_many_that_wait_do_not_come_back_together() -> None:
    assert len({BACKOFF.pause(5, random.Random(seed)) for seed in range(100)}) == 100


class Probe:
    """A part that fails so many times before it answers."""

    def __init__(self, failures: int) -> None:
        self.failures, self.asked = failures, 0

    async def __call__(self) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise RuntimeError


def run(work: Callable[[], Awaitable[object]]) -> None:
    """Run to the end, or fail after some seconds."""

    async def limited() -> None:
        async with asyncio.timeout(20):
            await work()

    asyncio.run(limited())


def test_a_part_that_answers_was_not_out() -> None:
    async def work() -> None:
        part = Part("store", Probe(0), BACKOFF)
        assert await part.works()
        assert not part.out

    run(work)


def test_an_outage_is_asked_for_once_by_all_who_wait_and_ends_for_all() -> None:
    pauses: list[float] = []
    outs: list[bool] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        outs.append(part.out)
        await asyncio.sleep(0)

    probe = Probe(9)
    part = Part("store", probe, BACKOFF, sleep)

    async def work() -> None:
        assert await asyncio.gather(*(part.works() for _ in range(20))) == [False] * 20
        assert await part.works()

    run(work)
    assert outs == [True] * 9
    assert not part.out
    assert probe.asked == 9 + 1 + 1
    longest = [min(30.0, 0.25 * 2**number) for number in range(9)]
    assert all(whole / 2 <= pause <= whole for pause, whole in zip(pauses, longest, strict=True))


def test_one_that_gives_up_waiting_takes_nothing_from_the_others() -> None:
    probe = Probe(3)

    async def sleep(_: float) -> None:
        await asyncio.sleep(0)

    part = Part("serve", probe, BACKOFF, sleep)

    async def work() -> None:
        first, second = asyncio.create_task(part.works()), asyncio.create_task(part.works())
        await asyncio.sleep(0)
        first.cancel()
        assert not await second

    run(work)


def test_closing_ends_the_asking() -> None:
    async def work() -> None:
        part = Part("serve", Probe(10**9), BACKOFF, lambda _: asyncio.sleep(0))
        waiting = asyncio.create_task(part.works())
        await asyncio.sleep(0)
        await part.close()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()

    run(work)
