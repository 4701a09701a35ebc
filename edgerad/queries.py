"""What the dashboard's pages read: typed rows, one function a view; they hold patient data and are for staff only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, func, or_, select
from sqlalchemy.orm import Session

from edgerad.database import Database
from edgerad.drift import WINDOW, Drift, measure
from edgerad.ledger import IN_SERVICE
from edgerad.records import (
    Alert,
    AlertEvent,
    Assessment,
    ComponentStatus,
    CoreCase,
    DeadLetter,
    Image,
    Label,
    Outbox,
    Review,
    Rollout,
    Shipment,
    now,
)

OPEN_SHIPMENTS = ("queued", "sealed", "sent")
TRIAGE = ("high", "unknown", "low")


@dataclass(frozen=True)
class WorklistRow:
    """One image on the worklist."""

    image_id: str
    alert_id: str | None
    alert_state: str | None
    alerted_at: datetime | None
    level: int
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    finding: str
    probability: float
    triage: str
    model_digest: str
    calibration_version: str
    threshold_version: str
    header: dict[str, Any]
    arrived_at: datetime
    assessed_at: datetime
    reviewed: str | None


@dataclass(frozen=True)
class Totals:
    """The figures above the worklist; `assessed` and `not_assessable` are of the last 24 hours."""

    open_alerts: int
    oldest_alert: datetime | None
    assessed: int
    waiting: int
    not_assessable: int


@dataclass(frozen=True)
class CaseView:
    """All that is known of one image; the newest first in every list.

    `refused_for` says more about the reason of a quarantined image, such as the attribute at fault; else it is empty.
    """

    image: Image
    assessments: list[Assessment]
    alert: Alert | None
    events: list[AlertEvent]
    reviews: list[Review]
    shipment: Shipment | None
    refused_for: str


@dataclass(frozen=True)
class Operations:
    """What an administrator wants to see."""

    components: list[ComponentStatus]
    images: dict[str, int]
    oldest_pending: datetime | None
    shipments: dict[str, int]
    oldest_shipment: datetime | None
    dead_letters: dict[str, int]
    outbox: int
    alerts_open: int
    serving: list[Rollout]
    drift: Drift


def worklist(
    database: Database,
    triage: Sequence[str] = TRIAGE,
    limit: int = 25,
    offset: int = 0,
    *,
    unread: bool = False,
) -> list[WorklistRow]:
    """Return images: open alerts first, the one that waits longest on top; then the others, the newest first.

    `triage` are the classes to show; with `unread` an image that somebody has reviewed is left out, unless its alert is
    open.
    """
    base, opened = _listed(triage), Alert.state == "open"
    with database.read() as session:
        first = base.where(opened).order_by(Alert.opened_at, Alert.alert_id).limit(limit).offset(offset)
        found = list(session.execute(first))
        if len(found) < limit:
            passed = _rows_of(session, base.where(opened))
            rest = base.where(~_alarmed(), *([~_reviewed()] if unread else []))
            rest = rest.order_by(Assessment.assessed_at.desc(), Assessment.assessment_id)
            found += session.execute(rest.limit(limit - len(found)).offset(max(0, offset - passed)))
        verdicts = _verdicts(session, [image.image_id for _, image, _ in found])
    return [_row(assessment, image, alert, verdicts) for assessment, image, alert in found]


def count_worklist(database: Database, triage: Sequence[str] = TRIAGE, *, unread: bool = False) -> int:
    """Return how many rows `worklist` has in all."""
    where = _chosen(triage)
    if unread:
        where.append(or_(_alarmed(), ~_reviewed()))
    with database.read() as session:
        return _count(session, Assessment.assessment_id, *where)


def _listed(triage: Sequence[str]) -> Select[Assessment, Image, Alert]:
    return (
        select(Assessment, Image, Alert)
        .join(Image, Image.image_id == Assessment.image_id)
        .outerjoin(Alert, Alert.assessment_id == Assessment.assessment_id)
        .where(*_chosen(triage))
    )


def _chosen(triage: Sequence[str]) -> list[ColumnElement[bool]]:
    chosen = [Assessment.role == "primary"]
    if set(triage) != set(TRIAGE):  # without this the index on the time serves, and nothing is sorted
        chosen.append(Assessment.triage.in_(triage))
    return chosen


def _alarmed() -> ColumnElement[bool]:
    alarmed = select(Alert.alert_id).where(Alert.assessment_id == Assessment.assessment_id, Alert.state == "open")
    return alarmed.correlate(Assessment).exists()


def _reviewed() -> ColumnElement[bool]:
    return select(Review.review_id).where(Review.image_id == Assessment.image_id).exists()


def _rows_of(session: Session, query: Select[Assessment, Image, Alert]) -> int:
    return session.scalar(query.with_only_columns(func.count())) or 0


def _row(assessment: Assessment, image: Image, alert: Alert | None, verdicts: dict[str, str]) -> WorklistRow:
    return WorklistRow(
        image.image_id,
        alert.alert_id if alert else None,
        alert.state if alert else None,
        alert.opened_at if alert else None,
        alert.level if alert else 0,
        alert.acknowledged_at if alert else None,
        alert.acknowledged_by if alert else None,
        assessment.finding,
        assessment.probability,
        assessment.triage,
        assessment.model_digest,
        assessment.calibration_version,
        assessment.threshold_version,
        image.header,
        image.stored_at or image.registered_at,
        assessment.assessed_at,
        verdicts.get(image.image_id),
    )


def _verdicts(session: Session, image_ids: list[str]) -> dict[str, str]:
    query = select(Review.image_id, Review.verdict).where(Review.image_id.in_(image_ids)).order_by(Review.review_id)
    return {row.image_id: row.verdict for row in session.execute(query)}


def totals(database: Database) -> Totals:
    """Return the figures above the worklist."""
    day = now() - timedelta(days=1)
    with database.read() as session:
        return Totals(
            _count(session, Alert.alert_id, Alert.state == "open"),
            session.scalar(select(func.min(Alert.opened_at)).where(Alert.state == "open")),
            _count(session, Assessment.assessment_id, Assessment.assessed_at >= day, Assessment.role == "primary"),
            _count(session, Image.image_id, Image.state == "pending"),
            _count(session, Image.image_id, Image.state == "quarantined", Image.finished_at >= day),
        )


def revision(database: Database) -> tuple[Any, ...]:
    """Return what changes when the worklist does, and costs little to ask: the newest of each kind of row."""
    with database.read() as session:
        return (
            session.scalar(select(func.max(Assessment.assessed_at))),
            session.scalar(select(func.max(AlertEvent.alert_event_id))),
            session.scalar(select(func.max(Review.review_id))),
            _count(session, Image.image_id, Image.state == "quarantined"),
        )


def _count(session: Session, column: Any, *where: ColumnElement[bool]) -> int:
    return int(session.scalar(select(func.count(column)).where(*where)) or 0)


def view_case(database: Database, image_id: str) -> CaseView | None:
    """Return one image with its history, or None when there is none."""
    with database.read() as session:
        image = session.get(Image, image_id)
        if image is None:
            return None

        def rows(table: Any, order: Any, where: ColumnElement[bool]) -> list[Any]:
            return list(session.scalars(select(table).where(where).order_by(order.desc())))

        newest = select(Alert).where(Alert.image_id == image_id).order_by(Alert.opened_at.desc())
        alert = session.scalars(newest).first()
        alert_id = alert.alert_id if alert else ""
        return CaseView(
            image,
            rows(Assessment, Assessment.assessed_at, Assessment.image_id == image_id),
            alert,
            rows(AlertEvent, AlertEvent.alert_event_id, AlertEvent.alert_id == alert_id),
            rows(Review, Review.review_id, Review.image_id == image_id),
            session.scalars(select(Shipment).where(Shipment.image_id == image_id)).first(),
            _details(session, [image_id]).get(image_id, "") if image.state == "quarantined" else "",
        )


def details(database: Database, image_ids: Sequence[str]) -> dict[str, str]:
    """Return what was said about the reason of each of these quarantined images, without patient data."""
    with database.read() as session:
        return _details(session, image_ids)


def _details(session: Session, image_ids: Sequence[str]) -> dict[str, str]:
    query = select(DeadLetter.image_id, DeadLetter.detail).where(DeadLetter.image_id.in_(image_ids))
    return {str(row.image_id): row.detail for row in session.execute(query.order_by(DeadLetter.created_at))}


def not_assessable(database: Database, limit: int = 50, offset: int = 0) -> list[Image]:
    """Return the quarantined images, the newest first: a person must look at them."""
    with database.read() as session:
        query = select(Image).where(Image.state == "quarantined").order_by(Image.finished_at.desc(), Image.image_id)
        return list(session.scalars(query.limit(limit).offset(offset)))


def count_not_assessable(database: Database) -> int:
    """Return how many images are quarantined."""
    with database.read() as session:
        return _count(session, Image.image_id, Image.state == "quarantined")


def operations(database: Database) -> Operations:
    """Return the state of the whole system."""
    with database.read() as session:

        def by(column: Any, *where: ColumnElement[bool]) -> dict[str, int]:
            rows = session.execute(select(column, func.count()).where(*where).group_by(column))
            return {str(name): int(number) for name, number in rows}

        return Operations(
            list(session.scalars(select(ComponentStatus).order_by(ComponentStatus.component))),
            by(Image.state),
            session.scalar(select(func.min(Image.registered_at)).where(Image.state == "pending")),
            by(Shipment.state),
            session.scalar(select(func.min(Shipment.queued_at)).where(Shipment.state.in_(OPEN_SHIPMENTS))),
            by(DeadLetter.reason, DeadLetter.replayed_at.is_(None)),
            _count(session, Outbox.outbox_id, Outbox.published_at.is_(None)),
            _count(session, Alert.alert_id, Alert.state == "open"),
            _serving(session),
            newest_drift(session),
        )


def _serving(session: Session) -> list[Rollout]:
    """Return for each edge and finding the rollout that put its model into service, in the order of their names."""
    newest = select(func.max(Rollout.rollout_id)).where(Rollout.state.in_(IN_SERVICE))
    query = select(Rollout).where(Rollout.rollout_id.in_(newest.group_by(Rollout.edge_id, Rollout.finding)))
    return list(session.scalars(query.order_by(Rollout.edge_id, Rollout.finding)))


def newest_drift(session: Session) -> Drift:
    """Return the drift of the newest images; see `edgerad.drift`."""
    query = (
        select(Assessment.novelty)
        .where(Assessment.role == "primary")
        .order_by(Assessment.assessed_at.desc())
        .limit(WINDOW)
    )
    return measure([novelty for novelty in session.scalars(query) if novelty is not None])


def unlabelled(database: Database, limit: int = 50, offset: int = 0) -> list[CoreCase]:
    """Return the core's cases that nobody has labelled, the most uncertain first."""
    with database.read() as session:
        query = select(CoreCase).where(_without_label())
        query = query.order_by(func.abs(CoreCase.probability - 0.5), CoreCase.case_id)
        return list(session.scalars(query.limit(limit).offset(offset)))


def core_case(database: Database, case_id: str) -> CoreCase | None:
    """Return one of the core's cases, or None when there is none."""
    with database.read() as session:
        return session.get(CoreCase, case_id)


def count_unlabelled(database: Database) -> int:
    """Return how many of the core's cases nobody has labelled."""
    with database.read() as session:
        return _count(session, CoreCase.case_id, _without_label())


def _without_label() -> ColumnElement[bool]:
    return ~select(Label.label_id).where(Label.case_id == CoreCase.case_id).exists()
