"""The edge's transactions: each function leaves the database in a state from which a repeat changes nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import BindParameter, Select, bindparam, select, text, update
from sqlalchemy.orm import Session

from edgerad import ids
from edgerad.database import Database, insert, insert_new
from edgerad.events import AssessedEvent
from edgerad.records import (
    Alert,
    AlertEvent,
    Assessment,
    Audit,
    ComponentStatus,
    DeadLetter,
    Image,
    Outbox,
    Rollout,
    Shipment,
    now,
)
from edgerad.scoring import Outcome, Refused, Scored

Row = TypeVar("Row")
PENDING, ASSESSED, QUARANTINED, DELETED = "pending", "assessed", "quarantined", "deleted"
IN_SERVICE = ("serving", "fallback")
"""States of a rollout whose model serves."""
DETAIL_LIMIT = 512

# What every batch asks and writes. Kept, so that each is built and compiled once: that costs more than running it.
IDS: BindParameter[Any] = bindparam("ids", expanding=True)
STATES = select(Image.image_id, Image.state).where(Image.image_id.in_(IDS))
# Locked, so that two actors with the same image after a rebalance decide one after the other.
STILL_PENDING = select(Image.image_id).where(Image.image_id.in_(IDS), Image.state == PENDING).with_for_update()
KNOWN_ASSESSMENTS = select(Assessment.assessment_id).where(Assessment.assessment_id.in_(IDS))
KNOWN_SHIPMENTS = select(Shipment.shipment_id).where(Shipment.shipment_id.in_(IDS))
END = update(Image).where(Image.image_id == bindparam("identity"))


@dataclass(frozen=True, slots=True)
class NewImage:
    """An object that an event or the sweep announced."""

    bucket: str
    key: str
    etag: str
    version_id: str | None
    size: int | None
    stored_at: datetime | None
    source: str

    @property
    def image_id(self) -> str:
        """The image's identity."""
        return ids.image_id(self.bucket, self.key, self.etag)


@dataclass(frozen=True, slots=True)
class Letter:
    """An original record as it came, for a dead letter: `source` kafka or sweep, `position` topic/partition/offset.

    `attempts` is how often its image was tried.
    """

    source: str
    position: str
    record: str
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class ShipPolicy:
    """What is shipped to the core: unknown cases and a random share of the rest."""

    enabled: bool
    random_share: float

    def why(self, image_id: str, triage: str) -> str | None:
        """Return unknown, random, or None (not shipped); the same for an image whenever it is asked."""
        if not self.enabled:
            return None
        if triage == "unknown":
            return "unknown"
        return "random" if ids.share(image_id, "ship") < self.random_share else None


@dataclass(slots=True)
class Recorded:
    """What a call of `record` changed; repeated outcomes count nowhere."""

    assessed: int = 0
    quarantined: int = 0
    alerts: int = 0
    shipments: int = 0


def register(database: Database, images: Sequence[NewImage]) -> dict[str, str]:
    """Insert images as pending where they are new; return the state of each by image_id."""
    rows: dict[str, dict[str, Any]] = {
        image.image_id: {
            "image_id": image.image_id,
            "bucket": image.bucket,
            "key": image.key,
            "version_id": image.version_id,
            "etag": image.etag.strip('"'),
            "size": image.size,
            "source": image.source,
            "state": PENDING,
            "header": {},
            "stored_at": image.stored_at,
        }
        for image in images
    }
    if not rows:
        return {}
    with database.write() as session:
        if insert_new(session, Image, list(rows.values())) == len(rows):
            return dict.fromkeys(rows, PENDING)
        return _states(session, rows)


def states(database: Database, image_ids: Iterable[str]) -> dict[str, str]:
    """Return the states of those images that are registered."""
    with database.read() as session:
        return _states(session, image_ids)


def _states(session: Session, image_ids: Iterable[str]) -> dict[str, str]:
    return {row.image_id: row.state for row in session.connection().execute(STATES, {"ids": list(image_ids)})}


def record(
    database: Database,
    outcomes: Sequence[Outcome],
    letters: dict[str, Letter],
    policy: ShipPolicy,
    topic_assessed: str,
    topic_deadletter: str | None = None,
) -> Recorded:
    """Write the outcomes of registered images in one transaction, with all that follows from them.

    A `Scored` makes an assessment, an outbox event, an open alert when high, a queued shipment when the policy says
    so. A `Refused` quarantines the image and leaves a dead letter with the original record of `letters`, which is also
    published where `topic_deadletter` is given. An image that is no longer pending is left as it is: a repeat changes
    nothing. Retryable refusals are the caller's.
    """
    done = Recorded()
    with database.write() as session:
        pending = _found(session, STILL_PENDING, [outcome.image_id for outcome in outcomes])
        scored: list[Scored] = []
        for outcome in outcomes:
            if outcome.image_id not in pending:
                continue
            pending.discard(outcome.image_id)
            if isinstance(outcome, Scored):
                scored.append(outcome)
            else:
                _quarantine(session, outcome, letters.get(outcome.image_id), topic_deadletter)
                done.quarantined += 1
        if scored:
            _assess(session, scored, policy, topic_assessed, done)
    return done


def _assess(session: Session, batch: Sequence[Scored], policy: ShipPolicy, topic: str, done: Recorded) -> None:
    """Write the scores of pending images, each of them once: one statement a table, however many they are."""
    at = now()
    ends = [
        {"identity": scored.image_id, "state": ASSESSED, "reason": None, "finished_at": at, "header": scored.header}
        for scored in batch
    ]
    session.connection().execute(END, ends)
    rows = {ids.assessment_id(scored.image_id, scored.model_digest): scored for scored in batch}
    rows = _new(session, KNOWN_ASSESSMENTS, rows)
    insert_new(session, Assessment, [_assessment(assessment, scored, at) for assessment, scored in rows.items()])
    insert_new(session, Outbox, [_event(assessment, scored, at, topic) for assessment, scored in rows.items()])
    alerts: list[dict[str, Any]] = []
    shipments: dict[str, dict[str, Any]] = {}
    for assessment, scored in rows.items():
        about = {"image_id": scored.image_id, "assessment_id": assessment}
        if scored.triage == "high":
            alerts.append({"alert_id": ids.digest("alert", assessment), "state": "open", **about})
        if why := policy.why(scored.image_id, scored.triage):
            shipment = ids.digest("shipment", scored.image_id)
            shipments[shipment] = {"shipment_id": shipment, "why": why, "state": "queued", **about}
    shipments = _new(session, KNOWN_SHIPMENTS, shipments)
    insert_new(session, Alert, alerts)
    insert_new(
        session, AlertEvent, [{"alert_id": a["alert_id"], "kind": "opened", "channel": "dashboard"} for a in alerts]
    )
    insert_new(session, Shipment, list(shipments.values()))
    done.assessed += len(rows)
    done.alerts += len(alerts)
    done.shipments += len(shipments)


def _new(session: Session, known: Select[str], rows: dict[str, Row]) -> dict[str, Row]:
    """Return the rows whose ids are not in the table yet; what they are about is locked by the caller."""
    if not rows:
        return rows
    there = _found(session, known, rows)
    return {key: row for key, row in rows.items() if key not in there}


def _found(session: Session, statement: Select[str], wanted: Iterable[str]) -> set[str]:
    return set(session.connection().execute(statement, {"ids": list(wanted)}).scalars())


def _assessment(identity: str, scored: Scored, at: datetime) -> dict[str, Any]:
    return {
        "assessment_id": identity,
        "image_id": scored.image_id,
        "finding": scored.finding,
        "probability": scored.probability,
        "logit": scored.logit,
        "activation": scored.activation,
        "triage": scored.triage,
        "model_digest": scored.model_digest,
        "calibration_version": scored.calibration_version,
        "threshold_version": scored.threshold_version,
        "role": "primary",
        "runtime": scored.runtime,
        "seconds": scored.seconds,
        "novelty": scored.novelty,
        "assessed_at": at,
    }


def _event(assessment: str, scored: Scored, at: datetime, topic: str) -> dict[str, Any]:
    event = AssessedEvent(
        event_id=ids.digest("assessed", assessment),
        assessment_id=assessment,
        image_id=scored.image_id,
        finding=scored.finding,
        probability=scored.probability,
        triage=scored.triage,
        model_digest=scored.model_digest,
        calibration_version=scored.calibration_version,
        threshold_version=scored.threshold_version,
        assessed_at=at,
    )
    return {
        "event_id": event.event_id,
        "topic": topic,
        "key": scored.image_id,
        "payload": event.model_dump(mode="json"),
    }


def _quarantine(session: Session, refused: Refused, letter: Letter | None, topic: str | None) -> None:
    _finish(session, refused.image_id, QUARANTINED, refused.reason, now(), header=refused.header or None)
    letter = letter or Letter("unknown", "", "")
    write_dead_letter(session, letter, refused.reason, refused.detail, refused.image_id, topic)


def _finish(
    session: Session, image_id: str, state: str, reason: str | None, at: datetime, header: dict[str, str] | None = None
) -> None:
    values: dict[str, Any] = {"state": state, "reason": reason, "finished_at": at}
    if header is not None:
        values["header"] = header
    session.execute(update(Image).where(Image.image_id == image_id).values(**values))


def mark_deleted(
    database: Database, bucket: str, key: str, keep_etag: str | None = None, reason: str = "object-deleted"
) -> int:
    """Mark the pending images of a deleted object as deleted; an assessed one keeps its assessment.

    `keep_etag` is the ETag of what the key holds now, where it was written again: that image is left alone.
    """
    with database.write() as session:
        query = select(Image.image_id).where(Image.bucket == bucket, Image.key == key, Image.state == PENDING)
        if keep_etag is not None:
            query = query.where(Image.etag != keep_etag.strip('"'))
        found = list(session.execute(query).scalars())
        for image in found:
            _finish(session, image, DELETED, reason, now())
        return len(found)


def write_dead_letter(
    session: Session,
    letter: Letter,
    reason: str,
    detail: str,
    image_id: str | None = None,
    topic: str | None = None,
) -> str:
    """Insert a dead letter, or open it again when the same record failed before; return its id.

    With `topic` it is also published: each time that it is opened, once.
    """
    identity = ids.digest("dead", letter.source, letter.position, image_id or letter.record)
    at = now()
    values = {
        "dead_letter_id": identity,
        "image_id": image_id,
        "reason": reason,
        "detail": detail[:DETAIL_LIMIT],
        "attempts": letter.attempts,
        "source": letter.source,
        "position": letter.position,
        "record": letter.record,
        "created_at": at,
        "replayed_at": None,
    }
    statement = insert(session, DeadLetter).values(**values)
    changed = {name: values[name] for name in ("reason", "detail", "attempts", "created_at", "replayed_at")}
    # One that is open already stays as it is: the redelivery of a record is no new failure.
    opened = session.execute(
        statement.on_conflict_do_update(
            index_elements=["dead_letter_id"], set_=changed, where=DeadLetter.replayed_at.is_not(None)
        ).returning(DeadLetter.dead_letter_id)
    ).scalar_one_or_none()
    if topic is not None and opened is not None:
        names = ("dead_letter_id", "image_id", "reason", "detail", "attempts", "source", "position", "record")
        payload = {name: values[name] for name in names} | {"created_at": at.isoformat()}
        publish(session, topic, identity, ids.digest("deadletter", identity, at.isoformat()), payload)
    return identity


def publish(session: Session, topic: str, key: str, event_id: str, payload: dict[str, Any]) -> None:
    """Put an event into the outbox, once by its `event_id`; notify/ brings it to Kafka."""
    insert_new(session, Outbox, [{"event_id": event_id, "topic": topic, "key": key, "payload": payload}])


def reopen(session: Session, image_id: str, was: str = QUARANTINED) -> bool:
    """Put an image back to pending (quarantined: a replay; deleted: stored again); return whether it `was` that."""
    statement = update(Image).where(Image.image_id == image_id, Image.state == was)
    found = session.execute(
        statement.values(state=PENDING, reason=None, finished_at=None).returning(Image.image_id)
    ).scalar_one_or_none()
    return found is not None


def audit(session: Session, actor: str, action: str, subject: str, detail: dict[str, Any]) -> None:
    """Append an audit record, chained by hash to the one before; `detail` must hold no patient data."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(7312)"))  # one link at a time; SQLite has one writer anyway
    previous = session.execute(select(Audit.hash).order_by(Audit.audit_id.desc()).limit(1)).scalar_one_or_none() or ""
    at = now()
    session.add(
        Audit(
            at=at,
            actor=actor,
            action=action,
            subject=subject,
            detail=detail,
            previous_hash=previous,
            hash=audit_hash(previous, at, actor, action, subject, detail),
        )
    )
    session.flush()


def audit_hash(previous: str, at: datetime, actor: str, action: str, subject: str, detail: dict[str, Any]) -> str:
    """Return the SHA-256 that links an audit record to the one before."""
    content = json.dumps([previous, at.isoformat(), actor, action, subject, detail], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def report(database: Database, component: str, data: dict[str, Any]) -> None:
    """Write a component's sign of life with its figures (lag, replicas, backlog …)."""
    with database.write() as session:
        values = {"component": component, "data": data, "at": now()}
        statement = insert(session, ComponentStatus).values(**values)
        session.execute(
            statement.on_conflict_do_update(index_elements=["component"], set_={"data": data, "at": values["at"]})
        )


def model_in_service(database: Database, edge_id: str, finding: str) -> str | None:
    """Return the digest of the model that was last put into service at an edge, or None."""
    with database.read() as session:
        query = select(Rollout.model_digest).where(
            Rollout.edge_id == edge_id, Rollout.finding == finding, Rollout.state.in_(IN_SERVICE)
        )
        return session.execute(query.order_by(Rollout.rollout_id.desc()).limit(1)).scalar_one_or_none()
