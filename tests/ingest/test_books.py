"""The books: what is the data's fault is told from an outage, and one bad row takes no other with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from sqlalchemy import select
from sqlalchemy.exc import (
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    StatementError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from edgerad import ledger
from edgerad.database import Database
from edgerad.ledger import Letter, NewImage, Recorded, ShipPolicy
from edgerad.records import Alert, AlertEvent, Assessment, DeadLetter, Image, Outbox, Shipment
from edgerad.scoring import Outcome, Refused, Scored, Triage
from ingest.books import UNRECORDABLE, Books, is_outage


@pytest.fixture
def books(tmp_database_url: str) -> Iterator[Books]:
    """Books over an empty database: SQLite, then PostgreSQL."""
    database = Database(tmp_database_url)
    database.upgrade()
    yield Books(database, ShipPolicy(enabled=True, random_share=0.0), "xray.assessed", "xray.deadletter")
    database.close()


def image(key: str, etag: str = "e1") -> NewImage:
    """Return an image of the bucket."""
    return NewImage("xray", key, etag, None, 10, None, "kafka")


def scored(image_: NewImage, probability: float = 0.5) -> Scored:
    """Return a score."""
    return Scored(image_.image_id, "pneumonia", probability, 0.0, "unknown", "m1", "c1", "t1", "litert", 0.01)


def states(books: Books) -> dict[str, str]:
    """Return the states of all images by key."""
    with books.database.read() as session:
        return {row.key: row.state for row in session.scalars(select(Image))}


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (OperationalError("BEGIN", None, Exception("database is locked")), True),
        (InterfaceError("SELECT", None, Exception("closed")), True),
        (PoolTimeout(), True),
        (ConnectionResetError(), True),
        (DataError("INSERT", None, Exception("too long")), False),
        (IntegrityError("INSERT", None, Exception("NOT NULL")), False),
        (StatementError("cannot bind", "INSERT", None, ValueError()), False),
        (ValueError(), False),
    ],
)
def test_an_outage_is_told_from_bad_data(error: Exception, outage: bool) -> None:
    assert is_outage(error) is outage


def test_a_batch_leaves_what_its_images_alone_would_and_a_repeat_nothing(books: Books) -> None:
    images = [image(f"a/{number}") for number in range(6)]
    books.register(images)
    classes: list[Triage] = ["high", "unknown", "low", "high", "unknown"]
    outcomes: list[Outcome] = [
        dataclasses.replace(scored(item), triage=triage, header={"PatientID": item.key})
        for item, triage in zip(images, classes, strict=False)
    ]
    outcomes.append(Refused(images[5].image_id, "truncated", ""))
    first = books.record([*outcomes, *outcomes], {})
    assert (first.assessed, first.quarantined, first.alerts, first.shipments) == (5, 1, 2, 2)
    assert books.record(outcomes, {}) == Recorded()
    with books.database.read() as session:
        rows = session.execute(
            select(Image.key, Image.header, Assessment.triage, Alert.state, AlertEvent.kind, Shipment.why, Outbox.topic)
            .outerjoin(Assessment, Assessment.image_id == Image.image_id)
            .outerjoin(Alert, Alert.assessment_id == Assessment.assessment_id)
            .outerjoin(AlertEvent, AlertEvent.alert_id == Alert.alert_id)
            .outerjoin(Shipment, Shipment.assessment_id == Assessment.assessment_id)
            .outerjoin(Outbox, Outbox.key == Image.image_id)
            .order_by(Image.key)
        )
        assert [tuple(row) for row in rows] == [
            ("a/0", {"PatientID": "a/0"}, "high", "open", "opened", None, "xray.assessed"),
            ("a/1", {"PatientID": "a/1"}, "unknown", None, None, "unknown", "xray.assessed"),
            ("a/2", {"PatientID": "a/2"}, "low", None, None, None, "xray.assessed"),
            ("a/3", {"PatientID": "a/3"}, "high", "open", "opened", None, "xray.assessed"),
            ("a/4", {"PatientID": "a/4"}, "unknown", None, None, "unknown", "xray.assessed"),
            ("a/5", {}, None, None, None, None, None),
        ]


def test_what_was_assessed_before_is_not_told_again(books: Books) -> None:
    """An image that came back to pending, whatever for, keeps its one assessment by a model."""
    item = image("a/1")
    books.register([item])
    books.record([scored(item)], {})
    with books.database.write() as session:
        assert ledger.reopen(session, item.image_id, was=ledger.ASSESSED)
    assert books.record([scored(item)], {}) == Recorded()
    assert states(books) == {"a/1": "assessed"}


def test_what_no_database_takes_is_left_out_and_the_others_are_registered(books: Books) -> None:
    images = [image("a/1"), dataclasses.replace(image("a/2"), size=2**70), image("a/3")]
    assert books.register(images) == {images[0].image_id: "pending", images[2].image_id: "pending"}
    assert states(books) == {"a/1": "pending", "a/3": "pending"}


def test_an_outcome_that_cannot_be_stored_is_refused_alone(books: Books) -> None:
    images = [image(f"a/{number}") for number in range(4)]
    books.register(images)
    outcomes: list[Outcome] = [scored(item) for item in images]
    outcomes[1] = dataclasses.replace(
        scored(images[1], probability=None),  # type: ignore[arg-type]
        header={"PatientID": "T1"},
    )
    letters = {
        item.image_id: Letter("kafka", f"t/0/{number}", f"record {number}") for number, item in enumerate(images)
    }
    recorded = books.record(outcomes, letters)
    assert (recorded.assessed, recorded.quarantined) == (3, 1)
    assert states(books) == {f"a/{number}": "quarantined" if number == 1 else "assessed" for number in range(4)}
    with books.database.read() as session:
        letter = session.scalars(select(DeadLetter)).one()
        assert (letter.reason, letter.position, letter.record) == (UNRECORDABLE, "t/0/1", "record 1")
        refused = session.get_one(Image, images[1].image_id)
        assert refused.header == {"PatientID": "T1"}, "whose image it is stays known"
    again = books.record(outcomes, letters)
    assert (again.assessed, again.quarantined) == (0, 0)
    with books.database.read() as session:
        assert len(session.scalars(select(Assessment)).all()) == 3
        assert len(session.scalars(select(Outbox)).all()) == 4


def test_an_outage_is_raised_and_nothing_is_written(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [image("a/1"), image("a/2")]

    def down(*_: object) -> None:
        raise OperationalError("COMMIT", None, Exception("down"))

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "register", down)
        patch.setattr(ledger, "record", down)
        with pytest.raises(OperationalError):
            books.register(images)
        with pytest.raises(OperationalError):
            books.record([scored(images[0])], {})
    assert states(books) == {}


def test_a_database_that_takes_not_even_a_refusal_is_no_endless_loop(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> None:
        raise IntegrityError("INSERT", None, Exception("no such column"))

    monkeypatch.setattr(ledger, "record", wrong)
    with pytest.raises(RuntimeError, match="schema"):
        books.record([Refused("i1", "truncated", "why"), scored(image("a/1"))], {})


def test_letters_are_written_once_however_often_the_record_comes(books: Books) -> None:
    letters = [(Letter("kafka", f"t/0/{number}", f"record {number}"), "not-json") for number in range(2)]
    books.write_letters(letters)
    books.write_letters(letters)
    with books.database.read() as session:
        assert sorted(row.record for row in session.scalars(select(DeadLetter))) == ["record 0", "record 1"]
        assert [row.topic for row in session.scalars(select(Outbox))] == ["xray.deadletter"] * 2


def test_pending_keys_and_deletions_touch_only_what_is_pending(books: Books) -> None:
    images = [image("a/1"), image("a/1", "e2"), image("a/2"), image("a/3")]
    books.register(images)
    books.record([scored(images[3])], {})
    assert sorted(books.pending_keys("xray", ["a/1", "a/3", "a/4"])) == ["a/1"]
    assert books.pending_keys("other", ["a/1"]) == []
    assert books.deleted("xray", "a/1", "e2") == 1  # the key now holds e2
    assert books.deleted("xray", "a/3", None) == 0
    assert books.deleted("xray", "a/2", None) == 1
    with books.database.read() as session:
        found = {(row.key, row.etag): (row.state, row.reason) for row in session.scalars(select(Image))}
    assert found == {
        ("a/1", "e1"): ("deleted", "object-replaced"),
        ("a/1", "e2"): ("pending", None),
        ("a/2", "e1"): ("deleted", "object-deleted"),
        ("a/3", "e1"): ("assessed", None),
    }


def test_only_what_was_deleted_is_revived(books: Books) -> None:
    images = [image("a/1"), image("a/2")]
    books.register(images)
    books.deleted("xray", "a/1", None)
    assert [books.revive(item.image_id) for item in images] == [True, False]
    assert states(books) == {"a/1": "pending", "a/2": "pending"}
