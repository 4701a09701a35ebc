"""The actor's shell: it relays and reports, waits out a dead broker, and does not go on with half of itself."""

from pathlib import Path
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError
from sqlalchemy import func, select

from edgerad import bus, ledger
from edgerad.database import Database
from edgerad.records import ComponentStatus, Outbox
from edgerad.settings import Settings, load_settings
from notify.notifier import COMPONENT, NotifierActor


def prepared(folder: Path, **sections: Any) -> tuple[Settings, Database]:
    """Return settings, and a database with three events that wait."""
    settings = load_settings(data_dir=folder, **sections)
    database = Database(settings.database_url)
    database.upgrade()
    with database.write() as session:
        for number in range(3):
            ledger.publish(session, "notifier-test", "k", f"e{number}", {"n": number})
    return settings, database


def waiting(database: Database) -> int:
    """Return how many events are not published."""
    with database.read() as session:
        return session.scalar(select(func.count()).where(Outbox.published_at.is_(None))) or 0


def test_it_relays_and_reports(tmp_path: Path) -> None:
    settings, database = prepared(tmp_path)
    actor = NotifierActor(settings)
    actor._publish()
    assert waiting(database) == 0
    actor._report()
    with database.read() as session:
        row = session.get(ComponentStatus, COMPONENT)
    assert row is not None
    assert row.data == {"outbox": 0, "alerts_open": 0, "channels": 0}


def test_without_its_relay_it_raises_so_that_it_is_started_again(tmp_path: Path) -> None:
    settings, _ = prepared(tmp_path)
    with pytest.raises(RuntimeError, match="started again"):
        NotifierActor(settings)._alert()


def test_a_dead_broker_leaves_the_events_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # kafka-python's constructor waits and then raises so; it leaves sockets to the collector, which the tests forbid.
    def nobody(*_: object, **__: object) -> None:
        raise KafkaTimeoutError

    monkeypatch.setattr(bus, "producer", nobody)
    settings, database = prepared(tmp_path, kafka={"bootstrap_servers": "127.0.0.1:9"})
    NotifierActor(settings)._publish()
    assert waiting(database) == 3


@pytest.mark.real
def test_over_a_real_broker(tmp_path: Path, kafka_broker: Any) -> None:
    settings, database = prepared(
        tmp_path, kafka={"bootstrap_servers": kafka_broker.bootstrap, "topic_assessed": "notifier-test"}
    )
    bus.ensure_topics(settings.kafka)
    actor = NotifierActor(settings)
    actor._publish()
    assert waiting(database) == 0
    assert actor._producer is not None
    actor._producer.close()
