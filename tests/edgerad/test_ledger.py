"""The ledger: whatever happened stays so when it is told again, and each image has exactly one end."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from edgerad import ids, ledger
from edgerad.database import Database
from edgerad.ledger import Letter, NewImage, ShipPolicy
from edgerad.records import (
    Alert,
    AlertEvent,
    Assessment,
    Audit,
    DeadLetter,
    Image,
    Outbox,
    Record,
    Shipment,
    now,
)
from edgerad.scoring import Outcome, Refused, Scored, Triage

TOPIC = "xray.assessed"
POLICY = ShipPolicy(enabled=True, random_share=0.0)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """An empty SQLite database."""
    database = Database(f"sqlite:///{tmp_path / 'edgerad.db'}")
    database.upgrade()
    return database


def image(number: int) -> NewImage:
    """Return a new image that differs from others by its number."""
    return NewImage("xray", f"a/{number}.dcm", f"{number:032x}", None, 10, now(), "kafka")


def scored(image_id: str, triage: Triage = "high", model: str = "m1") -> Scored:
    """Return a score of an image."""
    probability = {"high": 0.93, "unknown": 0.5, "low": 0.04}[triage]
    return Scored(
        image_id, "pneumonia", probability, 2.0, triage, model, "c1", "t1", "litert", 0.01, {"PatientID": "7"}
    )


def count(database: Database, table: type[Record]) -> int:
    """Return the rows of a table."""
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def record(database: Database, *outcomes: Outcome, policy: ShipPolicy = POLICY) -> ledger.Recorded:
    """Record outcomes with letters that tell where they came from."""
    letters = {outcome.image_id: Letter("kafka", f"xray.uploaded/0/{n}", "{}") for n, outcome in enumerate(outcomes)}
    return ledger.record(database, list(outcomes), letters, policy, TOPIC)


def test_registering_again_changes_nothing(database: Database) -> None:
    first = ledger.register(database, [image(1), image(2), image(1)])
    assert set(first.values()) == {"pending"}
    record(database, scored(image(1).image_id))
    assert ledger.register(database, [image(1), image(2)]) == {
        image(1).image_id: "assessed",
        image(2).image_id: "pending",
    }
    assert count(database, Image) == 2


def test_a_high_one_opens_an_alert_and_an_event_in_one_go(database: Database) -> None:
    ledger.register(database, [image(1)])
    done = record(database, scored(image(1).image_id))
    assert (done.assessed, done.alerts, done.shipments) == (1, 1, 0)
    assert (count(database, Alert), count(database, AlertEvent), count(database, Outbox)) == (1, 1, 1)
    with database.read() as session:
        event = session.scalars(select(Outbox)).one()
        stored = session.scalars(select(Image)).one()
    assert event.topic == TOPIC
    assert event.payload["model_digest"] == "m1"
    assert not {"PatientID", "key", "header"} & set(event.payload)
    assert stored.header == {"PatientID": "7"}
    assert stored.finished_at is not None


def test_an_unknown_one_is_queued_for_shipping(database: Database) -> None:
    ledger.register(database, [image(1), image(2)])
    done = record(database, scored(image(1).image_id, "unknown"), scored(image(2).image_id, "low"))
    assert (done.shipments, done.alerts) == (1, 0)
    with database.read() as session:
        shipment = session.scalars(select(Shipment)).one()
    assert (shipment.why, shipment.state, shipment.image_id) == ("unknown", "queued", image(1).image_id)


def test_nothing_is_shipped_where_shipping_is_off() -> None:
    assert ShipPolicy(enabled=False, random_share=1.0).why("x", "unknown") is None


def test_the_random_share_is_a_share_and_repeatable() -> None:
    policy = ShipPolicy(enabled=True, random_share=0.02)
    chosen = [number for number in range(20_000) if policy.why(image(number).image_id, "low")]
    assert 300 < len(chosen) < 500  # 400 expected; 5 standard deviations are 99
    assert chosen == [number for number in range(20_000) if policy.why(image(number).image_id, "high")]


def test_a_refused_one_is_quarantined_with_its_original_record(database: Database) -> None:
    ledger.register(database, [image(1)])
    header = {"PatientName": "Doe^Jane"}
    refused = Refused(image(1).image_id, "truncated", "the pixel data end early", header=header)
    record(database, refused)
    record(database, refused)
    with database.read() as session:
        letter = session.scalars(select(DeadLetter)).one()
        stored = session.scalars(select(Image)).one()
    assert (letter.reason, letter.position, letter.record) == ("truncated", "xray.uploaded/0/0", "{}")
    assert (stored.state, stored.reason, stored.header) == ("quarantined", "truncated", header)
    assert "Jane" not in repr(refused), "whose it is stands on the worklist, and in no log"


def test_a_replayed_image_can_be_assessed(database: Database) -> None:
    ledger.register(database, [image(1)])
    record(database, Refused(image(1).image_id, "truncated", ""))
    with database.write() as session:
        assert ledger.reopen(session, image(1).image_id)
        assert not ledger.reopen(session, image(1).image_id)
    assert record(database, scored(image(1).image_id)).assessed == 1


def test_a_deleted_object_ends_only_what_was_pending(database: Database) -> None:
    ledger.register(database, [image(1), image(2)])
    record(database, scored(image(1).image_id))
    assert ledger.mark_deleted(database, "xray", "a/1.dcm") == 0
    assert ledger.mark_deleted(database, "xray", "a/2.dcm") == 1
    assert record(database, scored(image(2).image_id)).assessed == 0


def test_an_unregistered_image_is_not_recorded(database: Database) -> None:
    assert record(database, scored("unheard-of")) == ledger.Recorded()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["high", "unknown", "low", "refused"]), st.sampled_from("AB")),
        max_size=12,
    )
)
def test_any_order_of_deliveries_ends_each_image_once(
    tmp_path_factory: pytest.TempPathFactory, deliveries: list[tuple[int, str, str]]
) -> None:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'edgerad.db'}")
    database.upgrade()
    first: dict[int, str] = {}
    for number, what, model in deliveries:
        ledger.register(database, [image(number)])
        identity = image(number).image_id
        record(
            database,
            Refused(identity, "truncated", "") if what == "refused" else scored(identity, what, model),  # type: ignore[arg-type]
        )
        first.setdefault(number, what)
    assessed = {number for number, what in first.items() if what != "refused"}
    assert count(database, Assessment) == count(database, Outbox) == len(assessed)
    assert count(database, DeadLetter) == len(first) - len(assessed)
    assert count(database, Alert) == sum(what == "high" for what in first.values())
    assert count(database, Shipment) == sum(what == "unknown" for what in first.values())
    with database.read() as session:
        ends = {row.image_id: row.state for row in session.scalars(select(Image))}
    assert ends == {
        image(number).image_id: "quarantined" if what == "refused" else "assessed" for number, what in first.items()
    }
    database.close()


def test_audit_records_are_chained(database: Database) -> None:
    with database.write() as session:
        for subject in ("a", "b", "c"):
            ledger.audit(session, "tester", "did", subject, {"n": 1})
    with database.read() as session:
        rows = list(session.scalars(select(Audit).order_by(Audit.audit_id)))
    assert rows[0].previous_hash == ""
    for previous, row in zip(["", *[row.hash for row in rows]], rows, strict=False):
        assert row.hash == ledger.audit_hash(previous, row.at, row.actor, row.action, row.subject, row.detail)


def test_identities_are_of_content_and_place() -> None:
    assert ids.image_id("b", "k", '"abc"') == ids.image_id("b", "k", "abc")
    assert ids.image_id("b", "k", "abc") != ids.image_id("bk", "", "abc")
    assert ids.study_key("s1/a.dcm") == ids.study_key("s1/b.dcm") != ids.study_key("s2/a.dcm")


def test_a_deletion_leaves_the_image_that_took_the_keys_place(database: Database) -> None:
    old, new = (NewImage("xray", "a/1.dcm", etag * 32, None, 10, now(), "kafka") for etag in "ab")
    ledger.register(database, [old, new])
    assert ledger.mark_deleted(database, "xray", "a/1.dcm", keep_etag=f'"{new.etag}"', reason="object-replaced") == 1
    assert ledger.states(database, [old.image_id, new.image_id]) == {old.image_id: "deleted", new.image_id: "pending"}


def test_an_image_that_is_stored_again_after_its_deletion_is_pending_again(database: Database) -> None:
    ledger.register(database, [image(1)])
    ledger.mark_deleted(database, "xray", "a/1.dcm")
    with database.write() as session:
        assert not ledger.reopen(session, image(1).image_id)
        assert ledger.reopen(session, image(1).image_id, was=ledger.DELETED)
    assert record(database, scored(image(1).image_id)).assessed == 1


def test_a_dead_letter_is_published_each_time_it_is_opened_and_not_on_redelivery(database: Database) -> None:
    letter = Letter("kafka", "xray.uploaded/0/7", "no json", attempts=3)
    for _ in range(2):
        with database.write() as session:
            ledger.write_dead_letter(session, letter, "not-json", "why", topic="xray.deadletter")
    assert (count(database, DeadLetter), count(database, Outbox)) == (1, 1)
    with database.write() as session:
        session.scalars(select(DeadLetter)).one().replayed_at = now()
    with database.write() as session:
        ledger.write_dead_letter(session, letter, "not-json", "why", topic="xray.deadletter")
    with database.read() as session:
        opened = session.scalars(select(DeadLetter)).one()
        events = session.scalars(select(Outbox)).all()
    assert opened.replayed_at is None
    assert [(event.topic, event.key) for event in events] == [("xray.deadletter", opened.dead_letter_id)] * 2
    assert events[0].payload["record"] == "no json"
    assert (events[0].payload["reason"], events[0].payload["attempts"]) == ("not-json", 3)


def test_a_quarantined_image_s_dead_letter_tells_its_own_attempts(database: Database) -> None:
    ledger.register(database, [image(1)])
    letters = {image(1).image_id: Letter("kafka", "xray.uploaded/0/1", "{}", attempts=8)}
    refused = Refused(image(1).image_id, "store-unavailable", "")
    ledger.record(database, [refused], letters, POLICY, TOPIC, "xray.deadletter")
    with database.read() as session:
        assert session.scalars(select(DeadLetter)).one().attempts == 8
        assert session.scalars(select(Outbox)).one().payload["image_id"] == image(1).image_id
