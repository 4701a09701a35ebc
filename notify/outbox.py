"""Brings the outbox to Kafka, in order and at least once; without Kafka the table itself is the log."""

from __future__ import annotations

import json
from collections.abc import Callable

from sqlalchemy import select, update

from edgerad.database import Database
from edgerad.records import Outbox, now

Publish = Callable[[list[Outbox]], int]
"""Publish rows in order; return how many of the first ones are durable."""
BATCH = 500


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


def to_kafka(producer: object, timeout: float = 10.0) -> Publish:
    """Return a publisher by a kafka-python producer; the event_id goes along as a header."""
    from kafka.errors import KafkaError

    def publish(rows: list[Outbox]) -> int:
        futures = []
        try:
            for row in rows:
                value = json.dumps(row.payload, separators=(",", ":")).encode()
                headers = [("event_id", row.event_id.encode())]
                futures.append(
                    producer.send(row.topic, value, key=row.key.encode(), headers=headers)  # type: ignore[attr-defined]
                )
            producer.flush(timeout)  # type: ignore[attr-defined]
        except KafkaError:
            pass
        done = 0
        for future in futures:
            if not (future.is_done and future.succeeded()):
                break
            done += 1
        return done

    return publish
