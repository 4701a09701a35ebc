"""The sweep: finds what nobody announced and what a crash left, once; costs little when nothing changes; waits out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, update
from sqlalchemy.exc import OperationalError

from edgerad import ids, ledger
from edgerad.database import Database
from edgerad.ledger import NewImage, ShipPolicy
from edgerad.records import Assessment, Image, now
from edgerad.s3server import S3Server
from edgerad.sections import IngestSettings
from edgerad.store import Listed, ObjectStore, StoreConfig, StoreUnavailable
from ingest import events
from ingest.books import Books
from ingest.loop import IngestLoop
from ingest.sources import SourceRecord
from ingest.sweep import SweepSource
from tests.ingest.stage import Scorer, inline

BUCKET = "xray"
LONG_AGO = now() - timedelta(hours=1)


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


class Bucket:
    """A bucket's listing; `fails` raises instead of a page, `costs` seconds pass with each page."""

    bucket = BUCKET

    def __init__(self, clock: Clock) -> None:
        self.objects: dict[str, Listed] = {}
        self.clock, self.costs = clock, 0.0
        self.fails: dict[int, Exception] = {}
        self.pages = 0

    def put(self, *keys: str, etag: str = "e1", at: datetime = LONG_AGO, size: int = 10) -> None:
        """Store objects."""
        self.objects.update({key: Listed(key, etag, size, at) for key in keys})

    def list(self, prefix: str = "", start_after: str = "", page: int = 1000) -> Iterator[Listed]:
        for number, key in enumerate(sorted(key for key in self.objects if key.startswith(prefix))):
            if number % page == 0:
                self.pages += 1
                self.clock.time += self.costs
                if number // page in self.fails:
                    raise self.fails[number // page]
            yield self.objects[key]


class Watched:
    """A database with the statements that it was sent."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.statements: list[str] = []
        event.listen(database.engine, "before_cursor_execute", self._note)

    def _note(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        self.statements.append(statement)

    def lookups(self) -> int:
        """Return how many pages' images were looked up, and forget."""
        found = sum("image_id IN" in statement for statement in self.statements)
        self.statements.clear()
        return found


@pytest.fixture(autouse=True)
def _one_event_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every `asyncio.run` of a test runs on the same event loop, as a source is used."""
    with asyncio.Runner() as runner:
        monkeypatch.setattr(asyncio, "run", runner.run)
        yield


@pytest.fixture
def clock() -> Clock:
    """A clock that stands."""
    return Clock()


@pytest.fixture
def bucket(clock: Clock) -> Bucket:
    """An empty bucket."""
    return Bucket(clock)


def source_of(bucket: Bucket, database: Database, interval: float = 10.0, **more: Any) -> SweepSource:
    """Return a sweep without threads."""
    return SweepSource(bucket, database, interval, blocking=inline, clock=bucket.clock, **more)


def poll(source: SweepSource, times: int = 1, most: int = 10_000) -> list[SourceRecord]:
    """Poll so often without waiting, and return what came."""

    async def work() -> list[SourceRecord]:
        return [record for _ in range(times) for record in await source.poll(most, 0.0)]

    return asyncio.run(work())


def one_pass(source: SweepSource, clock: Clock) -> list[SourceRecord]:
    """Let a pass be due, and poll until it is over."""
    clock.time += 10_000
    found = []
    while clock.time >= source._due or source._pass is not None:  # the end of a pass sets when the next is due
        found += poll(source)
    return found


def keys(records: Sequence[SourceRecord]) -> list[str]:
    """Return the keys that records announce."""
    return [created.key for record in records for created in events.parse(record.body).created]


def register(
    database: Database, *names: str, etag: str = "e1", state: str = "assessed", at: datetime = LONG_AGO
) -> None:
    """Have images registered at a time, in a state."""
    images = [NewImage(BUCKET, key, etag, None, 10, at, "kafka") for key in names]
    ledger.register(database, images)
    with database.write() as session:
        wanted = Image.image_id.in_([image.image_id for image in images])
        session.execute(update(Image).where(wanted).values(state=state, registered_at=at))


def test_what_nobody_announced_is_found_once(bucket: Bucket, database: Database, clock: Clock) -> None:
    bucket.put("a/known", "a/new ü+%20.dcm")
    bucket.put("folder/", size=0)
    register(database, "a/known")
    source = source_of(bucket, database)
    found = one_pass(source, clock)
    assert keys(found) == ["a/new ü+%20.dcm"]
    assert source.lag() == 1
    assert one_pass(source, clock) == []  # under way: not handed out again
    register(database, "a/new ü+%20.dcm")
    asyncio.run(source.commit([found[0].position]))
    assert source.lag() == 0
    assert one_pass(source, clock) == []


def test_a_record_tells_the_identity_that_an_event_would(bucket: Bucket, database: Database, clock: Clock) -> None:
    bucket.put("a/1", etag="e-2")
    record = one_pass(source_of(bucket, database), clock)[0]
    created = events.parse(record.body).created[0]
    assert created.image("sweep").image_id == record.position == ids.image_id(BUCKET, "a/1", "e-2")
    assert (created.size, created.at) == (10, LONG_AGO)


def test_an_empty_object_is_found_so_that_somebody_hears_of_it(
    bucket: Bucket, database: Database, clock: Clock
) -> None:
    bucket.put("a/empty.dcm", size=0)
    bucket.put("full/", size=5)
    assert keys(one_pass(source_of(bucket, database), clock)) == ["a/empty.dcm", "full/"]


def test_what_a_crash_left_pending_is_found_though_it_is_not_listed(
    bucket: Bucket, database: Database, clock: Clock
) -> None:
    register(database, "gone/1", state="pending")
    register(database, "gone/2", state="quarantined")
    source = source_of(bucket, database)
    assert keys(one_pass(source, clock)) == ["gone/1"]
    assert one_pass(source, clock) == []
    assert keys(one_pass(source_of(bucket, database), clock)) == ["gone/1"]  # another crash


def test_more_pending_images_than_a_page_are_all_found(
    bucket: Bucket, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.sweep.PAGE", 3)
    register(database, *(f"p/{number}" for number in range(8)), state="pending")
    assert sorted(keys(one_pass(source_of(bucket, database), clock))) == [f"p/{number}" for number in range(8)]


def test_other_buckets_images_are_left_alone(bucket: Bucket, database: Database, clock: Clock) -> None:
    ledger.register(database, [NewImage("other", "a", "e", None, 1, LONG_AGO, "kafka")])
    assert one_pass(source_of(bucket, database), clock) == []


def test_unchanged_pages_cost_no_query(
    bucket: Bucket, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.sweep.PAGE", 10)
    names = [f"a/{number:02}" for number in range(30)]
    bucket.put(*names)
    register(database, *names)
    source, watched = source_of(bucket, database), Watched(database)
    one_pass(source, clock)
    assert watched.lookups() == 3
    one_pass(source, clock)
    assert watched.lookups() == 0
    bucket.put("a/15", etag="e2")
    assert keys(one_pass(source, clock)) == ["a/15"]
    assert watched.lookups() == 1
    bucket.put("a/29", at=now())  # stored again with the same content
    assert one_pass(source, clock) == []
    assert watched.lookups() == 2  # that page, and the one whose object is not registered yet


def test_large_pages_are_handed_out_a_little_at_a_time(bucket: Bucket, database: Database, clock: Clock) -> None:
    names = [f"a/{number:04}" for number in range(2500)]
    bucket.put(*names)
    source, watched = source_of(bucket, database), Watched(database)
    found: list[SourceRecord] = []
    largest = 0
    while len(found) < 2500:
        records = poll(source, most=64)
        assert 0 < len(records) <= 64
        found += records
        largest = max(largest, len(source._found))
        register(database, *keys(records))
        asyncio.run(source.commit([record.position for record in records]))
    assert sorted(keys(found)) == names
    assert largest < 1000  # one page in memory, however large the bucket
    assert sum("image_id IN" in statement and "SELECT" in statement for statement in watched.statements) >= 3
    assert bucket.pages == 3


@pytest.mark.parametrize("kind", ["object", "pending"])
def test_what_is_younger_than_the_grace_is_left_to_its_notification(
    bucket: Bucket, database: Database, clock: Clock, kind: str
) -> None:
    for name, at in (("old", now() - timedelta(seconds=1300)), ("young", now() - timedelta(seconds=100))):
        if kind == "object":
            bucket.put(name, at=at)
        else:
            register(database, name, state="pending", at=at)
    assert keys(one_pass(source_of(bucket, database, grace=600.0), clock)) == ["old"]
    assert sorted(keys(one_pass(source_of(bucket, database), clock))) == ["old", "young"]


@pytest.mark.parametrize("kind", ["object", "pending"])
def test_what_a_clock_ahead_has_dated_does_not_wait_until_that_date(
    bucket: Bucket, database: Database, clock: Clock, kind: str
) -> None:
    for name, at in (("ahead", now() + timedelta(hours=10)), ("young", now() - timedelta(seconds=100))):
        if kind == "object":
            bucket.put(name, at=at)
        else:
            register(database, name, state="pending", at=at)
    assert keys(one_pass(source_of(bucket, database, grace=600.0), clock)) == ["ahead"]


def test_a_young_object_is_found_when_it_has_become_old(bucket: Bucket, database: Database, clock: Clock) -> None:
    bucket.put("a/1", at=now() - timedelta(seconds=100))
    source = source_of(bucket, database, grace=600.0)
    assert one_pass(source, clock) == []
    source._grace = timedelta(seconds=50)  # the same as waiting: the page itself does not change
    assert keys(one_pass(source, clock)) == ["a/1"]


def test_what_was_deleted_and_stored_again_is_found(bucket: Bucket, database: Database, clock: Clock) -> None:
    register(database, "a/1", state="deleted")
    bucket.put("a/1")
    assert keys(one_pass(source_of(bucket, database), clock)) == ["a/1"]
    bucket.put("a/1", etag="e2")
    assert [event.etag for record in one_pass(source_of(bucket, database), clock)
            for event in events.parse(record.body).created] == ["e2"]  # fmt: skip


def test_a_prefix_bounds_the_listing(bucket: Bucket, database: Database, clock: Clock) -> None:
    bucket.put("a/1", "b/1")
    assert keys(one_pass(source_of(bucket, database, prefix="b/"), clock)) == ["b/1"]


def test_a_dead_store_is_told_and_what_was_found_before_is_handed_out(
    bucket: Bucket, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.sweep.PAGE", 2)
    bucket.put("a/1", "a/2", "a/3")
    bucket.fails = {1: StoreUnavailable("down")}
    source = source_of(bucket, database)
    troubles = [source.trouble]
    assert keys(one_pass(source, clock)) == ["a/1", "a/2"]
    troubles.append(source.trouble)
    bucket.fails = {}
    assert keys(one_pass(source, clock)) == ["a/3"]
    assert [*troubles, source.trouble] == [None, "store", None]


def test_a_dead_database_is_told_and_nothing_is_skipped(
    bucket: Bucket, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("a/1")
    source = source_of(bucket, database)

    def fail(*_: object) -> None:
        raise OperationalError("SELECT", None, Exception("down"))

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "states", fail)
        assert one_pass(source, clock) == []
    trouble = source.trouble
    assert keys(one_pass(source, clock)) == ["a/1"]
    assert (trouble, source.trouble) == ("database", None)


def test_paused_it_neither_looks_nor_hands_out(bucket: Bucket, database: Database, clock: Clock) -> None:
    bucket.put("a/1", "a/2")
    source = source_of(bucket, database)
    assert keys(poll(source, most=1)) == ["a/1"]
    source.pause()
    pages = bucket.pages
    clock.time += 1000
    assert poll(source, 5) == []
    assert bucket.pages == pages
    source.resume()
    assert keys(poll(source)) == ["a/2"]


def passes_within(source: SweepSource, bucket: Bucket, seconds: int) -> int:
    """Return how many passes begin in so many seconds of polling each second."""
    before = bucket.pages
    for _ in range(seconds):
        bucket.clock.time += 1
        poll(source, 3)
    return bucket.pages - before


def test_it_looks_more_rarely_when_idle_and_at_once_when_nudged(
    bucket: Bucket, database: Database, clock: Clock
) -> None:
    bucket.put("a/1")
    register(database, "a/1")
    source = source_of(bucket, database, interval=1.0)
    assert 10 <= passes_within(source, bucket, 60) <= 18  # every 1, 2, 4, then 5 s
    source.nudge()
    assert passes_within(source, bucket, 1) == 1
    bucket.costs = 10.0  # a bucket that takes 10 s to list: at most 4 % of the time
    passes_within(source, bucket, 1000)
    assert 3 <= passes_within(source, bucket, 1000) <= 5


def test_a_nudge_ends_the_wait(bucket: Bucket, database: Database, clock: Clock) -> None:
    source = source_of(bucket, database, interval=1000.0)
    one_pass(source, clock)

    async def work() -> list[SourceRecord]:
        waiting = asyncio.create_task(source.poll(10, 3600.0))
        await asyncio.sleep(0)
        bucket.put("a/1")
        source.nudge()
        async with asyncio.timeout(60):
            return await waiting or await source.poll(10, 0.0)

    assert keys(asyncio.run(work())) == ["a/1"]


def test_an_embedded_store_is_swept_until_everything_has_an_end(tmp_path: Path, database: Database) -> None:
    with S3Server(tmp_path / "s3", "ak", "sk") as server:
        store = ObjectStore(StoreConfig(server.endpoint_url, BUCKET, "ak", "sk", max_attempts=1))
        store.ensure_bucket()
        names = ["site a/pat 0+ü.dcm", "a%20b.dcm", *(f"many/{number}" for number in range(40))]
        for name in names:
            store.put(name, name.encode())
        source = SweepSource(store, database, 0.01)
        books = Books(database, ShipPolicy(enabled=False, random_share=0.0), "xray.assessed", "xray.deadletter")
        loop = IngestLoop(source, Scorer(), books, store, IngestSettings(batch_size=16, linger=0.0))

        async def work() -> None:
            running = asyncio.create_task(loop.run())
            async with asyncio.timeout(120):
                while loop.figures.assessed < len(names):
                    await asyncio.sleep(0.01)
                store.put("late", b"late")
                source.nudge()
                while loop.figures.assessed < len(names) + 1:
                    await asyncio.sleep(0.01)
                await loop.stop()
                await running

        asyncio.run(work())
    with database.read() as session:
        assert {row.key for row in session.query(Image).filter_by(state="assessed")} == {*names, "late"}
        assert session.query(Assessment).count() == len(names) + 1
    assert source.lag() == 0
