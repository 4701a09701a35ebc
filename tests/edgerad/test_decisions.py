"""Decisions are append-only, audited without patient data, and a second click changes nothing; on both databases."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from edgerad import decisions, ids, ledger
from edgerad.audit import verify
from edgerad.database import Database
from edgerad.decisions import DecisionError
from edgerad.ledger import NewImage, ShipPolicy
from edgerad.records import Alert, AlertEvent, Assessment, Audit, CoreCase, Label, Review, now
from edgerad.scoring import Scored

IMAGE = NewImage("xray", "doe/jane.dcm", "e" * 32, None, 1, now(), "kafka")


@pytest.fixture
def database(tmp_database_url: str) -> Iterator[Database]:
    """One high image with its alert, and one case at the core."""
    database = Database(tmp_database_url)
    database.upgrade()
    ledger.register(database, [IMAGE])
    scored = Scored(
        IMAGE.image_id, "pneumonia", 0.9, 2.0, "high", "m" * 64, "c", "t", "litert", 0.1, {"PatientName": "Doe^Jane"}
    )
    ledger.record(database, [scored], {}, ShipPolicy(False, 0), "xray.assessed")
    case = {
        "case_id": "case", "edge_id": "edge", "object_key": "k", "object_digest": "d", "media_type": "image/png",
        "patient": "p", "finding": "pneumonia", "probability": 0.5, "triage": "unknown", "model_digest": "m",
        "why": "unknown", "split": "train", "manifest": {},
    }  # fmt: skip
    with database.write() as session:
        session.add(CoreCase(**case))
    yield database
    database.close()


def alert_id(database: Database) -> str:
    """Return the id of the one alert."""
    with database.read() as session:
        return session.scalars(select(Alert.alert_id)).one()


def audits(database: Database) -> list[tuple[str, str, str]]:
    """Return who did what to what."""
    with database.read() as session:
        return [(row.actor, row.action, row.subject) for row in session.scalars(select(Audit).order_by(Audit.audit_id))]


def test_the_first_acknowledgement_stays(database: Database) -> None:
    alert = alert_id(database)
    assert decisions.acknowledge(database, alert, " Dr.  Ada ")
    assert not decisions.acknowledge(database, alert, "Dr. Ben")
    with database.read() as session:
        row = session.get(Alert, alert)
        kinds = list(session.scalars(select(AlertEvent.kind).order_by(AlertEvent.alert_event_id)))
    assert row is not None
    assert (row.state, row.acknowledged_by, row.next_attempt_at) == ("acknowledged", "Dr. Ada", None)
    assert row.acknowledged_at is not None
    assert kinds == ["opened", "acknowledged"]
    assert audits(database) == [("person:Dr. Ada", "alert-acknowledged", alert)]
    assert verify(database) == (1, None)


def test_an_acknowledgement_is_withdrawn_once_and_both_stay_in_the_history(database: Database) -> None:
    alert = alert_id(database)
    decisions.acknowledge(database, alert, "Dr. Ada")
    assert decisions.withdraw_acknowledgement(database, alert, " Dr.  Ben ", " Doe, Jane: not my patient ")
    assert not decisions.withdraw_acknowledgement(database, alert, "Dr. Cy", "me, too")
    with database.read() as session:
        row = session.get_one(Alert, alert)
        events = [
            (event.kind, event.person, event.comment)
            for event in session.scalars(select(AlertEvent).order_by(AlertEvent.alert_event_id))
        ]
        trail = str([(entry.subject, entry.detail) for entry in session.scalars(select(Audit))])
    assert (row.state, row.acknowledged_at, row.acknowledged_by) == ("open", None, None)
    assert (row.attempts, row.next_attempt_at) == (0, None)
    assert events == [
        ("opened", None, ""),
        ("acknowledged", "Dr. Ada", ""),
        ("reopened", "Dr. Ben", "Doe, Jane: not my patient"),
    ]
    assert audits(database) == [
        ("person:Dr. Ada", "alert-acknowledged", alert),
        ("person:Dr. Ben", "acknowledgement-withdrawn", alert),
    ]
    assert "Doe" not in trail
    assert verify(database) == (2, None)
    assert decisions.acknowledge(database, alert, "Dr. Cy")


def test_an_acknowledgement_that_was_given_meanwhile_is_not_withdrawn(database: Database) -> None:
    alert = alert_id(database)
    decisions.acknowledge(database, alert, "Dr. Ada")
    with database.read() as session:
        seen = session.get_one(Alert, alert).acknowledged_at
    decisions.withdraw_acknowledgement(database, alert, "Dr. Ben", "wrong", seen=seen)
    decisions.acknowledge(database, alert, "Dr. Cy")
    assert not decisions.withdraw_acknowledgement(database, alert, "Dr. Dee", "wrong", seen=seen)
    with database.read() as session:
        assert session.get_one(Alert, alert).acknowledged_by == "Dr. Cy"


def test_of_many_who_withdraw_at_once_one_does(database: Database) -> None:
    alert = alert_id(database)
    decisions.acknowledge(database, alert, "Dr. Ada")
    together = threading.Barrier(6)

    def withdraw(number: int) -> bool:
        together.wait()
        return decisions.withdraw_acknowledgement(database, alert, f"Dr. {number}", "wrong")

    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(withdraw, range(6)))
    assert done.count(True) == 1
    with database.read() as session:
        kinds = list(session.scalars(select(AlertEvent.kind).order_by(AlertEvent.alert_event_id)))
    assert kinds == ["opened", "acknowledged", "reopened"]


def test_reviews_are_kept_and_a_second_click_adds_none(database: Database) -> None:
    assert decisions.review(database, IMAGE.image_id, "positive", "Ada", "Doe, Jane: left base")
    assert not decisions.review(database, IMAGE.image_id, "positive", "Ada", "Doe, Jane: left base")
    assert decisions.review(database, IMAGE.image_id, "negative", "Ben")
    assert decisions.review(database, IMAGE.image_id, "positive", "Ada", "Doe, Jane: left base"), "again, after Ben"
    with database.read() as session:
        found = [(row.verdict, row.reviewer) for row in session.scalars(select(Review).order_by(Review.review_id))]
        trail = str([row.detail for row in session.scalars(select(Audit))])
    assert found == [("positive", "Ada"), ("negative", "Ben"), ("positive", "Ada")]
    assert "Doe" not in trail
    assert verify(database) == (3, None)


def test_a_review_is_of_the_assessment_that_was_seen(database: Database) -> None:
    seen = ids.assessment_id(IMAGE.image_id, "m" * 64)
    with database.write() as session:
        old = session.get(Assessment, seen)
        assert old is not None
        values = {column.name: getattr(old, column.name) for column in Assessment.__table__.columns}
        values |= {"assessment_id": "newer", "model_digest": "n" * 64, "assessed_at": now()}
        session.add(Assessment(**values))
    decisions.review(database, IMAGE.image_id, "positive", "Ada", assessment_id=seen)
    decisions.review(database, IMAGE.image_id, "positive", "Ada")
    with database.read() as session:
        found = list(session.scalars(select(Review.assessment_id).order_by(Review.review_id)))
    assert found == [seen, "newer"]


def test_labels_are_kept_and_a_second_click_adds_none(database: Database) -> None:
    assert decisions.label(database, "case", "unsure", "Ada")
    assert not decisions.label(database, "case", "unsure", "Ada")
    assert decisions.label(database, "case", "positive", "Ada")
    with database.read() as session:
        found = list(session.scalars(select(Label.label).order_by(Label.label_id)))
    assert found == ["unsure", "positive"]
    assert [action for _, action, _ in audits(database)] == ["labelled", "labelled"]


def test_neither_reviews_nor_labels_can_be_changed_afterwards(database: Database) -> None:
    decisions.review(database, IMAGE.image_id, "positive", "Ada")
    decisions.label(database, "case", "positive", "Ada")
    for table in (Review, Label):
        with pytest.raises(DBAPIError, match="append-only"), database.write() as session:
            session.delete(session.scalars(select(table)).one())


def test_a_decision_that_cannot_be_taken_says_why_and_writes_nothing(database: Database) -> None:
    alert = alert_id(database)
    with pytest.raises(DecisionError, match="say who you are"):
        decisions.acknowledge(database, alert, " \t\n")
    with pytest.raises(DecisionError, match="1 to 57"):
        decisions.acknowledge(database, alert, "x" * 58)
    with pytest.raises(DecisionError, match="no such alert"):
        decisions.acknowledge(database, "none", "Ada")
    with pytest.raises(DecisionError, match="no such alert"):
        decisions.withdraw_acknowledgement(database, "none", "Ada", "why")
    with pytest.raises(DecisionError, match="say who you are"):
        decisions.withdraw_acknowledgement(database, alert, "", "why")
    for reason in (" \n", "x" * 2001):
        with pytest.raises(DecisionError, match="say why"):
            decisions.withdraw_acknowledgement(database, alert, "Ada", reason)
    with pytest.raises(DecisionError, match="positive, negative, unsure"):
        decisions.review(database, IMAGE.image_id, "maybe", "Ada")
    with pytest.raises(DecisionError, match="no such assessment"):
        decisions.review(database, "none", "positive", "Ada")
    with pytest.raises(DecisionError, match="no such assessment"):
        decisions.review(database, IMAGE.image_id, "positive", "Ada", assessment_id="another image's")
    with pytest.raises(DecisionError, match="comment"):
        decisions.review(database, IMAGE.image_id, "positive", "Ada", "x" * 2001)
    with pytest.raises(DecisionError, match="no such case"):
        decisions.label(database, "none", "positive", "Ada")
    assert audits(database) == []


def test_the_longest_name_fits_and_control_characters_do_not(database: Database) -> None:
    assert decisions.acknowledge(database, alert_id(database), "é" * 50 + "\x00\x1b\u202eabc")
    assert audits(database)[0][0] == "person:" + "é" * 50 + " abc"
    assert decisions.review(database, IMAGE.image_id, "positive", "x" * 57)
