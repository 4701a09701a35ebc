"""Figures over time: how many images of which class and risk, and how the risks compare with the readings."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Integer, String, Subquery, cast, extract, func, select

from edgerad.database import Database
from edgerad.records import Assessment, Review
from edgerad.statistics import Share, wilson

RISK_BINS = 20


@dataclass(frozen=True)
class Trends:
    """Counts by span and triage, (start, triage, count), and by risk and triage, (lower edge of a bin, triage, count).

    A bin is 1 / RISK_BINS wide.
    """

    volume: list[tuple[datetime, str, int]]
    risk: list[tuple[float, str, int]]


@dataclass(frozen=True)
class Accuracy:
    """How one model did in one span, by the newest review of each image; unsure ones are left out."""

    model_digest: str
    start: datetime
    accuracy: Share
    sensitivity: Share
    specificity: Share
    simulated: int


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


def _latest_review() -> Subquery:
    newest = select(func.max(Review.review_id)).group_by(Review.image_id)
    return (
        select(Review.image_id, Review.assessment_id, Review.verdict, Review.source)
        .where(Review.review_id.in_(newest))
        .subquery()
    )
