"""A core over a store in memory whose trainings do as they are told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from edgerad.database import Database
from edgerad.records import CoreCase, Label, Model, TrainingRun, now
from edgerad.settings import load_settings
from train import job, runs
from train.core import Core
from train.promote import Decision

if TYPE_CHECKING:
    from tests.train.conftest import MemoryStore

FINDING = "pneumonia"
NEEDED = 4
NEW = "b" * 64
BETTER = Decision(True, "promoted: better", {"auroc": 1})


class Bench:
    """A core over a store in memory whose trainings do as they are told."""

    def __init__(self, database: Database, store: MemoryStore, folder: Path) -> None:
        self.database, self.store, self.folder = database, store, folder
        self.settings = load_settings(
            data_dir=folder, core={"poll_interval": 0}, train={"min_new_labels": NEEDED, "max_failures": 1}
        )
        self.plans: list[job.Plan] = []
        self.trouble: BaseException | None = None
        self.decision = BETTER
        self.meanwhile: Callable[[], object] = lambda: None
        self.cases = 0

    def core(self) -> Core:
        """One more core."""
        return Core(self.settings, self.database, self.store)

    def train(self, settings: Any, plan: job.Plan) -> job.Outcome:
        """What stands in for Ray here."""
        self.plans.append(plan)
        self.meanwhile()
        if self.trouble is not None:
            raise self.trouble
        candidate = plan.folder / "candidate"
        candidate.mkdir(parents=True, exist_ok=True)
        (candidate / "bundle.json").write_text("{}")
        self.store.put(f"{job.CHECKPOINTS}{plan.run_id}/checkpoint", b"x")
        return job.Outcome(candidate, NEW, self.decision, [0.5, 0.4], 0)

    def label(self, count: int = NEEDED, **fields: Any) -> None:
        """Let cases come and experts label them, every other one positive."""
        with self.database.write() as session:
            for _ in range(count):
                self.cases += 1
                session.add(case(f"case-{self.cases:03d}", **fields))
                session.flush()
                verdict = "positive" if self.cases % 2 else "negative"
                session.add(Label(case_id=f"case-{self.cases:03d}", label=verdict, labeller="Dr. A", source="expert"))

    def silence(self) -> None:
        """Let a core's last sign of life be long ago."""
        with self.database.write() as session:
            session.execute(update(TrainingRun).values(seen_at=now() - runs.LEASE - timedelta(seconds=1)))

    @property
    def runs(self) -> list[TrainingRun]:
        """All runs, the oldest first."""
        with self.database.read() as session:
            return list(session.scalars(select(TrainingRun).order_by(TrainingRun.started_at)))

    @property
    def models(self) -> dict[str, str]:
        """The state of each model."""
        with self.database.read() as session:
            return {row.model_digest: row.state for row in session.scalars(select(Model))}


def case(case_id: str, **fields: Any) -> CoreCase:
    """Return a case of a patient of its own, not yet labelled."""
    known = {
        "edge_id": "north", "object_key": f"cases/{case_id}", "object_digest": "d", "media_type": "image/png",
        "patient": f"p-{case_id}", "finding": FINDING, "probability": 0.5, "triage": "unknown", "model_digest": "m",
        "why": "unknown", "split": "train", "manifest": {},
    }  # fmt: skip
    return CoreCase(case_id=case_id, **{**known, **fields})
