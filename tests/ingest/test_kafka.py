"""KafkaSource against Apache Kafka: what is not durable comes again, what is does not, whatever dies in between."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.structs import ConsumerGroupMetadata, MemberState
from pydantic import SecretStr

from deploy.kafka import Kafka
from edgerad import bus
from edgerad.sections import KafkaSettings, Secret
from ingest.sources import KafkaPosition, KafkaSource, SourceRecord
from tests.ingest.topics import LIMIT, MARKS, committed, own_settings, produce, run

pytestmark = MARKS


@pytest.fixture
def settings(kafka_broker: Kafka) -> KafkaSettings:
    """Settings with topics and a group of the test's own."""
    return own_settings(kafka_broker.bootstrap)


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
            await until(source, lambda: source.trouble is None and source.lag() is not None)
            assert [before, source.lag()] == [(None, "connecting"), 0]
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


def test_of_more_readers_than_partitions_one_has_the_lag_and_the_other_has_none(kafka_broker: Kafka) -> None:
    settings = own_settings(kafka_broker.bootstrap, partitions=1)
    produce(settings, 0, b"a", b"b", b"c")

    async def work() -> None:
        async with reading(settings) as first, reading(settings) as second:
            both = (first, second)
            for source in both:
                source.pause()
            while any(source.trouble for source in both) or None in [source.lag() for source in both]:
                for source in both:
                    assert await source.poll(100, 0.1) == []
            assert {source.lag() for source in both} == {0, 3}

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
        first = (source.trouble, source.lag(), consumer.closed)
        monkeypatch.setattr("ingest.sources.STUCK_SESSIONS", 0)
        assert await source.poll(10, 0.0) == []
        assert [first, (source.trouble, consumer.closed)] == [("rebalancing", None, False), ("kafka", True)]
        await source.close()

    run(work())


class Spare(Rebalancing):
    """A consumer that joined and was assigned nothing; fails once told to."""

    fails = False

    def poll(self, **_: int) -> dict[TopicPartition, list[Any]]:
        if self.fails:
            raise OSError
        return {}

    def group_metadata(self) -> ConsumerGroupMetadata:
        return ConsumerGroupMetadata("group", state=MemberState.STABLE)


def test_a_reader_that_gets_no_partition_has_no_lag_and_one_that_lost_its_connection_knows_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ingest.sources.LAG_SECONDS", 0.0)
    consumer = Spare()

    async def work() -> None:
        source = KafkaSource(KafkaSettings(bootstrap_servers="127.0.0.1:9"))
        source._consumer = consumer
        assert await source.poll(10, 0.0) == []
        joined = (source.lag(), source.trouble)
        consumer.fails = True
        assert await source.poll(10, 0.0) == []
        assert [joined, (source.lag(), source.trouble)] == [(0, None), (None, "kafka")]
        await source.close()

    run(work())


class Bursting(Rebalancing):
    """A consumer with ten records in each of two partitions, of which it has fetched the first one alone."""

    fetched, other = TopicPartition("uploaded", 0), TopicPartition("uploaded", 1)
    asked = 0

    def assignment(self) -> set[TopicPartition]:
        return {self.fetched, self.other}

    def poll(self, **_: int) -> dict[TopicPartition, list[Any]]:
        return {self.fetched: [SimpleNamespace(offset=offset, value=b"") for offset in range(5)]}

    def highwater(self, partition: TopicPartition) -> int:
        return 10 if partition == self.fetched else 0

    def position(self, partition: TopicPartition, **_: int) -> int:
        return 5 if partition == self.fetched else 0

    def commit(self, *_: object, **__: object) -> None:
        return

    def end_offsets(self, *_: object, **__: object) -> dict[TopicPartition, int]:
        self.asked += 1
        return {self.fetched: 10, self.other: 10}

    def group_metadata(self) -> ConsumerGroupMetadata:
        return ConsumerGroupMetadata("group", state=MemberState.STABLE)


def test_the_first_lag_of_a_backlog_counts_what_is_not_fetched_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.sources.LAG_SECONDS", 0.0)
    consumer = Bursting()

    async def work() -> None:
        source = KafkaSource(KafkaSettings(bootstrap_servers="127.0.0.1:9"))
        source._consumer, source._trouble = consumer, None
        source._asked_at = time.monotonic()
        assert len(await source.poll(10, 0.0)) == 5
        assert (source.lag(), consumer.asked) == (20, 1)
        await source.poll(10, 0.0)
        assert consumer.asked == 1, "while it lasts, each fetch tells"
        await source.close()

    run(work())
