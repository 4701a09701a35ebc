"""The core's loop: take parcels in, retrain when enough labels have come, keep the registry's pointer right."""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from edgerad import ledger, registry
from edgerad.records import TrainingRun, now
from edgerad.store import StoreError
from edgerad.telemetry import get_logger
from serve.bundle import bundled_keys, bundled_model, key_id_of, load_bundle
from train import cases, intake, job, promote

if TYPE_CHECKING:
    from edgerad.database import Database
    from edgerad.settings import Settings
    from edgerad.store import ObjectStore

COMPONENT = "core"
REPORT_EVERY = 10.0


class Core:
    """One step at a time; each can be repeated, and a dead store or database only delays it."""

    def __init__(self, settings: Settings, database: Database, store: ObjectStore) -> None:
        """Keep what the steps work with."""
        self._settings, self._database, self._store = settings, database, store
        self._finding = settings.finding
        self._folder = settings.data_dir / "train"
        self._log = get_logger(COMPONENT)

    def prepare(self) -> None:
        """Register the shipped model where there is none in service; mark runs that a crash ended."""
        if promote.in_service(self._database, self._finding) is None:
            bundle = load_bundle(bundled_model(self._finding), bundled_keys())
            registry.publish(self._store, self._finding, bundle.digest, bundle.path)
            metrics = bundle.manifest.metrics
            promote.adopt(self._database, self._finding, bundle.digest, metrics, "shipped with edgerad")
        promote.point(self._store, self._database, self._finding)
        with self._database.write() as session:
            for run in session.scalars(select(TrainingRun).where(TrainingRun.state == "running")):
                run.state, run.error, run.finished_at = "failed", "the core ended during the run", now()

    def take_in(self) -> intake.Taken:
        """Take in what the edges have sent."""
        return intake.take_in(self._store, self._database, self._finding)

    def is_due(self) -> bool:
        """Return whether enough labels have come for a retraining."""
        tuning = self._settings.train
        return tuning.enabled and cases.new_labels(self._database, self._finding) >= tuning.min_new_labels

    def retrain(self) -> TrainingRun:
        """Run one retraining to its decision and return its record; a failure is recorded, not raised."""
        references, last = cases.labelled(self._database, self._finding)
        references += cases.rehearsal(self._store, self._settings.train.rehearsal_prefix)
        parent = promote.in_service(self._database, self._finding) or ""
        run = TrainingRun(
            training_run_id=uuid.uuid4().hex,
            finding=self._finding,
            state="running",
            parent_digest=parent,
            cases=len(references),
            last_label_id=last,
            started_at=now(),
        )
        with self._database.write() as session:
            session.add(run)
        try:
            self._finish(run, self._decided(run, references))
        except Exception as error:  # noqa: BLE001 - whatever ended the run belongs into its record; the core goes on
            self._log.error("training failed", training_run_id=run.training_run_id, error=error)
            with self._database.write() as session:
                row = session.get_one(TrainingRun, run.training_run_id)
                row.state, row.error, row.finished_at = "failed", f"{type(error).__name__}: {error}"[:2000], now()
        with self._database.read() as session:
            return session.get_one(TrainingRun, run.training_run_id)

    def _decided(self, run: TrainingRun, references: list[cases.Reference]) -> job.Outcome:
        path = registry.pull(self._store, self._finding, run.parent_digest, self._folder / "parents")
        load_bundle(path, self._trusted())
        plan = job.Plan(
            run.training_run_id,
            self._finding,
            path,
            tuple(references),
            self._folder,
            job.fit_config(self._settings.train),
            self._settings.train.workers,
        )
        return job.run(self._settings, plan)

    def _finish(self, run: TrainingRun, outcome: job.Outcome) -> None:
        """Publish the candidate, record the decision and the run in one transaction, then move the pointer."""
        registry.publish(self._store, self._finding, outcome.digest, outcome.candidate)
        with self._database.write() as session:
            state = promote.settle(
                session,
                self._finding,
                outcome.digest,
                run.parent_digest,
                outcome.decision,
                metrics=outcome.decision.figures,
                training_run_id=run.training_run_id,
            )
            row = session.get_one(TrainingRun, run.training_run_id)
            row.state, row.candidate_digest, row.finished_at = "succeeded", outcome.digest, now()
            row.progress = {"losses": outcome.losses, "decision": outcome.decision.reason}
        promote.point(self._store, self._database, self._finding)
        shutil.rmtree(outcome.candidate, ignore_errors=True)
        self._log.info(
            "training decided", training_run_id=run.training_run_id, model_digest=outcome.digest, state=state
        )

    def _trusted(self) -> dict[str, bytes]:
        import base64

        own = [base64.b64decode(key) for key in self._settings.core.trusted_keys]
        return {**bundled_keys(), **{key_id_of(key): key for key in own}}


class CoreActor:
    """Thin Ray actor around `Core`: intake goes on while a training runs in a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        """Open the database and the store."""
        from edgerad.database import Database
        from edgerad.store import ObjectStore, config_from
        from edgerad.telemetry import configure_logging

        configure_logging(settings.telemetry)
        self._settings = settings
        self._database = Database(settings.database_url)
        self._core = Core(settings, self._database, ObjectStore(config_from(settings.core.store)))
        self._training: threading.Thread | None = None
        self._prepared = False

    def run(self) -> None:
        """Work until the actor ends."""
        log = get_logger(COMPONENT)
        reported, totals = 0.0, intake.Taken()
        while True:
            try:
                if not self._prepared:
                    self._core.prepare()
                    self._prepared = True
                taken = self._core.take_in()
                for name in ("accepted", "refused", "repeated", "stuck"):
                    setattr(totals, name, getattr(totals, name) + getattr(taken, name))
                if not self._is_training() and self._core.is_due():
                    self.train()
                if taken.accepted or time.monotonic() - reported > REPORT_EVERY:
                    self._report(totals)
                    reported = time.monotonic()
            except (StoreError, SQLAlchemyError) as error:
                log.warning("the core waits", error=error)
            time.sleep(self._settings.core.poll_interval)

    def train(self) -> bool:
        """Begin a retraining unless one runs; return whether it began."""
        if self._is_training():
            return False
        self._training = threading.Thread(target=self._core.retrain, name="training")
        self._training.start()
        return True

    def _is_training(self) -> bool:
        return self._training is not None and self._training.is_alive()

    def _report(self, totals: intake.Taken) -> None:
        figures: dict[str, Any] = {
            "accepted": totals.accepted,
            "refused": totals.refused,
            "stuck": totals.stuck,
            "training": int(self._is_training()),
        }
        ledger.report(self._database, COMPONENT, figures)


def open_core(settings: Settings) -> Core:
    """Return a core over the configured database and store."""
    from edgerad.database import Database
    from edgerad.store import ObjectStore, config_from

    return Core(settings, Database(settings.database_url), ObjectStore(config_from(settings.core.store)))
