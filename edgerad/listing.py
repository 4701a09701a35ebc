"""Tables that are read page by page, the newest rows first."""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import func, select

from edgerad.database import Database
from edgerad.records import Model, Record, Rollout, SiteCalibration, TrainingRun

Row = TypeVar("Row", bound=Record)

ORDER: dict[type[Record], tuple[Any, ...]] = {
    Rollout: (Rollout.rollout_id.desc(),),
    SiteCalibration: (SiteCalibration.site_calibration_id.desc(),),
    Model: (Model.created_at.desc(), Model.model_digest),
    TrainingRun: (TrainingRun.started_at.desc(), TrainingRun.training_run_id),
}
"""Each table's order, which is total: no row is on two pages or on none."""


def newest(database: Database, table: type[Row], limit: int, offset: int = 0) -> list[Row]:
    """Return some rows of a table of ORDER, the newest first."""
    with database.read() as session:
        return list(session.scalars(select(table).order_by(*ORDER[table]).limit(limit).offset(offset)))


def count(database: Database, table: type[Record]) -> int:
    """Return how many rows a table has."""
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0
