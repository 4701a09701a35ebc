"""When to de-identify, when to send: the loops of shipping, and the thin Ray actor around them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from edgerad import envelope, keyring, ledger
from edgerad.records import Shipment, now
from edgerad.telemetry import get_logger
from ship import pipeline
from ship.forward import Forwarder, Keys, retry_after
from ship.orders import Order, Outcome

if TYPE_CHECKING:
    from edgerad.database import Database
    from edgerad.settings import Settings

COMPONENT = "shipper"
OPEN_STATES = ("queued", "sealed", "sent")
REPORT_EVERY = 10.0
Job = Callable[[Iterable[Order]], Iterator[Outcome]]


class Shipper:
    """One step at a time: seal a batch when it is full or old enough; send what is sealed and collect receipts."""

    def __init__(self, settings: Settings, database: Database, forwarder: Forwarder, job: Job) -> None:
        """Keep what the steps work with; `job` de-identifies (on Ray Data, or in the process for tests)."""
        self._settings, self._database, self._forwarder, self._job = settings.ship, database, forwarder, job
        self._has_core_key = bool(settings.core.parcel_public_key)
        self._failures = 0
        self._over_limit = False
        self._not_before: datetime | None = None
        self._log = get_logger(COMPONENT)

    def seal(self, at: datetime) -> bool:
        """Run a de-identification job if one is due; return whether anything was done.

        A job that fails as a whole keeps what it has done; the rest stays queued and waits a while.
        """
        if not self._ready(at):
            return False
        done = 0
        try:
            for outcome in self._job(pipeline.queued(self._database, at, self._settings.batch_size)):
                pipeline.record(self._database, outcome, self._settings, now())
                done += 1
            self._failures, self._not_before = 0, None
        except SQLAlchemyError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever ends a job, the next one starts where it ended
            self._failures += 1
            self._not_before = at + retry_after(self._failures, self._settings)
            self._log.error("the de-identification job failed", error=error, attempts=self._failures)
        return done > 0

    def forward(self, at: datetime) -> bool:
        """Send what is due and collect receipts; return whether anything was done."""
        sent = self._forwarder.send(at)
        return sent + self._forwarder.collect(at) > 0

    def _ready(self, at: datetime) -> bool:
        """Return whether a job is worth starting: a full batch, or a case that has waited `batch_age`."""
        if not self._has_core_key or (self._not_before is not None and at < self._not_before):
            return False
        orders = pipeline.queued(self._database, at, self._settings.batch_size)
        if not orders:
            return False
        if len(orders) >= self._settings.batch_size:
            return True
        with self._database.read() as session:
            oldest = session.scalar(select(func.min(Shipment.queued_at)).where(Shipment.state == "queued"))
        # A case from the future is of a clock that was wrong: it has waited, too.
        return oldest is not None and abs((at - oldest).total_seconds()) >= self._settings.batch_age

    def report(self) -> None:
        """Write the backlog and its age for the operations page, the metrics and `edgerad status`."""
        with self._database.read() as session:
            open_ = select(Shipment.state, func.count(), func.sum(Shipment.sealed_bytes))
            rows = session.execute(open_.where(Shipment.state.in_(OPEN_STATES)).group_by(Shipment.state)).all()
            oldest = session.scalar(select(func.min(Shipment.queued_at)).where(Shipment.state.in_(OPEN_STATES)))
        counts = {state: int(count) for state, count, _ in rows}
        age = (now() - oldest).total_seconds() if oldest else 0.0
        figures: dict[str, int | str] = {state: counts.get(state, 0) for state in OPEN_STATES}
        figures |= {"sealed_bytes": sum(int(size or 0) for state, _, size in rows if state == "sealed")}
        figures |= {"oldest_seconds": round(age)}
        backlog, limits = sum(counts.values()), self._settings
        over = backlog > limits.warn_backlog or age > limits.warn_age
        if over and not self._over_limit:
            self._log.warning("shipping is over its limit", backlog=backlog, seconds=round(age))
        self._over_limit = over
        figures |= {"over_limit": int(over)}
        trouble = self._forwarder.trouble if self._has_core_key else "core.parcel_public_key is not set"
        if trouble is not None:
            figures |= {"trouble": trouble}
        ledger.report(self._database, COMPONENT, figures)


def keys_of(settings: Settings) -> Keys:
    """Return the public keys that forwarding goes by; SettingsError names one that is wrong."""
    own = keyring.load_signing_key(keyring.edge_key(settings), "ship.signing_key").public_key().public_bytes_raw()
    sealing = keyring.sealing_key(settings)
    return Keys(own, keyring.trusted_cores(settings), envelope.key_id(sealing) if sealing else "")


class ShipperActor:
    """Thin Ray actor around `Shipper`: a long job holds up no transfer, and a long transfer no job."""

    def __init__(self, settings: Settings) -> None:
        """Open the database and the stores."""
        from edgerad.database import Database
        from edgerad.store import ObjectStore, config_from
        from edgerad.telemetry import configure_logging
        from ship.orders import outbox_config

        configure_logging(settings.telemetry)
        self._poll = settings.ship.poll_interval
        self._outbox = ObjectStore(outbox_config(config_from(settings.store)))
        database = Database(settings.database_url)
        core = ObjectStore(config_from(settings.core.store))
        forwarder = Forwarder(database, self._outbox, core, settings.ship, keys_of(settings))
        self._shipper = Shipper(settings, database, forwarder, lambda orders: pipeline.run(settings, orders))
        self._reported = 0.0

    def run(self) -> None:
        """Ship until the actor ends; an error that no loop expects ends all, and this call."""
        end = threading.Event()
        steps = (self._seal, self._forward, self._report)
        with ThreadPoolExecutor(len(steps)) as pool:
            loops = [pool.submit(self._loop, end, step) for step in steps]
            wait(loops, return_when=FIRST_COMPLETED)
            end.set()
        for loop in loops:
            loop.result()

    def _loop(self, end: threading.Event, step: Callable[[], None]) -> None:
        """Repeat a step; a dead database or store only delays it."""
        from edgerad.store import StoreError

        log = get_logger(COMPONENT)
        while not end.is_set():
            try:
                step()
            except (SQLAlchemyError, StoreError) as error:
                log.warning("shipping waits", error=error)
            end.wait(self._poll)

    def _seal(self) -> None:
        self._outbox.ensure_bucket()
        self._shipper.seal(now())

    def _forward(self) -> None:
        if self._shipper.forward(now()):
            self._shipper.report()

    def _report(self) -> None:
        """Report at times whatever the other two are at: an upload over a thin line may take hours."""
        if time.monotonic() - self._reported > REPORT_EVERY:
            self._shipper.report()
            self._reported = time.monotonic()
