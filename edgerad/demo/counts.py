"""What has become of the images: the counts that the demo shows, and the account it gives at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select

from edgerad.database import Database
from edgerad.demo.feed import Fed
from edgerad.ledger import ASSESSED, DELETED, IN_SERVICE, PENDING, QUARANTINED
from edgerad.records import (
    Alert,
    Assessment,
    ComponentStatus,
    CoreCase,
    Image,
    Label,
    Model,
    Review,
    Rollout,
    Shipment,
    TrainingRun,
)


@dataclass
class Counts:
    """One look at the database; `training_alive` is the newest run's last sign of life."""

    received: int = 0
    states: dict[str, int] = field(default_factory=dict)
    triage: dict[str, int] = field(default_factory=dict)
    alerts: dict[str, int] = field(default_factory=dict)
    shipments: dict[str, int] = field(default_factory=dict)
    cases: int = 0
    labels: int = 0
    reviews: int = 0
    replicas: int = 0
    training: str = "waiting"
    training_alive: datetime | None = None
    models: list[str] = field(default_factory=list)

    @property
    def scored(self) -> int:
        """Images assessed."""
        return self.states.get(ASSESSED, 0)

    @property
    def ended(self) -> int:
        """Images in an end state."""
        return sum(self.states.get(state, 0) for state in (ASSESSED, QUARANTINED, DELETED))

    @property
    def waiting(self) -> int:
        """Images still pending."""
        return self.states.get(PENDING, 0)

    @property
    def travelling(self) -> int:
        """Shipments that are not closed."""
        return sum(self.shipments.get(state, 0) for state in ("queued", "sealed", "sent"))


def look(database: Database) -> Counts:
    """Return the counts of this moment."""
    with database.read() as session:

        def by(column: Any) -> dict[str, int]:
            query: Select[Any] = select(column, func.count()).group_by(column)
            return {str(name): int(number) for name, number in session.execute(query)}

        def number(column: Any) -> int:
            return int(session.scalar(select(func.count(column))) or 0)

        states = by(Image.state)
        run = session.scalars(select(TrainingRun).order_by(TrainingRun.started_at.desc()).limit(1)).first()
        rollout = session.get(ComponentStatus, "rollout")
        served = session.scalars(
            select(Rollout.model_digest).where(Rollout.state.in_(IN_SERVICE)).order_by(Rollout.rollout_id)
        )
        return Counts(
            received=sum(states.values()),
            states=states,
            triage=by(Assessment.triage),
            alerts=by(Alert.state),
            shipments=by(Shipment.state),
            cases=number(CoreCase.case_id),
            labels=number(Label.label_id),
            reviews=number(Review.review_id),
            replicas=int(rollout.data.get("replicas", 0)) if rollout else 0,
            training=run.state if run else "waiting",
            training_alive=run.seen_at if run else None,
            models=list(served),
        )


def account(database: Database, fed: list[Fed]) -> dict[str, Any]:
    """Return what became of every file that was fed: each must be in exactly one end state, scored at most once."""
    with database.read() as session:
        images = {row.image_id: row for row in session.scalars(select(Image))}
        assessments: dict[str, list[Assessment]] = {}
        for row in session.scalars(select(Assessment)):
            assessments.setdefault(row.image_id, []).append(row)
    files, first = [], dict[str, str]()
    for item in fed:
        image = images.get(item.image_id)
        line: dict[str, Any] = {"file": str(item.sample.path), "door": item.door, "image_id": item.image_id}
        line["state"] = image.state if image else "lost"
        if item.image_id in first:
            line["same_as"] = first[item.image_id]
        first.setdefault(item.image_id, str(item.sample.path))
        if image is not None and image.reason:
            line["reason"] = image.reason
        for assessment in assessments.get(item.image_id, [])[:1]:
            line |= {
                "probability": round(assessment.probability, 4),
                "triage": assessment.triage,
                "model": assessment.model_digest,
            }
        files.append(line)
    ends = {ASSESSED, QUARANTINED, DELETED}
    distinct = {item.image_id for item in fed}
    return {
        "fed": len(fed),
        "distinct": len(distinct),
        "lost": sum(line["state"] == "lost" for line in files),
        "pending": sum(line["state"] == PENDING for line in files),
        "scored_twice": sum(len(rows) > 1 for rows in assessments.values()),
        "unexpected": len(set(images) - distinct),
        "complete": all(line["state"] in ends for line in files)
        and all(len(rows) == 1 for rows in assessments.values())
        and set(images) == distinct,
        "files": files,
    }


def newest_run(database: Database) -> TrainingRun | None:
    """Return the training run that started last."""
    with database.read() as session:
        return session.scalars(select(TrainingRun).order_by(TrainingRun.started_at.desc()).limit(1)).first()


def newest_decision(database: Database) -> Model | None:
    """Return the model that was decided on last, leaving out the one that edgerad shipped with."""
    with database.read() as session:
        query = select(Model).where(Model.training_run_id.is_not(None)).order_by(Model.decided_at.desc())
        return session.scalars(query.limit(1)).first()


def first_assessment(database: Database) -> datetime | None:
    """Return when the first image was assessed."""
    with database.read() as session:
        return session.scalar(select(func.min(Assessment.assessed_at)))


def best_rate(database: Database, window: float = 10.0) -> float:
    """Return the assessed images per second in the busiest `window` of seconds."""
    with database.read() as session:
        times = sorted(at.timestamp() for at in session.scalars(select(Assessment.assessed_at)))
    best = start = 0
    for end, at in enumerate(times):
        while at - times[start] > window:
            start += 1
        best = max(best, end - start + 1)
    return best / window
