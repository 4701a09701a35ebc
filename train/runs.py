"""The record of a retraining: one at a time for a finding, by whichever core took it up; none is lost with its core.

A core that runs it gives a sign of life every `BEAT_EVERY`. One that was silent for `LEASE` is taken for dead, and
another core, or the same one after its restart, takes the run up where its last checkpoint left it.
"""

from __future__ import annotations

import threading
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from edgerad import clock
from edgerad.records import TrainingRun, now
from edgerad.telemetry import get_logger

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgerad.database import Database

RUNNING, SUCCEEDED, FAILED = "running", "succeeded", "failed"
LEASE = timedelta(seconds=120)
"""Longest silence of a living core. The cores' clocks must agree to well within it."""
BEAT_EVERY = 20.0
MAX_ATTEMPTS = 3
"""Cores that may die in one run before it is given up: it may be what kills them."""
TEXT_LIMIT = 500


class Lost(Exception):
    """The run belongs to another core now; what this one did for it is void."""


def claim(
    database: Database, finding: str, owner: str, *, parent: str, cases: int, last_label_id: int
) -> TrainingRun | None:
    """Begin a run, or return None where one is running already."""
    run = TrainingRun(
        training_run_id=uuid.uuid4().hex,
        finding=finding,
        state=RUNNING,
        parent_digest=parent,
        cases=cases,
        last_label_id=last_label_id,
        owner=owner,
        attempts=1,
        started_at=now(),
        seen_at=now(),
    )
    try:
        with database.write() as session:
            if _running(session, finding) is not None:
                return None
            session.add(run)
    except IntegrityError:  # PostgreSQL: another core began between the look and the insert
        return None
    return run


def take_up(database: Database, finding: str, owner: str) -> TrainingRun | None:
    """Take up the run whose core is silent and return it, or None; one that outlived too many cores comes as failed."""
    with database.write() as session:
        run = _running(session, finding, lock=True)
        if run is None or not _is_silent(run):
            return None
        if run.attempts >= MAX_ATTEMPTS:
            _end(run, FAILED, f"the core ended {run.attempts} times during this run, so it was given up")
            return run
        run.owner, run.attempts, run.seen_at = owner, run.attempts + 1, now()
        return run


def waits(database: Database, finding: str) -> bool:
    """Return whether there is a run that `take_up` would take up or end."""
    with database.read() as session:
        run = _running(session, finding)
        return run is not None and _is_silent(run)


def is_running(database: Database, finding: str) -> bool:
    """Return whether a run is under way, by any core."""
    with database.read() as session:
        return _running(session, finding) is not None


def beat(database: Database, run: TrainingRun) -> None:
    """Give a sign of life."""
    with database.write() as session:
        owned(session, run).seen_at = now()


def owned(session: Session, run: TrainingRun) -> TrainingRun:
    """Return the run's row, locked, where it still belongs to the core that began or took up `run`; else raise Lost."""
    row = session.get(TrainingRun, run.training_run_id, with_for_update=True)
    if row is None or row.state != RUNNING or row.owner != run.owner:
        raise Lost("the run was taken up by another core")
    return row


def succeed(session: Session, run: TrainingRun, candidate: str, progress: dict[str, Any]) -> None:
    """Record the end of a run that came to a decision. Raises Lost."""
    row = owned(session, run)
    row.candidate_digest, row.progress = candidate, progress
    _end(row, SUCCEEDED, None)


def fail(database: Database, run: TrainingRun, reason: str) -> None:
    """Record that a run failed and why, in words for people."""
    with database.write() as session:
        _end(owned(session, run), FAILED, reason[:TEXT_LIMIT])


def put_off(database: Database, run: TrainingRun, reason: str) -> None:
    """Leave a run that a dead store or database stopped, to be taken up after LEASE; that counts as no attempt."""
    with database.write() as session:
        row = owned(session, run)
        row.error, row.attempts, row.seen_at = reason[:TEXT_LIMIT], row.attempts - 1, now()


class Heartbeat:
    """A context in which signs of life are given by a thread of its own; a database that is away is tried again."""

    def __init__(self, database: Database, run: TrainingRun, every: float = BEAT_EVERY) -> None:
        """Keep whose life it is."""
        self._database, self._run, self._every = database, run, every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="training-heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, and wait for it."""
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(self._every):
            try:
                beat(self._database, self._run)
            except Lost:
                return
            except SQLAlchemyError as error:
                get_logger("core").warning("the database does not answer", error=error)


def _running(session: Session, finding: str, *, lock: bool = False) -> TrainingRun | None:
    query = select(TrainingRun).where(TrainingRun.finding == finding, TrainingRun.state == RUNNING)
    return session.scalars(query.with_for_update() if lock else query).first()


def _is_silent(run: TrainingRun) -> bool:
    return clock.has_passed(LEASE, run.seen_at, now())


def _end(run: TrainingRun, state: str, error: str | None) -> None:
    run.state, run.error, run.finished_at = state, error, now()
