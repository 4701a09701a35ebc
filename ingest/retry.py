"""Waiting and trying again: pauses that double with jitter, and the difference between a bad image and an outage."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Sleep = Callable[[float], Awaitable[None]]


class ScorerBusy(Exception):
    """Serve pushes back: its queues are full. Says nothing about the images."""


class ScorerDown(Exception):
    """The call did not reach a replica, the replica died, or no answer came in time; `reason` is a short code."""

    def __init__(self, reason: str) -> None:
        """Keep the reason."""
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between attempts, seconds: `initial` doubles up to `longest`, each shortened at random by up to half.

    Jitter of half the pause keeps many waiters from coming back at once ("equal jitter"; M. Brooker, "Exponential
    Backoff And Jitter", AWS Architecture Blog, 2015), yet never lets one try again at once.
    """

    initial: float
    longest: float

    def pause(self, attempt: int, random_: random.Random) -> float:
        """Return the pause after the attempt of this number, counted from 1."""
        whole = min(self.longest, self.initial * 2.0 ** min(attempt - 1, 60))
        return whole * (1 - 0.5 * random_.random())


class Part:
    """A part that work depends on (Serve, the store, the database): whether it works, asked once for all who wait.

    When work fails that needs the part, `works` asks it. If it answers, the failure was the work's own and counts as an
    attempt. If not, the part is out: `works` waits, asking again with growing pauses, and the failure does not count.
    So an outage, however long, turns nothing into a dead letter, and a bad image cannot hide behind one.
    """

    def __init__(
        self, name: str, probe: Callable[[], Awaitable[object]], backoff: Backoff, sleep: Sleep = asyncio.sleep
    ) -> None:
        """Keep how to ask it: `probe` raises when the part does not work."""
        self.name = name
        self.out = False
        self._probe = probe
        self._backoff = backoff
        self._sleep = sleep
        self._random = random.Random()  # noqa: S311 - jitter
        self._asking: asyncio.Task[bool] | None = None

    async def works(self) -> bool:
        """Return True when the part answers at once, False when it was out; returns only when it answers."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> bool:
        attempt = 0
        while True:
            try:
                await self._probe()
            except Exception:  # noqa: BLE001 - whatever it says: it does not work
                attempt += 1
                self.out = True
                await self._sleep(self._backoff.pause(attempt, self._random))
            else:
                self.out = False
                return attempt == 0

    async def close(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)


async def within(seconds: float, event: asyncio.Event) -> None:
    """Wait for an event, at most so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
