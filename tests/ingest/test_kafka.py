"""KafkaSource against Apache Kafka: what is not durable comes again, what is does not, whatever dies in between."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.structs import ConsumerGroupMetadata, MemberState
from pydantic import SecretStr
from sqlalchemy import func, select

from deploy.kafka import Kafka
from edgerad import bus
from edgerad.database import Database
from edgerad.ledger import ShipPolicy
from edgerad.records import Assessment, Image, now
from edgerad.scoring import Outcome, Scored, ScoreRequest
from edgerad.sections import GatewaySettings, IngestSettings, KafkaSettings, Secret
from edgerad.settings import Settings
from edgerad.store import Head
from ingest.books import Books
from ingest.gateway import KafkaDoor, NotDurable
from ingest.loop import IngestLoop
from ingest.sources import KafkaPosition, KafkaSource, SourceRecord
from tests.conftest import need

pytestmark = [
    pytest.mark.real,
    # kafka-python leaves sockets that did not connect to the garbage collector.
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]
LIMIT = 120
"""Seconds after which a test that gets nowhere fails; nothing here depends on how fast it gets there."""


@pytest.fixture(autouse=True)
def _collect_sockets() -> Iterator[None]:
    """Have what a test left behind collected while its own filter of warnings holds.

    pytest keeps what is logged for longer, with the exceptions in it, whose frames hold sockets: the client is silent.
    """
    log = logging.getLogger("kafka")
    level = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(level)
    gc.collect()


@pytest.fixture
def settings(kafka_broker: Kafka) -> KafkaSettings:
    """Settings with topics and a group of the test's own."""
    return own_settings(kafka_broker.bootstrap)


def own_settings(bootstrap: str, partitions: int = 2, **more: Any) -> KafkaSettings:
    """Return settings with new topics, which exist, and a new group."""
    mine = uuid.uuid4().hex[:8]
    topics = {f"topic_{name}": f"{mine}.{name}" for name in ("uploaded", "assessed", "deadletter")}
    settings = KafkaSettings(
        bootstrap_servers=bootstrap,
        group=f"group-{mine}",
        partitions=partitions,
        session_timeout=10.0,
        **topics,
        **more,
    )
    bus.ensure_topics(settings)
    return settings


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, or fail."""

    async def limited() -> None:
        async with asyncio.timeout(LIMIT):
            await work

    asyncio.run(limited())


def produce(settings: KafkaSettings, partition: int, *values: bytes) -> None:
    """Put records into a partition; returns when they are durable."""
    producer = bus.producer(settings)
    try:
        for future in [producer.send(settings.topic_uploaded, value, partition=partition) for value in values]:
            future.get(30)
    finally:
        producer.close()


def committed(settings: KafkaSettings) -> list[int]:
    """Return what the group has committed of each partition; 0 where nothing."""
    consumer = bus.consumer(settings)
    try:
        places = [TopicPartition(settings.topic_uploaded, number) for number in range(settings.partitions)]
        return [consumer.committed(place) or 0 for place in places]
    finally:
        consumer.close()


@asynccontextmanager
async def reading(settings: KafkaSettings) -> AsyncIterator[KafkaSource]:
    """Yield a source, closed in the end."""
    source = KafkaSource(settings)
    try:
        yield source
    finally:
        await source.close()


async def take(source: KafkaSource, count: int) -> list[SourceRecord]:
    """Poll until so many records have come; fails when more come than that."""
    found: list[SourceRecord] = []
    while len(found) < count:
        found += await source.poll(100, 0.2)
    assert len(found) == count
    return found


async def until(source: KafkaSource, condition: Callable[[], bool]) -> None:
    """Poll until a condition holds; no record may come meanwhile."""
    while not condition():
        assert await source.poll(100, 0.1) == []


def offset_of(record: SourceRecord) -> int:
    """Return a record's offset."""
    assert isinstance(record.position, KafkaPosition)
    return record.position.offset


def test_only_what_is_durable_is_committed(settings: KafkaSettings) -> None:
    produce(settings, 0, *(b"%d" % number for number in range(10)))

    async def work() -> None:
        async with reading(settings) as source:
            records = await take(source, 10)
            assert [record.body for record in records] == [b"%d" % number for number in range(10)]
            assert str(records[3].position) == f"{settings.topic_uploaded}/0/3"
            await source.commit([record.position for record in records if offset_of(record) != 3])
            await until(source, lambda: committed(settings)[0] == 3)
            await source.commit([records[3].position])
            await until(source, lambda: committed(settings)[0] == 10)

    run(work())


def test_what_was_read_and_not_committed_comes_again(settings: KafkaSettings) -> None:
    produce(settings, 0, *(b"%d" % number for number in range(10)))

    async def work() -> None:
        async with reading(settings) as source:
            await take(source, 10)
        assert committed(settings) == [0, 0]
        async with reading(settings) as source:
            records = await take(source, 10)
            await source.commit([record.position for record in records[:4]])
        assert committed(settings) == [4, 0]  # by the end alone: nothing was polled since
        async with reading(settings) as source:
            assert [record.body for record in await take(source, 6)] == [b"%d" % number for number in range(4, 10)]

    run(work())


def test_a_rebalance_hands_over_what_is_committed_and_loses_nothing(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.sources.COMMIT_SECONDS", 1e9)  # only a rebalance or the end commits
    for partition in range(2):
        produce(settings, partition, *(b"%d" % number for number in range(10)))

    def place(record: SourceRecord) -> int:
        assert isinstance(record.position, KafkaPosition)
        return record.position.partition

    async def work() -> None:
        found: list[list[SourceRecord]] = [[], []]

        async def both(enough: Callable[[], bool]) -> None:
            while not enough():
                for number, source in enumerate((first, second)):
                    found[number] += await source.poll(100, 0.1)

        async with reading(settings) as first:
            old = await take(first, 20)
            await first.commit([record.position for record in old if record.body != b"7"])
            assert committed(settings) == [0, 0]
            async with reading(settings) as second:
                # What moves comes to its new reader from the first record on that is not durable.
                await both(lambda: len(found[1]) == 3)
                moved = place(found[1][0])
                stays = 1 - moved
                assert [record.body for record in found[1]] == [b"7", b"8", b"9"]
                assert committed(settings) == [7, 7]
                # What stays goes on: nothing comes twice, and what is under way still holds the offset.
                for partition in range(2):
                    produce(settings, partition, b"10")
                await both(lambda: len(found[0]) == 1 and len(found[1]) == 4)
                assert (found[0][0].body, place(found[0][0])) == (b"10", stays)
                await first.commit([found[0][0].position])
                await second.commit([record.position for record in found[1]])
            assert committed(settings)[moved] == 11
            await until(first, lambda: len(first._marks) == 2)  # the moved one is back, and nothing of it comes again
            assert committed(settings)[stays] == 7
            await first.commit([record.position for record in old])
        assert committed(settings) == [11, 11]

    run(work())


def test_a_join_that_ends_between_two_polls_is_not_begun_again(settings: KafkaSettings) -> None:
    async def work() -> None:
        async with reading(settings) as source:
            while source.trouble is not None:  # each poll leaves what it asks for under way
                await source.poll(100, 0)
                await asyncio.sleep(0.05)
            metadata = source._consumer.group_metadata()  # type: ignore[union-attr]
            assert (metadata.state, metadata.generation_id) == (MemberState.STABLE, 1)

    run(work())


def test_a_paused_reader_keeps_its_place(settings: KafkaSettings) -> None:
    produce(settings, 0, b"before")

    async def work() -> None:
        async with reading(settings) as source:
            records = await take(source, 1)
            source.pause()
            member = source._consumer.group_metadata().member_id  # type: ignore[union-attr]
            produce(settings, 0, *(b"%d" % number for number in range(5)))
            produce(settings, 1, b"other")
            await until(source, lambda: source.lag() == 7)
            await source.commit([records[0].position])
            await until(source, lambda: committed(settings)[0] == 1)
            assert source._consumer.group_metadata().member_id == member  # type: ignore[union-attr]
            async with reading(settings) as other:  # what is assigned anew stays paused
                other.pause()
                while other.lag() is None:
                    assert await source.poll(100, 0.1) == []
                    assert await other.poll(100, 0.1) == []
            await until(source, lambda: source.trouble is None and source.lag() == 6)
            source.resume()
            found = await take(source, 6)
            assert sorted(record.body for record in found) == [*(b"%d" % number for number in range(5)), b"other"]

    run(work())


def test_the_lag_is_what_is_not_done(settings: KafkaSettings) -> None:
    async def work() -> None:
        async with reading(settings) as source:
            before = (source.lag(), source.trouble)
            await until(source, lambda: source.lag() == 0)
            assert [before, (source.lag(), source.trouble)] == [(None, "connecting"), (0, None)]
            for partition in range(2):
                produce(settings, partition, *(b"%d" % number for number in range(10)))
            found: list[SourceRecord] = []
            while len(found) < 5:
                found += await source.poll(5 - len(found), 0.2)
            source.pause()
            await until(source, lambda: source.lag() == 20)
            await source.commit([record.position for record in found])
            await until(source, lambda: source.lag() == 15)

    run(work())


def test_sasl_is_spoken(kafka_broker: Kafka) -> None:
    settings = own_settings(
        kafka_broker.endpoints()["kafka_sasl"],
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username="edgerad",
        sasl_password=Secret(value=SecretStr("edgerad-secret")),
    )
    produce(settings, 0, b"a")

    async def work() -> None:
        async with reading(settings) as source:
            assert [record.body for record in await take(source, 1)] == [b"a"]

    run(work())
    assert bus.answers(settings, 10)
    wrong = settings.model_copy(update={"sasl_password": Secret(value=SecretStr("wrong"))})
    assert not bus.answers(wrong, 1)


NOWHERE = """
import threading
from kafka.errors import KafkaError
from edgerad import bus
from edgerad.sections import KafkaSettings
nowhere = KafkaSettings(bootstrap_servers="127.0.0.1:9")
for make in (bus.consumer, bus.producer) * 3:
    try:
        make(nowhere, bootstrap_timeout_ms=50)
    except KafkaError:
        continue
    raise SystemExit("connected")
assert not bus.answers(nowhere, 0.05)
assert threading.active_count() == 1, threading.enumerate()
"""


def test_a_client_that_finds_no_broker_leaves_no_thread_behind() -> None:
    subprocess.run([sys.executable, "-c", NOWHERE], check=True, timeout=LIMIT)


class Rebalancing:
    """A consumer whose group never settles."""

    _coordinator = SimpleNamespace(_join_task=None)
    closed = False

    def assignment(self) -> set[TopicPartition]:
        return set()

    paused = assignment

    def resume(self, *_: TopicPartition) -> None:
        return

    def poll(self, **_: int) -> dict[TopicPartition, list[Any]]:
        return {}

    def end_offsets(self, *_: object, **__: object) -> dict[TopicPartition, int]:
        return {}

    def group_metadata(self) -> ConsumerGroupMetadata:
        return ConsumerGroupMetadata("group", state=MemberState.REBALANCING)

    def close(self, **_: object) -> None:
        self.closed = True


def test_a_rebalance_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = Rebalancing()

    async def work() -> None:
        source = KafkaSource(KafkaSettings(bootstrap_servers="127.0.0.1:9"))
        source._consumer = consumer
        source._settled_at = time.monotonic()
        monkeypatch.setattr("ingest.sources.LAG_SECONDS", 0.0)
        assert await source.poll(10, 0.0) == []
        first = (source.trouble, consumer.closed)
        monkeypatch.setattr("ingest.sources.STUCK_SESSIONS", 0)
        assert await source.poll(10, 0.0) == []
        assert [first, (source.trouble, consumer.closed)] == [("rebalancing", False), ("kafka", True)]
        await source.close()

    run(work())


class Objects:
    """A bucket that nothing is asked of."""

    bucket = "xray"

    def head(self, key: str) -> Head:
        return Head("e1", 10, now(), None, "application/dicom", {})

    def check(self) -> None:
        return


class Scorer:
    """Scores everything; notes how often each was scored."""

    async def score(self, requests: list[ScoreRequest]) -> list[Outcome]:
        await asyncio.sleep(0.01)
        return [
            Scored(request.image_id, "pneumonia", 0.5, 0.0, "unknown", "m1", "c1", "t1", "litert", 0.01)
            for request in requests
        ]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """An empty ledger."""
    database = Database(f"sqlite:///{tmp_path / 'edgerad.db'}")
    database.upgrade()
    yield database
    database.close()


def event(number: int) -> bytes:
    """Return an event of an image of its own."""
    described = {"bucket": {"name": "xray"}, "object": {"key": f"a/{number}", "size": 10, "eTag": "e1"}}
    entry = {"eventVersion": "2.1", "eventSource": "ceph:s3", "eventName": "ObjectCreated:Put", "s3": described}
    return json.dumps({"Records": [entry]}).encode()


def loop_of(settings: KafkaSettings, database: Database) -> IngestLoop:
    """Return the whole loop over Kafka and the ledger."""
    books = Books(database, ShipPolicy(enabled=False, random_share=0.0), "xray.assessed", "xray.deadletter")
    tuning = IngestSettings(batch_size=8, linger=0.01, calls_in_flight=2, backoff_initial=0.05, backoff_max=0.2)
    return IngestLoop(KafkaSource(settings), Scorer(), books, Objects(), tuning)


def assessed(database: Database) -> tuple[int, int]:
    """Return the images that are assessed, and the assessments."""
    with database.read() as session:
        images = session.scalar(select(func.count()).where(Image.state == "assessed")) or 0
        return images, session.scalar(select(func.count()).select_from(Assessment)) or 0


async def wait(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    while not condition():
        await asyncio.sleep(0.05)


def feed(settings: KafkaSettings, numbers: range) -> None:
    """Announce images, spread over the partitions."""
    for partition in range(settings.partitions):
        mine = [event(number) for number in numbers if number % settings.partitions == partition]
        produce(settings, partition, *mine)


def test_actors_come_and_go_and_each_image_is_assessed_once(kafka_broker: Kafka, database: Database) -> None:
    settings = own_settings(kafka_broker.bootstrap, partitions=4)
    feed(settings, range(200))
    fed = 200

    async def work() -> None:
        nonlocal fed
        first, second = (loop_of(settings, database) for _ in range(2))
        running = asyncio.create_task(first.run())
        await wait(lambda: first.figures.assessed >= 40)
        joining = asyncio.create_task(second.run())
        while not second.figures.records:  # the first would read all there is before the second has a partition
            await asyncio.to_thread(feed, settings, range(fed, fed + 40))
            fed += 40
        await first.stop()
        await running
        await asyncio.to_thread(feed, settings, range(fed, fed + 100))
        fed += 100
        await wait(lambda: assessed(database)[0] == fed)
        await second.stop()
        await joining
        assert first.figures.assessed + second.figures.assessed == fed

    run(work())
    assert assessed(database) == (fed, fed)
    assert committed(settings) == [fed // 4] * 4


def test_a_broker_that_dies_and_comes_back_loses_and_doubles_nothing(parts_folder: Path, database: Database) -> None:
    need("kafka")
    with Kafka(parts_folder / "kafka-restart") as broker:
        settings = own_settings(broker.bootstrap)
        door = KafkaDoor(Settings(kafka=settings, gateway=GatewaySettings(kafka_timeout=2.0)))

        def announce(numbers: range) -> None:
            door.produce([(f"study {number % 5}", event(number)) for number in numbers])

        def announce_as_a_store_does(numbers: range) -> None:
            for _ in range(LIMIT):
                with contextlib.suppress(NotDurable):
                    return announce(numbers)
            raise AssertionError

        announce(range(100))
        assert door.answers()

        async def work() -> None:
            loop = loop_of(settings, database)
            running = asyncio.create_task(loop.run())
            await wait(lambda: loop.figures.assessed >= 40)
            await asyncio.to_thread(broker.kill)
            await wait(lambda: loop.trouble == "kafka")
            assert not door.answers()
            with pytest.raises(NotDurable):
                await asyncio.to_thread(announce, range(100, 125))
            await asyncio.to_thread(broker.start)
            await asyncio.to_thread(announce_as_a_store_does, range(100, 150))
            await wait(lambda: assessed(database)[0] == 150 and loop.trouble is None)
            await loop.stop()
            await running

        run(work())
        assert door.answers()
        assert assessed(database) == (150, 150)
        assert sum(committed(settings)) >= 150  # and what was announced twice, once without an answer
        door.close()
