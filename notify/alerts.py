"""Which alerts are due, at which level, and when they are due again; pure except for the one query."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from edgerad import clock
from edgerad.records import Alert, AlertEvent, Assessment
from edgerad.sections import NotifySettings

NEVER = timedelta(days=36_500)


@dataclass(frozen=True)
class Notice:
    """What a channel is told of an alert; holds no patient data: staff look the image up.

    `reopened` is how often an acknowledgement of it was withdrawn: a level that was sent before is news again then.
    """

    alert_id: str
    level: int
    attempts: int
    payload: dict[str, Any]
    reopened: int = 0


def due(session: Session, at: datetime, settings: NotifySettings, limit: int = 100) -> list[Notice]:
    """Return the open alerts whose time has come, the oldest first, each with the level that the clock gives it.

    An alert is also due when its pause, or the time it was opened at, can only come from a clock that was ahead.
    """
    pause = Alert.next_attempt_at
    over = clock.due(pause, at, timedelta(seconds=max(settings.escalate_after, settings.retry_max)))
    if not settings.escalate_after:
        over = over & or_(pause.is_(None), pause < at + NEVER / 2)
    query = (
        select(Alert, Assessment, _times_reopened(Alert.alert_id).scalar_subquery())
        .join(Assessment, Assessment.assessment_id == Alert.assessment_id)
        .where(Alert.state == "open", or_(over, Alert.opened_at > at + clock.SLACK))
        .order_by(Alert.opened_at)
        .limit(limit)
    )
    return [
        notice(alert, assessment, level(alert.opened_at, at, settings), times)
        for alert, assessment, times in session.execute(query)
    ]


def reopened(session: Session, alert_id: str) -> int:
    """Return how often an acknowledgement of an alert was withdrawn."""
    return session.scalar(_times_reopened(alert_id)) or 0


def _times_reopened(alert_id: Any) -> Select[int]:
    return select(func.count()).where(AlertEvent.alert_id == alert_id, AlertEvent.kind == "reopened")


def notice(alert: Alert, assessment: Assessment, at_level: int, times: int = 0) -> Notice:
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
            "reopened": times,
        },
        times,
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
