"""What the dashboard's pages read: typed rows, one function a view; they hold patient data and are for staff only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import Session

from edgerad.database import Database
from edgerad.records import (
    Alert,
    AlertEvent,
    Assessment,
    ComponentStatus,
    CoreCase,
    DeadLetter,
    Image,
    Label,
    Model,
    Outbox,
    Review,
    Rollout,
    Shipment,
    TrainingRun,
    now,
)
from edgerad.statistics import Share, wilson

OPEN_SHIPMENTS = ("queued", "sealed", "sent")


@dataclass(frozen=True)
class WorklistRow:
    """One image on the worklist."""

    image_id: str
    alert_id: str | None
    alert_state: str | None
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
class CaseView:
    """All that is known of one image; the newest first in every list."""

    image: Image
    assessments: list[Assessment]
    alert: Alert | None
    events: list[AlertEvent]
    reviews: list[Review]
    shipment: Shipment | None


@dataclass(frozen=True)
class Accuracy:
    """How one model did in one span, by the newest review of each image; unsure ones are left out."""

    model_digest: str
    start: datetime
    accuracy: Share
    sensitivity: Share
    specificity: Share
    simulated: int


@dataclass(frozen=True)
class Operations:
    """What an administrator wants to see."""

    components: list[ComponentStatus]
    images: dict[str, int]
    shipments: dict[str, int]
    oldest_shipment: datetime | None
    dead_letters: dict[str, int]
    outbox: int
    alerts_open: int
    rollouts: list[Rollout]
    models: list[Model]
    runs: list[TrainingRun]


def worklist(
    database: Database, triage: Sequence[str] = ("high", "unknown", "low"), limit: int = 25, offset: int = 0
) -> list[WorklistRow]:
    """Return images: open alerts first, the oldest of them first; then by triage class and the newest first."""
    latest = _latest_review()
    query = (
        select(Assessment, Image, Alert, latest.c.verdict)
        .join(Image, Image.image_id == Assessment.image_id)
        .outerjoin(Alert, Alert.assessment_id == Assessment.assessment_id)
        .outerjoin(latest, latest.c.image_id == Image.image_id)
        .where(Assessment.role == "primary", Assessment.triage.in_(triage))
        .order_by(
            case((Alert.state == "open", 0), else_=1),
            case((Alert.state == "open", Alert.opened_at)),
            Assessment.assessed_at.desc(),
        )
        .limit(limit)
        .offset(offset)
    )
    with database.read() as session:
        return [
            WorklistRow(
                image.image_id,
                alert.alert_id if alert else None,
                alert.state if alert else None,
                assessment.probability,
                assessment.triage,
                assessment.model_digest,
                assessment.calibration_version,
                assessment.threshold_version,
                image.header,
                image.stored_at or image.registered_at,
                assessment.assessed_at,
                verdict,
            )
            for assessment, image, alert, verdict in session.execute(query)
        ]


def _latest_review() -> Any:
    newest = select(Review.image_id, func.max(Review.review_id).label("review_id")).group_by(Review.image_id).subquery()
    return (
        select(Review.image_id, Review.assessment_id, Review.verdict, Review.source)
        .join(newest, newest.c.review_id == Review.review_id)
        .subquery()
    )


def totals(database: Database) -> dict[str, int]:
    """Return open alerts, assessed today, waiting, and not assessable today."""
    midnight = now().replace(hour=0, minute=0, second=0, microsecond=0)
    with database.read() as session:
        return {
            "open alerts": _count(session, Alert.alert_id, Alert.state == "open"),
            "assessed today": _count(session, Assessment.assessment_id, Assessment.assessed_at >= midnight),
            "waiting": _count(session, Image.image_id, Image.state == "pending"),
            "not assessable today": _count(
                session, Image.image_id, Image.state == "quarantined", Image.finished_at >= midnight
            ),
        }


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

        alert = session.scalars(select(Alert).where(Alert.image_id == image_id)).first()
        alert_id = alert.alert_id if alert else ""
        return CaseView(
            image,
            rows(Assessment, Assessment.assessed_at, Assessment.image_id == image_id),
            alert,
            rows(AlertEvent, AlertEvent.alert_event_id, AlertEvent.alert_id == alert_id),
            rows(Review, Review.review_id, Review.image_id == image_id),
            session.scalars(select(Shipment).where(Shipment.image_id == image_id)).first(),
        )


def not_assessable(database: Database, limit: int = 50) -> list[Image]:
    """Return the quarantined images, the newest first: a person must look at them."""
    with database.read() as session:
        query = select(Image).where(Image.state == "quarantined").order_by(Image.finished_at.desc()).limit(limit)
        return list(session.scalars(query))


def volume(database: Database, since: datetime) -> list[tuple[datetime, str, float, str]]:
    """Return (time, triage, probability, model digest) of the assessments since a time, the oldest first."""
    with database.read() as session:
        query = (
            select(Assessment.assessed_at, Assessment.triage, Assessment.probability, Assessment.model_digest)
            .where(Assessment.assessed_at >= since, Assessment.role == "primary")
            .order_by(Assessment.assessed_at)
        )
        return list(session.execute(query).all())


def accuracy(database: Database, since: datetime, span: timedelta, threshold: float = 0.5) -> list[Accuracy]:
    """Return how each model did in each span since a time, against the newest review of each image.

    A probability of at least `threshold` counts as positive.
    """
    latest = _latest_review()
    query = (
        select(
            Assessment.model_digest, Assessment.assessed_at, Assessment.probability, latest.c.verdict, latest.c.source
        )
        .join(latest, latest.c.assessment_id == Assessment.assessment_id)
        .where(Assessment.assessed_at >= since, latest.c.verdict.in_(("positive", "negative")))
    )
    groups: dict[tuple[str, datetime], list[tuple[bool, bool, bool]]] = {}
    with database.read() as session:
        for digest, at, probability, verdict, source in session.execute(query):
            start = since + span * int((at - since) / span)
            row = (probability >= threshold, verdict == "positive", source == "simulated")
            groups.setdefault((digest, start), []).append(row)
    result = []
    for (digest, start), rows in sorted(groups.items(), key=lambda item: (item[0][1], item[0][0])):
        positives = [called for called, truth, _ in rows if truth]
        negatives = [not called for called, truth, _ in rows if not truth]
        result.append(
            Accuracy(
                digest,
                start,
                wilson(sum(positives) + sum(negatives), len(rows)),
                wilson(sum(positives), len(positives)),
                wilson(sum(negatives), len(negatives)),
                sum(simulated for _, _, simulated in rows),
            )
        )
    return result


def operations(database: Database) -> Operations:
    """Return the state of the whole system."""
    with database.read() as session:

        def by(column: Any, *where: ColumnElement[bool]) -> dict[str, int]:
            rows = session.execute(select(column, func.count()).where(*where).group_by(column))
            return {str(name): int(number) for name, number in rows}

        return Operations(
            list(session.scalars(select(ComponentStatus).order_by(ComponentStatus.component))),
            by(Image.state),
            by(Shipment.state),
            session.scalar(select(func.min(Shipment.queued_at)).where(Shipment.state.in_(OPEN_SHIPMENTS))),
            by(DeadLetter.reason, DeadLetter.replayed_at.is_(None)),
            _count(session, Outbox.outbox_id, Outbox.published_at.is_(None)),
            _count(session, Alert.alert_id, Alert.state == "open"),
            list(session.scalars(select(Rollout).order_by(Rollout.rollout_id.desc()).limit(20))),
            list(session.scalars(select(Model).order_by(Model.created_at.desc()).limit(20))),
            list(session.scalars(select(TrainingRun).order_by(TrainingRun.started_at.desc()).limit(10))),
        )


def unlabelled(database: Database, limit: int = 50) -> list[CoreCase]:
    """Return the core's cases that nobody has labelled, the most uncertain first."""
    labelled = select(Label.case_id)
    with database.read() as session:
        query = select(CoreCase).where(CoreCase.case_id.not_in(labelled))
        rows = session.scalars(query.order_by(func.abs(CoreCase.probability - 0.5)).limit(limit))
        return list(rows)
