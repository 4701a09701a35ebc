"""When to de-identify, when to send: the loop of shipping, and the thin Ray actor around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from edgerad import ledger
from edgerad.records import Shipment, now
from edgerad.telemetry import get_logger
from ship import pipeline
from ship.forward import Forwarder, NotVerified
from ship.parcel import Kept, Order, Sealed

if TYPE_CHECKING:
    from edgerad.database import Database
    from edgerad.settings import Settings

COMPONENT = "shipper"
OPEN_STATES = ("queued", "sealed", "sent")
REPORT_EVERY = 10.0
Job = Callable[[Iterable[Order]], Iterator[Sealed | Kept]]


class Shipper:
    """One step at a time: seal a batch when it is full or old enough, send what is sealed, collect receipts."""

    def __init__(self, settings: Settings, database: Database, forwarder: Forwarder, job: Job) -> None:
        """Keep what the steps work with; `job` de-identifies (on Ray Data, or in the process for tests)."""
        self._settings, self._database, self._forwarder, self._job = settings.ship, database, forwarder, job
        self._log = get_logger(COMPONENT)

    def step(self, at: datetime) -> bool:
        """Do what is due; return whether anything was done."""
        done = 0
        if self._ready(at):
            for outcome in self._job(pipeline.queued(self._database, at, self._settings.batch_size)):
                pipeline.record(self._database, outcome, self._settings, now())
                done += 1
        try:
            done += self._forwarder.send(now())
        except NotVerified as error:
            self._log.error("shipping stopped: something unverified lies in the outbox", error=error)
        done += self._forwarder.collect(now())
        return done > 0

    def _ready(self, at: datetime) -> bool:
        """Return whether a job is worth starting: a full batch, or a case that has waited `batch_age`."""
        orders = pipeline.queued(self._database, at, self._settings.batch_size)
        if not orders:
            return False
        if len(orders) >= self._settings.batch_size:
            return True
        with self._database.read() as session:
            oldest = session.scalar(select(func.min(Shipment.queued_at)).where(Shipment.state == "queued"))
        return oldest is not None and (at - oldest).total_seconds() >= self._settings.batch_age

    def report(self) -> None:
        """Write the backlog and its age for the operations page, the metrics and `edgerad status`."""
        with self._database.read() as session:
            counts = dict(
                session.execute(
                    select(Shipment.state, func.count()).where(Shipment.state.in_(OPEN_STATES)).group_by(Shipment.state)
                ).all()
            )
            oldest = session.scalar(select(func.min(Shipment.queued_at)).where(Shipment.state.in_(OPEN_STATES)))
        age = (now() - oldest).total_seconds() if oldest else 0.0
        figures = {state: int(counts.get(state, 0)) for state in OPEN_STATES}
        ledger.report(self._database, COMPONENT, {**figures, "oldest_seconds": round(age)})


class ShipperActor:
    """Thin Ray actor around `Shipper`; a dead database or store only delays it."""

    def __init__(self, settings: Settings) -> None:
        """Open the database and the stores."""
        from edgerad.database import Database
        from edgerad.store import ObjectStore, config_from
        from edgerad.telemetry import configure_logging
        from ship.parcel import outbox_config

        configure_logging(settings.telemetry)
        self._settings = settings
        self._outbox = ObjectStore(outbox_config(config_from(settings.store)))
        database = Database(settings.database_url)
        forwarder = Forwarder(database, self._outbox, ObjectStore(config_from(settings.core.store)), settings.ship)
        self._shipper = Shipper(settings, database, forwarder, lambda orders: pipeline.run(settings, orders))

    def run(self) -> None:
        """Ship until the actor ends."""
        from edgerad.store import StoreError

        log = get_logger(COMPONENT)
        reported, ready = 0.0, False
        while True:
            try:
                if not ready:
                    self._outbox.ensure_bucket()
                    ready = True
                busy = self._shipper.step(now())
                if busy or time.monotonic() - reported > REPORT_EVERY:
                    self._shipper.report()
                    reported = time.monotonic()
            except (SQLAlchemyError, StoreError) as error:
                log.warning("shipping waits", error=error)
            time.sleep(self._settings.ship.poll_interval)
