"""The core's loop: take parcels in, retrain when enough labels have come, keep the registry's pointer right."""

from __future__ import annotations

import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import OperationalError, SQLAlchemyError

from edgerad import ledger, registry
from edgerad.records import TrainingRun, now
from edgerad.store import StoreError
from edgerad.telemetry import get_logger
from serve.bundle import BundleError, bundled_keys, bundled_model, load_bundle, parse_trusted_keys
from train import cases, failure, intake, job, promote, receipts, runs

if TYPE_CHECKING:
    from edgerad.database import Database
    from edgerad.settings import Settings
    from edgerad.store import ObjectStore

COMPONENT = "core"
REPORT_EVERY = 10.0
FORGET_EVERY = 3600.0
"""Seconds between looks for old receipts."""


class Core:
    """One step at a time; each can be repeated, and a dead store or database only delays it."""

    def __init__(self, settings: Settings, database: Database, store: ObjectStore) -> None:
        """Keep what the steps work with; every core is an owner of runs by a name of its own."""
        self._settings, self._database, self._store = settings, database, store
        self._finding = settings.finding
        self._folder = settings.data_dir / "train"
        self._owner = uuid.uuid4().hex
        self._desk: intake.Desk | None = None
        self._log = get_logger(COMPONENT)

    def prepare(self) -> None:
        """Register the shipped model where there is none in service. Raises BundleError, StoreError."""
        if promote.in_service(self._database, self._finding) is None:
            bundle = load_bundle(bundled_model(self._finding), bundled_keys())
            registry.publish(self._store, self._finding, bundle.digest, bundle.path)
            metrics = bundle.manifest.metrics
            promote.adopt(self._database, self._finding, bundle.digest, metrics, "shipped with edgerad")
        self.point()

    def point(self) -> None:
        """Keep the registry's pointer where the records say."""
        promote.point(self._store, self._database, self._finding)

    def take_in(self) -> intake.Taken:
        """Take in what the edges have sent."""
        self._desk = self._desk or intake.desk_of(self._settings)
        return intake.take_in(self._store, self._database, self._desk)

    def forget_receipts(self) -> int:
        """Remove receipts that are old and surely read; return how many."""
        return receipts.forget(self._store, self._database, now(), self._settings.core.keep_receipts)

    def is_due(self) -> bool:
        """Return whether enough labels have come for a retraining, or one waits to be taken up."""
        tuning = self._settings.train
        if not tuning.enabled:
            return False
        if runs.is_running(self._database, self._finding):
            return runs.waits(self._database, self._finding)
        return cases.new_labels(self._database, self._finding) >= tuning.min_new_labels

    def retrain(self) -> TrainingRun | None:
        """Take up the run that waits, or begin one; bring it to its decision and return its record.

        A failure is recorded, not raised. Returns None where another core runs one. Where the store or the database
        stops answering, the run stays as it is, and waits to be taken up. Raises SQLAlchemyError.
        """
        run = runs.take_up(self._database, self._finding, self._owner) or self._begin()
        if run is None:
            return None
        if run.state != runs.RUNNING:
            self._forget(run)
            return run
        self._log.info("training", training_run_id=run.training_run_id, attempts=run.attempts, cases=run.cases)
        try:
            with runs.Heartbeat(self._database, run):
                self._finish(run, self._decided(run))
        except runs.Lost as error:
            self._log.warning("training given away", training_run_id=run.training_run_id, error=error)
        except Exception as error:  # noqa: BLE001 - whatever ended the run belongs into its record; the core goes on
            self._stop(run, error)
        with self._database.read() as session:
            return session.get_one(TrainingRun, run.training_run_id)

    def report(self, figures: dict[str, Any]) -> None:
        """Give a sign of life with figures for the operations page."""
        ledger.report(self._database, COMPONENT, figures)

    def _begin(self) -> TrainingRun | None:
        last = cases.last_label(self._database)
        return runs.claim(
            self._database,
            self._finding,
            self._owner,
            parent=promote.in_service(self._database, self._finding) or "",
            cases=len(cases.labelled(self._database, self._finding, last)),
            last_label_id=last,
        )

    def _decided(self, run: TrainingRun) -> job.Outcome:
        references = cases.labelled(self._database, self._finding, run.last_label_id)
        references += cases.rehearsal(self._store, self._settings.train.rehearsal_prefix)
        path = registry.pull(self._store, self._finding, run.parent_digest, self._folder / "parents")
        load_bundle(path, self._trusted())
        plan = job.Plan(
            run.training_run_id,
            self._finding,
            path,
            tuple(references),
            tuple(cases.labelled(self._database, self._finding, run.last_label_id, "evaluation")),
            self._folder / run.training_run_id,
            job.fit_config(self._settings.train),
            self._settings.train.workers,
        )
        return job.run(self._settings, plan)

    def _finish(self, run: TrainingRun, outcome: job.Outcome) -> None:
        """Publish the candidate, record the decision and the run in one transaction, then move the pointer."""
        registry.publish(self._store, self._finding, outcome.digest, outcome.candidate)
        progress = {"losses": outcome.losses, "unreadable": outcome.unreadable, "decision": outcome.decision.reason}
        with self._database.write() as session:
            runs.succeed(session, run, outcome.digest, progress)
            state = promote.settle(
                session,
                self._finding,
                outcome.digest,
                run.parent_digest,
                outcome.decision,
                metrics=outcome.decision.figures,
                training_run_id=run.training_run_id,
            )
        self._log.info(
            "training decided", training_run_id=run.training_run_id, model_digest=outcome.digest, state=state
        )
        try:
            self.point()
            self._forget(run)
        except StoreError as error:  # the record stands; the next step moves the pointer
            self._log.warning("the core waits", error=error)

    def _stop(self, run: TrainingRun, error: Exception) -> None:
        """Record why a run ended, or that it waits for a store or database that does not answer."""
        reason = failure.in_words(error, self._settings.train.max_failures)
        waits = failure.is_passing(error) or isinstance(error, OperationalError)
        self._log.error(
            "training stopped", training_run_id=run.training_run_id, error=error, state="waits" if waits else "failed"
        )
        try:
            if waits:
                runs.put_off(self._database, run, f"waits: {reason}")
                return
            runs.fail(self._database, run, reason)
            self._forget(run)
        except (runs.Lost, SQLAlchemyError, StoreError) as second:  # it is silent from now on, and so taken up later
            self._log.warning("the core waits", error=second)

    def _forget(self, run: TrainingRun) -> None:
        job.forget(self._store, self._folder / run.training_run_id, run.training_run_id)

    def _trusted(self) -> dict[str, bytes]:
        return {**bundled_keys(), **parse_trusted_keys(self._settings.core.trusted_keys)}


class CoreActor:
    """Thin Ray actor around `Core`: intake goes on while a training runs in a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        """Open the database and the store."""
        from edgerad.telemetry import configure_logging

        configure_logging(settings.telemetry)
        self._loop = Loop(settings, open_core(settings))

    def run(self) -> None:
        """Work until the actor ends."""
        while True:
            self._loop.step()
            time.sleep(self._loop.pause)


class Loop:
    """What the actor repeats: each step does what is due and never waits for a training."""

    def __init__(self, settings: Settings, core: Core) -> None:
        """Keep the core; nothing is done yet."""
        self.pause = settings.core.poll_interval
        self._core = core
        self._log = get_logger(COMPONENT)
        self._training: threading.Thread | None = None
        self._prepared, self._reported, self._forgot = False, 0.0, float("-inf")
        self._totals = intake.Taken()

    def step(self) -> None:
        """Do what is due; a store or database that does not answer, or a bundle that is no good, is waited for."""
        try:
            if not self._prepared:
                self._core.prepare()
                self._prepared = True
            self._core.point()
            taken = self._core.take_in()
            for name in ("accepted", "refused", "repeated", "stuck"):
                setattr(self._totals, name, getattr(self._totals, name) + getattr(taken, name))
            if not self.is_training and self._core.is_due():
                self._training = threading.Thread(target=self._train, name="training", daemon=True)
                self._training.start()
            if taken.accepted or time.monotonic() - self._reported > REPORT_EVERY:
                self._report()
                self._reported = time.monotonic()
            if time.monotonic() - self._forgot > FORGET_EVERY:
                self._core.forget_receipts()
                self._forgot = time.monotonic()
        except (StoreError, SQLAlchemyError, BundleError) as error:
            self._log.warning("the core waits", error=error)

    @property
    def is_training(self) -> bool:
        """Whether this core is training."""
        return self._training is not None and self._training.is_alive()

    def _train(self) -> None:
        try:
            self._core.retrain()
        except SQLAlchemyError as error:
            self._log.warning("the core waits", error=error)

    def _report(self) -> None:
        self._core.report(
            {
                "accepted": self._totals.accepted,
                "refused": self._totals.refused,
                "stuck": self._totals.stuck,
                "training": int(self.is_training),
            }
        )


def open_core(settings: Settings) -> Core:
    """Return a core over the configured database and store."""
    from edgerad.database import Database
    from edgerad.store import ObjectStore, config_from

    return Core(settings, Database(settings.database_url), ObjectStore(config_from(settings.core.store)))
