"""What a loop tells of itself while it runs: the lag to Serve, which scales on it, and its figures to people."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from edgerad import ledger
from edgerad.database import Database
from ingest.books import is_outage

BUSY, IDLE, LOOK = 1.0, 10.0, 0.1
"""Seconds between reports to the database while there is work and while there is none; and between looks at the lag."""


class Reporter:
    """Reports for one component until it is cancelled."""

    def __init__(
        self, database: Database, component: str, on_lag: Callable[[int], None], blocking: Callable[..., Any]
    ) -> None:
        """Keep whom to tell; `blocking` runs a blocking function."""
        self._database, self._component, self._on_lag, self._blocking = database, component, on_lag, blocking

    async def run(self, stats: Callable[[], dict[str, Any]]) -> None:
        """Tell the lag at once when it changes, and the figures now and then."""
        told, told_at, reported_at, before = None, 0.0, 0.0, 0
        while True:
            at, figures = time.monotonic(), stats()
            lag = figures["lag"]
            if lag is not None and (lag != told or at - told_at > IDLE):
                self._on_lag(lag)
                told, told_at = lag, at
            passed = at - reported_at
            if passed >= (BUSY if figures["inflight"] or lag or figures["trouble"] else IDLE):
                done = figures["assessed"]
                rate = round((done - before) / passed, 1) if reported_at else 0.0
                before, reported_at = done, at
                await self._tell({**figures, "rate": rate})
            await asyncio.sleep(LOOK)

    async def _tell(self, figures: dict[str, Any]) -> None:
        try:
            await self._blocking(ledger.report, self._database, self._component, figures)
        except Exception as error:
            if not is_outage(error):
                raise
