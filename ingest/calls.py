"""Calls to Serve: images wait for each other, go in batches, and are tried again until each has an end.

Of a call that fails as a whole it is found out here whose fault that is; the rules are in loop.py.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from edgerad.scoring import Outcome, Refused, Scorer
from edgerad.sections import IngestSettings
from edgerad.telemetry import get_logger
from ingest.outside import Outside
from ingest.retry import ScorerBusy, ScorerDown, within
from ingest.work import Figures, Work

Settle = Callable[[list[Work], list[Outcome]], Awaitable[list[Work]]]
"""Makes the outcomes of a batch final, each of the image at its place; returns the images to try again."""


class Calls:
    """Has images scored, at most `calls_in_flight` batches at a time; what becomes of the outcomes `settle` decides."""

    def __init__(
        self,
        scorer: Scorer,
        outside: Outside,
        tuning: IngestSettings,
        figures: Figures,
        settle: Settle,
        component: str,
    ) -> None:
        """Keep the parts; nothing is called before `run`."""
        self._scorer, self._outside, self._tuning = scorer, outside, tuning
        self._figures, self._settle = figures, settle
        self._log = get_logger(component)
        self._free = asyncio.Semaphore(tuning.calls_in_flight)
        self._ready: deque[Work] = deque()
        self._news = asyncio.Event()
        self._scoring = 0
        self.idle = asyncio.Event()
        """Cleared when an image is added, set when the last call under way ends."""
        self.idle.set()

    def add(self, work: Work) -> None:
        """Have an image scored; what becomes of it `settle` is told."""
        self._ready.append(work)
        self.idle.clear()
        self._news.set()

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Call until cancelled; the calls are tasks of `group`, which waits for them."""
        self._group = group
        while True:
            await self._free.acquire()
            batch = await self._gather()
            self._scoring += 1
            group.create_task(self._carry(batch, holding=True))

    async def _gather(self) -> list[Work]:
        """Return the next batch: full, or what there is once no call is under way or `linger` seconds have passed.

        Each batch costs a call and two transactions, so images wait for each other, but only while others are scored.
        """
        while not self._ready:
            self._news.clear()
            await self._news.wait()
        deadline = time.monotonic() + self._tuning.linger
        while (
            self._scoring and len(self._ready) < self._tuning.batch_size and (left := deadline - time.monotonic()) > 0
        ):
            self._news.clear()
            await within(left, self._news)
        return [self._ready.popleft() for _ in range(min(self._tuning.batch_size, len(self._ready)))]

    async def _carry(self, batch: list[Work], holding: bool = False) -> None:
        """Have a batch scored until each of its images has an end; `holding` tells that a call is granted already."""
        failures = 0
        while batch:
            if not holding:
                await self._free.acquire()
                self._scoring += 1
            holding = False
            failure: Exception | None = None
            outcomes: list[Outcome] = []
            try:
                outcomes = await self._score(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, the images are kept and the fault looked for
                failure = error
            finally:
                self._end_call()
            if failure is not None:
                batch, outcomes = await self._blame(batch, failure)
            if outcomes:
                batch = await self._settle(batch, outcomes)
            if batch:
                failures += 1
                self._figures.retried += len(batch)
                await self._outside.wait(failures, pushed_back=isinstance(failure, ScorerBusy))

    def _end_call(self) -> None:
        self._free.release()
        self._scoring -= 1
        if not self._scoring:
            self.idle.set()
            self._news.set()

    async def _score(self, batch: list[Work]) -> list[Outcome]:
        outcomes = await self._scorer.score([work.request for work in batch])
        if [outcome.image_id for outcome in outcomes] != [work.image.image_id for work in batch]:
            raise ScorerDown("wrong-answer")
        return outcomes

    async def _blame(self, batch: list[Work], failure: Exception) -> tuple[list[Work], list[Outcome]]:
        """Decide about a call that failed as a whole; return what to try again, or the one image with its refusal."""
        if isinstance(failure, ScorerBusy):
            return batch, []
        reason = failure.reason if isinstance(failure, ScorerDown) else "scoring-failed"
        self._log.warning("call to Serve failed", reason=reason, batch=len(batch), error=failure)
        if not await self._outside.serve.works():
            return batch, []
        if len(batch) > 1:
            half = len(batch) // 2
            for work in batch:
                work.attempts += 1
            self._group.create_task(self._carry(batch[half:]))
            return batch[:half], []
        work = batch[0]
        if work.attempts + 1 < self._tuning.max_attempts:
            work.attempts += 1
            return batch, []
        detail = f"Serve answers, but not for this image: {reason}"
        header = await self._outside.whose(work.request)
        return batch, [Refused(work.image.image_id, reason, detail, header=header)]
