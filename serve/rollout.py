"""An edge follows the core's registry: a newly promoted model is pulled, proven here, then swapped in under load."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import select

from edgerad import ledger, registry
from edgerad.records import Rollout
from edgerad.store import ObjectGone, ObjectStore, StoreError, StoreUnavailable
from edgerad.telemetry import get_logger
from serve import site
from serve.bundle import BundleError
from serve.calibrate import Calibration
from serve.shelf import Shelf

if TYPE_CHECKING:
    from edgerad.database import Database
    from edgerad.settings import Settings

COMPONENT = "rollout"
LOST_AFTER = 30.0
"""Seconds without a replica after which the files of the model in service are looked at."""


Swap = Callable[[str, Calibration | None], None]
"""Puts a model, by its digest, into service with a site's calibration, or (None) its own."""


class Follower:
    """Keeps an edge's model at what the registry says; a model that fails its proof is refused once and for all."""

    def __init__(self, settings: Settings, database: Database, core: ObjectStore | None, swap: Swap) -> None:
        """Keep how to swap: it returns when every replica serves that model with that calibration, or RuntimeError.

        Without a core the model in service stays.
        """
        self._edge, self._finding = settings.ship.edge_id, settings.finding
        self._database, self._core, self._swap = database, core, swap
        self._shelf = Shelf(settings)
        self._tuning = settings.serve
        self._applied: Calibration | None = None
        self._considered: dict[str, int] = {}
        self._newest_review: int | None = None
        self._not_run: dict[str, str] = {}
        self._told: set[str] = set()
        self.serving: str | None = None
        """Digest of the model that Serve runs; None while there is none."""
        self.trouble: str | None = None
        """Why a better model does not serve, or none; None when all is well."""
        self._log = get_logger(COMPONENT)

    @property
    def calibration(self) -> str:
        """Version of the site's calibration in service; `bundle` when it is the model's own."""
        return self._applied.version if self._applied else "bundle"

    def start(self) -> str | None:
        """Put the best model that works on this machine into service; return its digest, None when no model works.

        The best is the one that was put into service last; then come those that served before it; then the shipped one.
        One that is missing, damaged, or that Serve cannot run gives way to the next: a fallback, which is noted.
        Call it again to leave a fallback, or to begin to score, as soon as a better model is there.
        """
        candidates = self._candidates()
        wrong = {digest: text for digest, text in self._not_run.items() if digest in candidates}
        # What Serve could not run disturbs what serves, and delays what can, at every attempt: it comes last.
        again = [] if self.serving else list(wrong)
        disturbed = False
        for digest in [*(digest for digest in candidates if digest not in wrong), *again]:
            seconds = None
            try:
                if digest != self.serving or disturbed:
                    self._shelf.check(digest)
                    disturbed = True
                    seconds = self._timed_swap(digest)
            except TimeoutError as error:  # a busy cluster, not the model: the same one is tried again
                self.serving, self.trouble = None, str(error)
                return None
            except (BundleError, StoreError, OSError, RuntimeError) as error:
                wrong[digest] = self._tell_of(digest, str(error)[:500])
                if isinstance(error, RuntimeError):
                    self._not_run[digest] = wrong[digest]
                continue
            self._not_run.pop(digest, None)
            better = [wrong[other] for other in candidates[: candidates.index(digest)] if other in wrong]
            self.trouble = "; ".join(better) or None
            if seconds is not None:
                self._take_note(digest, better, seconds)
            return digest
        self.serving = None
        self.trouble = "; ".join(wrong.values()) or "no model has served here, and none that ships can be read"
        return None

    @property
    def is_fallback(self) -> bool:
        """Whether a better model than the one that serves could not be put into service."""
        return self.serving is not None and self.trouble is not None

    def follow(self, *, is_lost: bool) -> None:
        """Do once all that there is to do; `is_lost`: no replica has run for a while."""
        if is_lost:
            self.look_after()
        if self.serving is None or self.is_fallback:
            self.start()
        self.step()
        self.calibrate()

    def look_after(self) -> None:
        """Put a model into service again where none runs any more, because its files were lost while it served."""
        if self.serving is None:
            return
        try:
            self._shelf.check(self.serving)
        except (BundleError, StoreError, OSError):
            self.serving = None
            self.start()

    def _candidates(self) -> list[str]:
        """Return the digests of the models that may serve, the best first."""
        with self._database.read() as session:
            query = select(Rollout.model_digest).where(
                Rollout.edge_id == self._edge, Rollout.finding == self._finding, Rollout.state == "serving"
            )
            proven = list(session.scalars(query.order_by(Rollout.rollout_id.desc())))
        shipped = self._shelf.shipped()
        return list(dict.fromkeys([*proven, *([shipped] if shipped else [])]))

    def _take_note(self, digest: str, wrong: list[str], seconds: float) -> None:
        """Note what serves from now on, unless it is what served before: a restart is no rollout."""
        before = ledger.model_in_service(self._database, self._edge, self._finding)
        if wrong and before != digest:
            self._note(digest, "fallback", f"in the place of a model that cannot serve: {wrong[0]}"[:500], seconds)
        elif not wrong and before is None:
            self._note(digest, "serving", "shipped with edgerad", seconds)
        elif not wrong and before != digest:
            self._note(digest, "serving", "can serve again", seconds)

    def _tell_of(self, digest: str, reason: str) -> str:
        """Log, once for each reason, that a model cannot serve; return it as text."""
        text = reason if digest[:12] in reason else f"model {digest[:12]}: {reason}"
        if text not in self._told:
            self._told.add(text)
            self._log.error("model cannot serve", model_digest=digest, reason=reason)
        return text

    def step(self) -> str | None:
        """Look at the registry once; return the digest of a model newly put into service, or None."""
        try:
            wanted = registry.current(self._core, self._finding) if self._core is not None else None
        except StoreUnavailable:
            self._log.warning("core store does not answer; the model in service stays")
            return None
        if wanted is None or wanted == self.serving:
            return None
        if self._is_refused(wanted) or (seconds := self._proven_swap(wanted, self.serving)) is None:
            return None
        self.trouble = None
        self._note(wanted, "serving", "promoted by the core", seconds)
        self._log.info("model in service", model_digest=wanted, seconds=round(seconds, 2))
        return wanted

    def _proven_swap(self, wanted: str, serving: str | None) -> float | None:
        """Prove a model on this machine and have Serve run it; return the seconds of the swap, None where it failed."""
        try:
            self._shelf.check(wanted)
            self._shelf.scorer(wanted)  # signature, digest, parity report, golden cases
            return self._timed_swap(wanted)
        except StoreUnavailable:
            return None
        except TimeoutError as error:  # a busy cluster, not the model: it is tried again
            self._log.warning("model not put into service yet", model_digest=wanted, reason=str(error))
            self._go_back(serving)
        except (BundleError, ObjectGone, RuntimeError) as error:
            reason = str(error)[:500]
            self._log.error("model refused", model_digest=wanted, reason=reason)
            self._note(wanted, "refused", reason, None)
            if isinstance(error, RuntimeError):
                self._go_back(serving)
        return None

    def calibrate(self) -> Calibration | None:
        """Refit the site's calibration when readings suffice, and put the one that is to serve into service.

        Returns a calibration newly in service (the bundle's has the version `bundle`), or None. A swap that fails is
        tried again at the next call.
        """
        digest = self.serving
        if digest is None:
            return None
        if self._tuning.calibrate:
            self._refit(digest)
        wanted = site.current(self._database, self._site(digest))
        if wanted == self._applied:
            return None
        try:
            seconds = self._timed_swap(digest)
        except (RuntimeError, TimeoutError) as error:
            self._log.error("calibration not put into service", error=error)
            return None
        made = wanted or Calibration("bundle")
        self._log.info(
            "calibration in service", calibration=made.version, model_digest=digest, seconds=round(seconds, 2)
        )
        return made

    def _refit(self, digest: str) -> None:
        """Fit anew once a tenth more readings are there than at the last look; keep it if better with confidence."""
        newest = site.newest_review(self._database)
        if newest == self._newest_review:
            return
        self._newest_review, here = newest, self._site(digest)
        read = site.readings(self._database, here)
        if len(read.labels) < max(self._tuning.calibrate_readings, 1.1 * self._considered.get(digest, 0)):
            return
        self._considered[digest] = len(read.labels)
        bundled = self._shelf.calibration(digest)
        try:
            proposal = site.propose(
                read, site.current(self._database, here) or bundled, bundled, self._tuning.calibrate_readings
            )
        except site.NotPossible as error:
            self._log.warning("calibration not refitted", reason=str(error))
            return
        if proposal.figures.is_better:
            site.put_into_service(self._database, here, proposal, site.AUTOMATIC, "better with confidence")

    def _site(self, digest: str) -> site.Site:
        return site.Site(self._edge, self._finding, digest)

    def _timed_swap(self, digest: str) -> float:
        started = time.perf_counter()
        calibration = site.current(self._database, self._site(digest))
        self._swap(digest, calibration)
        self._applied, self.serving = calibration, digest
        return time.perf_counter() - started

    def _go_back(self, serving: str | None) -> None:
        """Have Serve run the model in service again, which a swap that failed has left as Serve's goal."""
        if serving is None:
            return
        try:
            self._timed_swap(serving)
        except (RuntimeError, TimeoutError) as error:
            self._log.error("the model in service was not deployed again", model_digest=serving, error=error)

    def _is_refused(self, digest: str) -> bool:
        with self._database.read() as session:
            query = select(Rollout.rollout_id).where(
                Rollout.edge_id == self._edge, Rollout.model_digest == digest, Rollout.state == "refused"
            )
            return session.execute(query.limit(1)).first() is not None

    def _note(self, digest: str, state: str, reason: str, seconds: float | None) -> None:
        with self._database.write() as session:
            session.add(
                Rollout(
                    edge_id=self._edge,
                    finding=self._finding,
                    model_digest=digest,
                    state=state,
                    reason=reason,
                    seconds=seconds,
                )
            )
            ledger.audit(session, f"edge:{self._edge}", f"model-{state}", digest[:64], {"reason": reason})


class RolloutActor:
    """Thin Ray actor around `Follower`; also reports how many replicas run."""

    def __init__(self, settings: Settings) -> None:
        """Open the database and the stores."""
        from edgerad.database import Database
        from edgerad.store import ObjectStore, config_from
        from edgerad.telemetry import configure_logging
        from serve import app

        configure_logging(settings.telemetry)
        self._settings = settings
        self._turn = threading.Lock()
        self._database = Database(settings.database_url)
        core = ObjectStore(config_from(settings.core.store)) if settings.core.store.endpoint_url else None
        self._follower = Follower(settings, self._database, core, partial(app.deploy, settings))

    def start(self) -> str | None:
        """Put the first model into service; returns its digest when it serves, None when no model can."""
        with self._turn:
            return self._follower.start()

    def trouble(self) -> str | None:
        """Return why a better model does not serve, or none; None when all is well."""
        return self._follower.trouble

    def run(self) -> None:
        """Follow the registry until the actor ends."""
        from serve import app

        last = 0.0
        since = time.monotonic()  # when replicas were last seen
        while True:
            replicas = app.replicas()
            since = time.monotonic() if replicas else since
            if time.monotonic() - last >= self._settings.core.poll_interval and self._turn.acquire(blocking=False):
                try:
                    self._follower.follow(is_lost=time.monotonic() - since > LOST_AFTER)
                finally:
                    self._turn.release()
                last = time.monotonic()
            follower = self._follower
            figures = {
                "replicas": replicas,
                "model": follower.serving,
                "calibration": follower.calibration,
                "fallback": follower.is_fallback,
                "trouble": follower.trouble,
            }
            ledger.report(self._database, COMPONENT, figures)
            time.sleep(min(self._settings.core.poll_interval, 2.0))
