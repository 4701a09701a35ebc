"""Brings the outbox to Kafka, in order and at least once; without Kafka the table itself is the log."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from edgerad.database import Database
from edgerad.records import Outbox, now

if TYPE_CHECKING:
    from kafka import KafkaProducer

Publish = Callable[[list[Outbox]], int]
"""Publish rows in order; return how many of the first ones are durable."""
BATCH = 500
MAX_BYTES = 900_000
"""Kafka's brokers and producers refuse messages over 1 MiB unless told otherwise."""


def relay(database: Database, publish: Publish) -> int:
    """Publish what waits, oldest first, and mark what is durable; return how many. Stops at the first failure."""
    with database.read() as session:
        query = select(Outbox).where(Outbox.published_at.is_(None)).order_by(Outbox.outbox_id).limit(BATCH)
        rows = list(session.scalars(query))
    if not rows:
        return 0
    done = publish(rows)
    if done:
        with database.write() as session:
            ids = [row.outbox_id for row in rows[:done]]
            session.execute(update(Outbox).where(Outbox.outbox_id.in_(ids)).values(published_at=now()))
    return done


def keep(rows: list[Outbox]) -> int:
    """Publish nowhere: the table is the log."""
    return len(rows)


def encode(row: Outbox) -> bytes:
    """Return an event as JSON.

    One that Kafka would refuse for its size (a dead letter of a huge record) goes without its longest field, which is
    named in `omitted` and stays in the database: it must not hold up all that come after it.
    """
    payload = dict(row.payload)
    value = _json(payload)
    omitted: list[str] = []
    while len(value) > MAX_BYTES and payload:
        longest = max(payload, key=lambda name: len(_json(payload[name])))
        del payload[longest]
        omitted.append(longest)
        value = _json(payload | {"omitted": omitted})
    return value


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def to_kafka(producer: KafkaProducer, timeout: float = 15.0) -> Publish:
    """Return a publisher by a kafka-python producer; the event_id goes along as a header."""
    from kafka.errors import KafkaError

    def publish(rows: list[Outbox]) -> int:
        futures = []
        try:
            for row in rows:
                headers = [("event_id", row.event_id.encode())]
                futures.append(producer.send(row.topic, encode(row), key=row.key.encode(), headers=headers))
            producer.flush(timeout)
        except KafkaError:
            pass  # what is durable all the same counts, the rest waits for the next time
        done = 0
        for future in futures:
            if not (future.is_done and future.succeeded()):
                break
            done += 1
        return done

    return publish
