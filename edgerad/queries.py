"""What the dashboard's pages read: typed rows, one function a view; they hold patient data and are for staff only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Integer, String, Subquery, cast, extract, func, select
from sqlalchemy.orm import Session

from edgerad.database import Database
from edgerad.drift import WINDOW, Drift, measure
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
    SiteCalibration,
    TrainingRun,
    now,
)
from edgerad.statistics import Share, wilson

OPEN_SHIPMENTS = ("queued", "sealed", "sent")
TRIAGE = ("high", "unknown", "low")
RISK_BINS = 20


@dataclass(frozen=True)
class WorklistRow:
    """One image on the worklist."""

    image_id: str
    alert_id: str | None
    alert_state: str | None
    alerted_at: datetime | None
    level: int
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
class Trends:
    """Counts by span and triage, (start, triage, count), and by risk and triage, (lower edge of a bin, triage, count).

    A bin is 1 / RISK_BINS wide.
    """

    volume: list[tuple[datetime, str, int]]
    risk: list[tuple[float, str, int]]


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
    oldest_pending: datetime | None
    shipments: dict[str, int]
    oldest_shipment: datetime | None
    dead_letters: dict[str, int]
    outbox: int
    alerts_open: int
    rollouts: list[Rollout]
    calibrations: list[SiteCalibration]
    drift: Drift
    models: list[Model]
    runs: list[TrainingRun]


def worklist(
    database: Database,
    triage: Sequence[str] = ("high", "unknown", "low"),
    limit: int = 25,
    offset: int = 0,
    *,
    unread: bool = False,
) -> list[WorklistRow]:
    """Return images: open alerts first, the one that waits longest on top; then the others, the newest first.

    `triage` are the classes to show; with `unread` an image that somebody has reviewed is left out, unless its alert is
    open.
    """
    opened = Alert.state == "open"
    chosen = [Assessment.role == "primary"]
    if set(triage) != set(TRIAGE):  # without this the index on the time serves, and nothing is sorted
        chosen.append(Assessment.triage.in_(triage))
    base = (
        select(Assessment, Image, Alert)
        .join(Image, Image.image_id == Assessment.image_id)
        .outerjoin(Alert, Alert.assessment_id == Assessment.assessment_id)
        .where(*chosen)
    )
    with database.read() as session:
        first = base.where(opened).order_by(Alert.opened_at, Alert.alert_id).limit(limit).offset(offset)
        found = list(session.execute(first))
        if len(found) < limit:
            passed = session.scalar(select(func.count()).select_from(base.where(opened).subquery())) or 0
            alarmed = select(Alert.alert_id).where(Alert.assessment_id == Assessment.assessment_id, opened)
            rest = base.where(~alarmed.correlate(Assessment).exists())
            if unread:
                rest = rest.where(~select(Review.review_id).where(Review.image_id == Assessment.image_id).exists())
            rest = rest.order_by(Assessment.assessed_at.desc(), Assessment.assessment_id)
            found += session.execute(rest.limit(limit - len(found)).offset(max(0, offset - passed)))
        verdicts = _verdicts(session, [image.image_id for _, image, _ in found])
    return [_row(assessment, image, alert, verdicts) for assessment, image, alert in found]


def _row(assessment: Assessment, image: Image, alert: Alert | None, verdicts: dict[str, str]) -> WorklistRow:
    return WorklistRow(
        image.image_id,
        alert.alert_id if alert else None,
        alert.state if alert else None,
        alert.opened_at if alert else None,
        alert.level if alert else 0,
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


def _latest_review() -> Subquery:
    newest = select(func.max(Review.review_id)).group_by(Review.image_id)
    return (
        select(Review.image_id, Review.assessment_id, Review.verdict, Review.source)
        .where(Review.review_id.in_(newest))
        .subquery()
    )


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
        )


def not_assessable(database: Database, limit: int = 50) -> list[Image]:
    """Return the quarantined images, the newest first: a person must look at them."""
    with database.read() as session:
        query = select(Image).where(Image.state == "quarantined").order_by(Image.finished_at.desc()).limit(limit)
        return list(session.scalars(query))


def trends(database: Database, since: datetime, span: timedelta) -> Trends:
    """Return how many images were assessed in each span since a time and how their risks are distributed.

    Spans start at whole multiples of their length (UTC); `since` is moved back to one.
    """
    since = aligned(since, span)
    seconds = int(span.total_seconds())
    with database.read() as session:
        if session.get_bind().dialect.name == "postgresql":
            epoch: Any = cast(extract("epoch", Assessment.assessed_at), BigInteger)
            step: Any = cast(func.floor(Assessment.probability * RISK_BINS), Integer)
        else:
            epoch = cast(func.strftime("%s", Assessment.assessed_at, type_=String), Integer)
            step = cast(Assessment.probability * RISK_BINS, Integer)
        bucket = (epoch - int(since.timestamp())) // seconds
        where = (Assessment.assessed_at >= since, Assessment.role == "primary")

        def counted(column: Any) -> list[Any]:
            query = select(column.label("n"), Assessment.triage, func.count()).where(*where)
            return list(session.execute(query.group_by("n", Assessment.triage).order_by("n", Assessment.triage)))

        volume = [(since + span * number, triage, count) for number, triage, count in counted(bucket)]
        risk: Counter[tuple[int, str]] = Counter()
        for number, triage, count in counted(step):
            risk[min(number, RISK_BINS - 1), triage] += count  # a risk of 1 belongs to the last bin
    return Trends(volume, [(number / RISK_BINS, triage, count) for (number, triage), count in sorted(risk.items())])


def aligned(at: datetime, span: timedelta) -> datetime:
    """Return the last whole multiple of a span (since 1970, UTC) that is not after a time."""
    seconds = int(span.total_seconds())
    return datetime.fromtimestamp(int(at.timestamp()) // seconds * seconds, UTC)


def accuracy(
    database: Database, since: datetime, span: timedelta | None = None, threshold: float = 0.5
) -> list[Accuracy]:
    """Return how each model did since a time, against the newest review of each image.

    With `span`, for each span; without, one row a model. A probability of at least `threshold` counts as positive.
    Images whose newest review is unsure are left out.
    """
    since = aligned(since, span) if span else since
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
            start = since + span * int((at - since) / span) if span else since
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
            session.scalar(select(func.min(Image.registered_at)).where(Image.state == "pending")),
            by(Shipment.state),
            session.scalar(select(func.min(Shipment.queued_at)).where(Shipment.state.in_(OPEN_SHIPMENTS))),
            by(DeadLetter.reason, DeadLetter.replayed_at.is_(None)),
            _count(session, Outbox.outbox_id, Outbox.published_at.is_(None)),
            _count(session, Alert.alert_id, Alert.state == "open"),
            list(session.scalars(select(Rollout).order_by(Rollout.rollout_id.desc()).limit(20))),
            list(
                session.scalars(select(SiteCalibration).order_by(SiteCalibration.site_calibration_id.desc()).limit(20))
            ),
            newest_drift(session),
            list(session.scalars(select(Model).order_by(Model.created_at.desc()).limit(20))),
            list(session.scalars(select(TrainingRun).order_by(TrainingRun.started_at.desc()).limit(10))),
        )


def newest_drift(session: Session) -> Drift:
    """Return the drift of the newest images; see `edgerad.drift`."""
    query = (
        select(Assessment.novelty)
        .where(Assessment.role == "primary")
        .order_by(Assessment.assessed_at.desc())
        .limit(WINDOW)
    )
    return measure([novelty for novelty in session.scalars(query) if novelty is not None])


def unlabelled(database: Database, limit: int = 50) -> list[CoreCase]:
    """Return the core's cases that nobody has labelled, the most uncertain first."""
    with database.read() as session:
        query = select(CoreCase).where(_without_label())
        rows = session.scalars(query.order_by(func.abs(CoreCase.probability - 0.5), CoreCase.case_id).limit(limit))
        return list(rows)


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
