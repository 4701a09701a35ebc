"""The outbox reaches Kafka in order and at least once; nothing in it holds up the rest; without Kafka it is the log."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select

from edgerad import bus, ledger
from edgerad.database import Database
from edgerad.records import Outbox
from edgerad.sections import KafkaSettings
from notify import outbox


@pytest.fixture
def database(tmp_database_url: str) -> Iterator[Database]:
    """Five events that wait."""
    database = Database(tmp_database_url)
    database.upgrade()
    add(database, *range(5))
    yield database
    database.close()


def add(database: Database, *numbers: int, topic: str = "t") -> None:
    """Put events into the outbox."""
    with database.write() as session:
        for number in numbers:
            ledger.publish(session, topic, f"k{number % 2}", f"event-{number}", {"n": number})


def waiting(database: Database) -> list[int]:
    """Return the numbers of the events that are not published."""
    with database.read() as session:
        query = select(Outbox.payload).where(Outbox.published_at.is_(None)).order_by(Outbox.outbox_id)
        return [payload["n"] for payload in session.scalars(query)]


def test_without_kafka_the_rows_are_the_log(database: Database) -> None:
    assert outbox.relay(database, outbox.keep) == 5
    assert waiting(database) == []
    assert outbox.relay(database, outbox.keep) == 0
    with database.read() as session:
        assert len(session.scalars(select(Outbox)).all()) == 5


def test_what_is_not_durable_waits_and_comes_again_in_order(database: Database) -> None:
    seen: list[list[int]] = []

    def three(rows: list[Outbox]) -> int:
        seen.append([row.payload["n"] for row in rows])
        return min(3, len(rows))

    assert outbox.relay(database, three) == 3
    add(database, 5)
    assert outbox.relay(database, three) == 3
    assert seen == [[0, 1, 2, 3, 4], [3, 4, 5]]
    assert waiting(database) == []


def test_a_crash_before_the_note_publishes_again(database: Database) -> None:
    seen: list[int] = []

    def crash(rows: list[Outbox]) -> int:
        seen.extend(row.payload["n"] for row in rows)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        outbox.relay(database, crash)
    assert waiting(database) == [0, 1, 2, 3, 4]


class Future:
    """As kafka-python's."""

    def __init__(self, done: bool, fine: bool) -> None:
        self.is_done, self._fine = done, fine

    def succeeded(self) -> bool:
        return self._fine


class Producer:
    """Sends with the outcomes it was given; raises where one is an exception."""

    def __init__(self, *outcomes: tuple[bool, bool] | Exception) -> None:
        self._outcomes = list(outcomes)

    def send(self, topic: str, value: bytes, key: bytes, headers: list[tuple[str, bytes]]) -> Future:
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return Future(*outcome)

    def flush(self, timeout: float) -> None:
        from kafka.errors import KafkaTimeoutError

        raise KafkaTimeoutError


OK, FAILED, UNDER_WAY = (True, True), (True, False), (False, False)


@pytest.mark.parametrize(
    ("outcomes", "durable"),
    [
        ([OK] * 5, 5),
        ([OK, OK, FAILED, OK, OK], 2),
        ([UNDER_WAY, OK, OK, OK, OK], 0),
        ([OK, "error"], 1),
    ],
)
def test_only_what_the_broker_confirmed_from_the_start_on_counts(
    database: Database, outcomes: list[Any], durable: int
) -> None:
    from kafka.errors import KafkaTimeoutError

    producer: Any = Producer(*(KafkaTimeoutError() if outcome == "error" else outcome for outcome in outcomes))
    assert outbox.relay(database, outbox.to_kafka(producer)) == durable
    assert waiting(database) == [0, 1, 2, 3, 4][durable:]


def test_an_event_that_kafka_would_refuse_goes_without_its_longest_field() -> None:
    row = Outbox(topic="t", key="k", event_id="e", payload={"reason": "too-large", "record": "é" * 700_000, "n": 1})
    value = outbox.encode(row)
    assert len(value) < 1_000_000
    assert json.loads(value) == {"reason": "too-large", "n": 1, "omitted": ["record"]}
    small = Outbox(topic="t", key="k", event_id="e", payload={"record": "é" * 400_000})
    assert json.loads(outbox.encode(small)) == small.payload


@pytest.mark.real
def test_over_a_real_broker(kafka_broker: Any, tmp_path: Any) -> None:
    from kafka import KafkaConsumer

    database = Database(f"sqlite:///{tmp_path / 'edgerad.db'}")
    database.upgrade()
    topic = "notify-outbox-test"
    add(database, *range(50), topic=topic)
    with database.write() as session:
        ledger.publish(session, topic, "big", "event-50", {"n": 50, "record": "x" * 3_000_000})
    add(database, 51, topic=topic)
    settings = KafkaSettings(bootstrap_servers=kafka_broker.bootstrap, topic_assessed=topic, partitions=3)
    bus.ensure_topics(settings)
    producer = bus.producer(settings)
    assert outbox.relay(database, outbox.to_kafka(producer)) == 52
    producer.close()
    assert waiting(database) == []
    consumer = KafkaConsumer(
        topic, bootstrap_servers=kafka_broker.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=5000,
        group_id=None,
    )  # fmt: skip
    records = list(consumer)
    consumer.close()
    assert sorted(json.loads(record.value)["n"] for record in records) == list(range(52))
    for key in (b"k0", b"k1"):
        numbers = [json.loads(record.value)["n"] for record in records if record.key == key]
        assert numbers == sorted(numbers), "events of one key keep their order"
    for record in records:
        assert dict(record.headers)["event_id"] == f"event-{json.loads(record.value)['n']}".encode()
