"""Times that were stored while this machine's clock was wrong.

When a clock runs ahead and is then set right, times that were stored meanwhile lie in the future: a pause until such a
time would last as long as the clock was ahead. A stored time that this program could not have written by the clock as
it is now is therefore not believed.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, or_
from sqlalchemy.orm import InstrumentedAttribute

SLACK = timedelta(seconds=60)
"""Clocks of the machines that share one database may differ by this much."""


def due(column: InstrumentedAttribute[datetime | None], at: datetime, longest: timedelta) -> ColumnElement[bool]:
    """Return the SQL condition that the pause until `column` is over at time `at`.

    It is over when there is none (NULL), when its end has come, or when it would last longer than `longest`, the
    longest pause that the program ever sets: then the clock was ahead when it was stored.
    """
    return or_(column.is_(None), column <= at, column > at + longest + SLACK)


def is_ahead(stored: datetime, at: datetime) -> bool:
    """Return whether a past event carries a time in the future: the clock was ahead when it was stored."""
    return stored > at + SLACK


def has_passed(pause: timedelta, since: datetime, at: datetime) -> bool:
    """Return whether a pause that began at `since` is over at time `at`; a beginning in the future is not believed."""
    return at - since >= pause or is_ahead(since, at)
