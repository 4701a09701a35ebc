"""Topics of a test's own on the shared broker: what is put into them, and what is committed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from typing import Any

import pytest
from kafka import TopicPartition

from edgerad import bus
from edgerad.sections import KafkaSettings

MARKS = [
    pytest.mark.real,
    pytest.mark.usefixtures("collected_sockets"),
    # kafka-python leaves sockets that did not connect to the garbage collector.
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]
LIMIT = 120
"""Seconds after which a test that gets nowhere fails; nothing here depends on how fast it gets there."""


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
