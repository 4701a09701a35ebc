"""The sweep: lists the bucket and finds what no notification announced, and what a crash left pending.

It is the event source of an edge without Kafka, and the safety net of one with it. A pass looks twice: at the images
that are pending in the database (a replay, or an ingest actor that died), and at the bucket's listing for objects that
are not registered. A page of the listing that has not changed since all of it was registered costs no query.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any, Protocol

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from edgerad import ids, ledger
from edgerad.clock import has_passed
from edgerad.database import Database
from edgerad.records import Image, now
from edgerad.store import Listed, StoreError
from edgerad.telemetry import get_logger
from ingest.events import sweep_record
from ingest.sources import Position, SourceRecord

PAGE = 1000
IDLE_LONGEST = 5.0
"""Seconds between passes that a source which finds nothing grows to, when its interval is shorter."""
BUSY_SHARE, IDLE_SHARE = 0.25, 0.04
"""Share of the time that passes may take while they find something, and while they do not: a large bucket is listed
less often, so that an idle edge costs next to nothing."""


class Listing(Protocol):
    """What the sweep needs of the object store; an `edgerad.store.ObjectStore` is one."""

    @property
    def bucket(self) -> str:
        """Name of the bucket."""

    def list(self, prefix: str = "", start_after: str = "", page: int = PAGE) -> Iterator[Listed]:
        """Yield the objects below a prefix."""


class SweepSource:
    """An event source (sources.EventSource) that looks for itself; `nudge` makes it look at once.

    `interval` and `grace` are in seconds; objects and pending images younger than `grace` are left alone.
    """

    name = "sweep"

    def __init__(
        self,
        store: Listing,
        database: Database,
        interval: float,
        *,
        prefix: str = "",
        grace: float = 0.0,
        blocking: Callable[..., Any] = asyncio.to_thread,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep the parts; the first `poll` begins the first pass."""
        self._store, self._database, self._prefix = store, database, prefix
        self._interval, self._grace = interval, timedelta(seconds=grace)
        self._blocking, self._clock = blocking, clock
        self._log = get_logger("sweep")
        self._found: deque[SourceRecord] = deque()
        self._out: set[str] = set()
        self._known: dict[str, bytes] = {}
        self._seen: dict[str, bytes] = {}
        self._pass: Iterator[list[SourceRecord]] | None = None
        self._news = False
        self._spent = 0.0
        self._pause = interval
        self._due = clock()
        self._nudged = asyncio.Event()
        self._paused = False
        self._trouble: str | None = None

    @property
    def trouble(self) -> str | None:
        """store or database when the last pass failed there."""
        return self._trouble

    def nudge(self) -> None:
        """Look at once: something was stored."""
        self._pause = self._interval
        self._due = self._clock()
        self._nudged.set()

    def lag(self) -> int:
        """Return how many found images are not done; what later pages hold is not known yet."""
        return len(self._found) + len(self._out)

    def pause(self) -> None:
        """Look no further until `resume`."""
        self._paused = True

    def resume(self) -> None:
        """Go on."""
        self._paused = False

    async def commit(self, done: Sequence[Position]) -> None:
        """Forget what is done; the database itself tells the next pass that it is."""
        self._out.difference_update(str(position) for position in done)

    async def close(self) -> None:
        """End the pass under way."""
        self._pass = None

    async def poll(self, max_records: int, timeout: float) -> list[SourceRecord]:
        """Return what was found, looking further where nothing is left and a pass is due within `timeout` seconds."""
        if self._paused:
            return []
        if not self._found:
            if self._pass is None and not await self._wait_until_due(timeout):
                return []
            await self._look()
        records = [self._found.popleft() for _ in range(min(max_records, len(self._found)))]
        self._out.update(str(record.position) for record in records)
        return records

    async def _wait_until_due(self, timeout: float) -> bool:
        wait = self._due - self._clock()
        if wait > 0:
            self._nudged.clear()
            try:
                async with asyncio.timeout(min(wait, timeout)):
                    await self._nudged.wait()
            except TimeoutError:
                if wait > timeout:
                    return False
        self._nudged.clear()
        return True

    async def _look(self) -> None:
        """Look at one page; at the end of a pass set when the next one is due."""
        if self._pass is None:
            self._pass, self._news, self._spent, self._seen = self._pages(), False, 0.0, {}
        started = self._clock()
        try:
            page = await self._blocking(next, self._pass, None)
            self._trouble = None
        except (StoreError, SQLAlchemyError, OSError) as error:
            trouble = "store" if isinstance(error, StoreError) else "database"
            if self._trouble != trouble:
                self._log.warning("sweep failed; trying again", reason=trouble, error=error)
            self._trouble, page = trouble, None
        finally:
            self._spent += self._clock() - started
        if page is not None:
            self._news = self._news or bool(page)
            self._found.extend(page)
            return
        self._pass, self._known = None, self._seen
        if self._news:
            self._pause = max(self._interval, self._spent / BUSY_SHARE)
        else:
            longest = max(self._interval, IDLE_LONGEST, self._spent / IDLE_SHARE)
            self._pause = min(max(self._pause, self._interval / 2) * 2, longest)
        self._due = self._clock() + self._pause

    def _pages(self) -> Iterator[list[SourceRecord]]:
        """Yield what each page of one pass found; blocking."""
        at, after = now(), ""
        while rows := self._pending(after):
            after = rows[-1].image_id
            yield [
                SourceRecord(row.image_id, sweep_record(row.bucket, row.key, row.etag or "", row.size, row.stored_at))
                for row in rows
                if row.image_id not in self._out and has_passed(self._grace, row.registered_at, at)
            ]
        listing = self._store.list(self._prefix, page=PAGE)
        while page := list(islice(listing, PAGE)):
            objects = [item for item in page if item.size or not item.key.endswith("/")]  # no folder markers
            digest = _digest(objects)
            if self._known.get(page[0].key) == digest:
                self._seen[page[0].key] = digest
                yield []
                continue
            found = {ids.image_id(self._store.bucket, item.key, item.etag): item for item in objects}
            states = ledger.states(self._database, found)
            unknown = {
                image: item
                for image, item in found.items()
                if states.get(image) in {None, ledger.DELETED} and image not in self._out
            }
            if not unknown and all(image in states for image in found):
                self._seen[page[0].key] = digest
            yield [
                SourceRecord(
                    image, sweep_record(self._store.bucket, item.key, item.etag, item.size, item.last_modified)
                )
                for image, item in unknown.items()
                if has_passed(self._grace, item.last_modified, at)
            ]

    def _pending(self, after: str) -> list[Image]:
        with self._database.read() as session:
            query = select(Image).where(
                Image.state == ledger.PENDING, Image.bucket == self._store.bucket, Image.image_id > after
            )
            return list(session.scalars(query.order_by(Image.image_id).limit(PAGE)))


def _digest(objects: Sequence[Listed]) -> bytes:
    hashed = hashlib.blake2b(digest_size=16)
    for item in objects:
        hashed.update(f"{len(item.key)}:{item.key}{item.etag}{item.last_modified.timestamp()}".encode())
    return hashed.digest()
