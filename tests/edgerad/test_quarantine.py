"""Quarantine: a person's decision is taken once, audited, and sends nothing by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from edgerad import ledger, quarantine
from edgerad.audit import verify
from edgerad.database import Database
from edgerad.decisions import DecisionError
from edgerad.ledger import Letter, NewImage, ShipPolicy
from edgerad.records import Audit, DeidRecord, Shipment, now
from edgerad.scoring import Scored


def waits(database: Database, reason: str, number: int = 0) -> str:
    """Put one image into quarantine and return its shipment's id."""
    image = NewImage("xray", f"a/{number}.dcm", f"e{number}", None, 9, now(), "kafka")
    ledger.register(database, [image])
    scored = Scored(image.image_id, "pneumonia", 0.5, 0.0, "unknown", "a" * 64, "c", "t", "litert", 0.01)
    ledger.record(database, [scored], {image.image_id: Letter("kafka", "t/0/0", "{}")}, ShipPolicy(True, 0.0), "topic")
    with database.write() as session:
        shipment = session.scalars(select(Shipment).where(Shipment.image_id == image.image_id)).one()
        detail = {"reason": reason, "detail": "a sentence", "boxes": [[1, 2, 30, 40], [5, 50, 60, 70]]}
        record = DeidRecord(deid_record_id=f"r{number}", image_id=image.image_id, verified=False, detail=detail)
        session.add(record)
        session.flush()
        shipment.state, shipment.reason, shipment.closed_at = "quarantined", reason, now()
        shipment.deid_record_id = record.deid_record_id
        return shipment.shipment_id


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """An empty database."""
    database = Database(f"sqlite:///{tmp_path / 'edgerad.db'}")
    database.upgrade()
    yield database
    database.close()


def shipment(database: Database, shipment_id: str) -> Shipment:
    with database.read() as session:
        found = session.get(Shipment, shipment_id)
    assert found is not None
    return found


def audits(database: Database) -> list[Audit]:
    with database.read() as session:
        return list(session.scalars(select(Audit).order_by(Audit.audit_id)))


def test_what_waits_is_listed_the_oldest_first_with_reason_and_boxes(database: Database) -> None:
    first, second = waits(database, "not-verified", 1), waits(database, "sop-class", 2)
    found = quarantine.waiting(database)
    assert [case.shipment.shipment_id for case in found] == [first, second]
    assert found[0].boxes == ((1, 2, 30, 40), (5, 50, 60, 70))
    assert found[0].detail == "a sentence"
    assert [case.can_be_released for case in found] == [True, False]
    assert quarantine.count(database) == 2


def test_a_release_queues_the_image_with_its_boxes_and_is_audited_with_a_name(database: Database) -> None:
    identity = waits(database, "too-much-text")
    assert quarantine.release(database, identity, [(1, 2, 30, 40)], [(5, 50, 60, 70)], "Dr. Ada")
    row = shipment(database, identity)
    assert (row.state, row.closed_at, row.parcel_id) == ("queued", None, None)
    assert row.release == {"boxes": [[1, 2, 30, 40]], "dismissed": [[5, 50, 60, 70]]}
    (audit,) = audits(database)
    assert (audit.actor, audit.action, audit.subject) == ("person:Dr. Ada", "quarantine-released", identity)
    assert audit.detail == {"reason": "too-much-text", "record": "r0", **row.release}
    assert verify(database) == (1, None)
    assert quarantine.waiting(database) == []


def test_the_first_decision_counts_and_a_second_changes_nothing(database: Database) -> None:
    identity = waits(database, "not-verified")
    assert quarantine.refuse(database, identity, "Dr. Ada")
    assert not quarantine.release(database, identity, [(1, 2, 3, 4)], [], "Dr. Bo")
    assert not quarantine.retry(database, identity, "Dr. Bo")
    assert (shipment(database, identity).state, len(audits(database))) == ("withheld", 1)


def test_a_cause_that_was_mended_is_tried_again_without_boxes(database: Database) -> None:
    identity = waits(database, "key-missing")
    assert quarantine.retry(database, identity, "Dr. Ada")
    row = shipment(database, identity)
    assert (row.state, row.release, row.attempts) == ("queued", None, 0)
    assert audits(database)[0].action == "quarantine-retried"


@pytest.mark.parametrize("reason", ["sop-class", "key-missing", "patient-id-missing", "unreadable", "engine-crashed"])
def test_what_no_look_at_the_pixels_settles_is_not_released(database: Database, reason: str) -> None:
    identity = waits(database, reason)
    with pytest.raises(DecisionError, match="cannot settle"):
        quarantine.release(database, identity, [], [], "Dr. Ada")
    assert (shipment(database, identity).state, audits(database)) == ("quarantined", [])


@pytest.mark.parametrize(
    ("boxes", "person", "said"),
    [
        ([(5, 5, 5, 9)], "Dr. Ada", "right edge"),
        ([(-1, 0, 5, 9)], "Dr. Ada", "right edge"),
        ([(0, 9, 5, 9)], "Dr. Ada", "right edge"),
        ([(0, 0, 5, 9)] * 201, "Dr. Ada", "more than 200"),
        ([(0, 0, 5, 9)], "  ", "who you are"),
    ],
)
def test_a_wrong_decision_is_refused_and_says_what_to_do(
    database: Database, boxes: list[tuple[int, int, int, int]], person: str, said: str
) -> None:
    identity = waits(database, "not-verified")
    with pytest.raises(DecisionError, match=said):
        quarantine.release(database, identity, boxes, [], person)
    assert (shipment(database, identity).state, audits(database)) == ("quarantined", [])


def test_an_image_that_is_not_there_cannot_be_decided_about(database: Database) -> None:
    with pytest.raises(DecisionError, match="reload"):
        quarantine.refuse(database, "nothing", "Dr. Ada")
