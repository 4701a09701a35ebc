"""Which alerts are due, at which level, and when they are due again; pure but for the one query."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from edgerad.records import Alert, Assessment
from edgerad.sections import NotifySettings

NEVER = timedelta(days=36_500)


@dataclass(frozen=True)
class Notice:
    """What a channel is told of an alert; holds no patient data: staff look the image up."""

    alert_id: str
    level: int
    attempts: int
    payload: dict[str, Any]


def due(session: Session, at: datetime, settings: NotifySettings, limit: int = 100) -> list[Notice]:
    """Return the open alerts whose time has come, the oldest first, each with the level that the clock gives it."""
    query = (
        select(Alert, Assessment)
        .join(Assessment, Assessment.assessment_id == Alert.assessment_id)
        .where(Alert.state == "open", or_(Alert.next_attempt_at.is_(None), Alert.next_attempt_at <= at))
        .order_by(Alert.opened_at)
        .limit(limit)
    )
    return [
        notice(alert, assessment, level(alert.opened_at, at, settings)) for alert, assessment in session.execute(query)
    ]


def notice(alert: Alert, assessment: Assessment, at_level: int) -> Notice:
    """Return what is told of one alert."""
    return Notice(
        alert.alert_id,
        at_level,
        alert.attempts,
        {
            "alert_id": alert.alert_id,
            "image_id": alert.image_id,
            "finding": assessment.finding,
            "probability": assessment.probability,
            "triage": assessment.triage,
            "model_digest": assessment.model_digest,
            "calibration_version": assessment.calibration_version,
            "threshold_version": assessment.threshold_version,
            "opened_at": alert.opened_at.isoformat(),
            "level": at_level,
        },
    )


def level(opened_at: datetime, at: datetime, settings: NotifySettings) -> int:
    """Return how often `escalate_after` has passed since an alert was opened; always 0 where it is 0.

    By the clock and not by what was sent: an alert that nobody could be told of escalates all the same.
    """
    span = timedelta(seconds=settings.escalate_after)
    return max(0, (at - opened_at) // span) if span else 0


def next_level_at(opened_at: datetime, at: datetime, settings: NotifySettings) -> datetime:
    """Return when the clock raises the level next."""
    span = timedelta(seconds=settings.escalate_after)
    return opened_at + span * (level(opened_at, at, settings) + 1) if span else at + NEVER


def retry_after(attempts: int, settings: NotifySettings, jitter: float | None = None) -> timedelta:
    """Return the pause after failure number `attempts`: doubling, capped, times a jitter between a half and one."""
    pause = min(settings.retry_initial * 2.0 ** min(attempts - 1, 30), settings.retry_max)
    factor = random.uniform(0.5, 1.0) if jitter is None else jitter  # noqa: S311 - spreads load, guards nothing
    return timedelta(seconds=pause * factor)
