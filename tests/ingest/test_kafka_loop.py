"""The ingest loop over Apache Kafka: actors come and go, the broker dies, and each image is assessed once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, select

from deploy.kafka import Kafka
from edgerad.database import Database
from edgerad.ledger import ShipPolicy
from edgerad.records import Assessment, Image
from edgerad.sections import GatewaySettings, IngestSettings, KafkaSettings
from edgerad.settings import Settings
from ingest.books import Books
from ingest.gateway import KafkaDoor, NotDurable
from ingest.loop import IngestLoop
from ingest.sources import KafkaSource
from tests.conftest import need
from tests.ingest.stage import Objects, Scorer, event, message
from tests.ingest.topics import LIMIT, MARKS, committed, own_settings, produce, run

pytestmark = MARKS


async def a_moment(_: str) -> None:
    """Take some time, so that a backlog is not worked off at once."""
    await asyncio.sleep(0.005)


def announcement(number: int) -> bytes:
    """Return an event of an image of its own."""
    return message(event(f"a/{number}"))


def loop_of(settings: KafkaSettings, database: Database) -> IngestLoop:
    """Return the whole loop over Kafka and the ledger."""
    books = Books(database, ShipPolicy(enabled=False, random_share=0.0), "xray.assessed", "xray.deadletter")
    tuning = IngestSettings(batch_size=8, linger=0.01, calls_in_flight=2, backoff_initial=0.05, backoff_max=0.2)
    return IngestLoop(KafkaSource(settings), Scorer(step=a_moment), books, Objects(), tuning)


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
        mine = [announcement(number) for number in numbers if number % settings.partitions == partition]
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
            door.produce([(f"study {number % 5}", announcement(number)) for number in numbers])

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
