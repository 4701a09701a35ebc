"""What the ingest loop is tested with: a source, a scorer and a store that do as they are told; all deterministic."""

import asyncio
import json
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select

from edgerad import ids
from edgerad.database import Database
from edgerad.ledger import ShipPolicy
from edgerad.records import DeadLetter, Image, now
from edgerad.scoring import Outcome, Refused, Scored, ScoreRequest
from edgerad.sections import IngestSettings
from edgerad.store import Head, ObjectGone
from ingest.books import Books
from ingest.loop import IngestLoop
from ingest.sources import Position, SourceRecord

BUCKET = "xray"
TUNING = IngestSettings(
    batch_size=4, linger=0.0, calls_in_flight=2, max_attempts=3, backoff_initial=0.001, backoff_max=0.002
)
Step = Callable[[str], Awaitable[None]]


async def no_step(_: str) -> None:
    """Go on."""


async def no_pause(_: float) -> None:
    """Let others run, without the pause."""
    await asyncio.sleep(0)


def event(key: str, etag: str = "e1", name: str = "ObjectCreated:Put", bucket: str = BUCKET) -> dict[str, Any]:
    """Return an event as Ceph writes it."""
    described = {"bucket": {"name": bucket}, "object": {"key": key, "size": 10, "eTag": etag}}
    return {"eventVersion": "2.1", "eventSource": "ceph:s3", "eventName": name, "s3": described}


def message(*events: dict[str, Any]) -> bytes:
    """Return a record with these events."""
    return json.dumps({"Records": list(events)}).encode()


def image_id(key: str, etag: str = "e1") -> str:
    """Return the id of an image in the bucket."""
    return ids.image_id(BUCKET, key, etag)


class Log:
    """A log of records like a Kafka partition: what was not committed is read again by the next reader."""

    name = "kafka"
    trouble = None

    def __init__(self, records: Sequence[bytes], step: Step = no_step) -> None:
        self.records, self.step = list(records), step
        self.committed: set[int] = set()
        self.queue = deque(range(len(self.records)))
        self.paused = False
        self.most = 0
        self.polls = 0
        self.closed = False

    def rewind(self) -> None:
        """Be read by a new reader."""
        self.queue = deque(sorted(set(range(len(self.records))) - self.committed))
        self.paused = self.closed = False

    async def poll(self, max_records: int, timeout: float) -> list[SourceRecord]:
        await self.step("poll")
        self.polls += 1
        if self.paused or not self.queue:
            await asyncio.sleep(0)
            return []
        self.most = max(self.most, max_records)
        taken = [self.queue.popleft() for _ in range(min(max_records, len(self.queue)))]
        return [SourceRecord(number, self.records[number]) for number in taken]

    async def commit(self, done: Sequence[Position]) -> None:
        await self.step("commit")
        self.committed.update(int(str(position)) for position in done)
        await self.step("committed")

    def lag(self) -> int:
        return len(self.records) - len(self.committed)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    async def close(self) -> None:
        self.closed = True


def score_of(request: ScoreRequest) -> Scored:
    """Return a score."""
    return Scored(request.image_id, "pneumonia", 0.5, 0.0, "unknown", "m1", "c1", "t1", "litert", 0.01)


@dataclass
class Scorer:
    """Scores whatever `verdicts` has no plan for; a plan is a list of outcomes or errors, used one by one."""

    verdicts: dict[str, list[Any]] = field(default_factory=dict)
    step: Step = no_step
    calls: list[list[str]] = field(default_factory=list)
    scored: Counter[str] = field(default_factory=Counter)
    probes: list[Any] = field(default_factory=list)
    under_way: int = 0
    most: int = 0

    async def score(self, requests: list[ScoreRequest]) -> list[Outcome]:
        if not requests:
            if self.probes and (verdict := self.probes.pop(0)) is not None:
                raise verdict
            return []
        self.calls.append([request.key for request in requests])
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.step("score")
            outcomes = [self._one(request) for request in requests]
            await self.step("scored")
        finally:
            self.under_way -= 1
        self.scored.update(request.key for request in requests)
        return outcomes

    def _one(self, request: ScoreRequest) -> Outcome:
        plan = self.verdicts.get(request.key, [])
        verdict = plan[0] if len(plan) == 1 and plan[0] == "always" else (plan.pop(0) if plan else None)
        if isinstance(verdict, Exception):
            raise verdict
        if verdict == "always":
            raise RuntimeError(request.image_id)
        if isinstance(verdict, tuple):
            reason, retryable = verdict
            return Refused(request.image_id, reason, "why", retryable)
        return score_of(request)


class Objects:
    """The bucket's contents: ETags by key; `checks` are errors of coming looks at the bucket."""

    bucket = BUCKET

    def __init__(self, etags: dict[str, str] | None = None) -> None:
        self.etags = etags or {}
        self.checks: list[Exception | None] = []
        self.heads: list[Exception] = []
        self.contents: dict[str, bytes] = {}

    def head(self, key: str) -> Head:
        if self.heads:
            raise self.heads.pop(0)
        if key not in self.etags:
            raise ObjectGone
        return Head(self.etags[key], 10, now(), None, "application/dicom", {})

    def get(
        self, key: str, version_id: str | None = None, limit_bytes: int | None = None, etag: str | None = None
    ) -> bytes:
        if key not in self.contents:
            raise ObjectGone
        return self.contents[key]

    def check(self) -> None:
        if self.checks and (error := self.checks.pop(0)) is not None:
            raise error


def books(database: Database) -> Books:
    """Return books that ship what is unknown."""
    return Books(database, ShipPolicy(enabled=True, random_share=0.0), "xray.assessed", "xray.deadletter")


async def inline(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a blocking function here and now: deterministic."""
    return function(*arguments)


def loop_of(source: Log, scorer: Scorer, database: Database, objects: Objects | None = None, **more: Any) -> IngestLoop:
    """Return a loop without threads and pauses."""
    options = {"tuning": TUNING, "blocking": inline, "sleep": no_pause, **more}
    return IngestLoop(source, scorer, books(database), objects or Objects(), **options)


def run(source: Log, scorer: Scorer, database: Database, objects: Objects | None = None, **more: Any) -> IngestLoop:
    """Run a loop until all is committed and return it."""

    async def work() -> IngestLoop:
        loop = loop_of(source, scorer, database, objects, **more)
        running = asyncio.create_task(loop.run())
        async with asyncio.timeout(20):
            while len(source.committed) < len(source.records) and not running.done():
                await asyncio.sleep(0)
            await loop.stop()
            await running
        return loop

    return asyncio.run(work())


def states(database: Database) -> dict[str, str]:
    """Return the states of all images by key."""
    with database.read() as session:
        return {row.key: row.state for row in session.scalars(select(Image))}


def letters(database: Database) -> dict[str, tuple[str, int]]:
    """Return reason and attempts of the dead letters by position."""
    with database.read() as session:
        return {row.position: (row.reason, row.attempts) for row in session.scalars(select(DeadLetter))}


def count(database: Database, table: Any) -> int:
    """Return the rows of a table."""
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0
