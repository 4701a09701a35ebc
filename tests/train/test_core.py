"""The core's steps: what it learns from, when it trains, and that no run is lost, doubled or repeated in vain."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.exc import DatabaseError, OperationalError

from edgerad import decisions, queries, registry
from edgerad.audit import verify
from edgerad.database import Database
from edgerad.records import ComponentStatus, CoreCase, Label, Model, TrainingRun, now
from edgerad.settings import load_settings
from edgerad.store import StoreUnavailable
from serve.bundle import bundled_model
from serve.shelf import bundled_digest
from tests.train.conftest import MemoryStore
from train import cases, failure, intake, job, runs
from train.core import Core, Loop
from train.promote import Decision

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
    known = {
        "edge_id": "north", "object_key": f"cases/{case_id}", "object_digest": "d", "media_type": "image/png",
        "patient": f"p-{case_id}", "finding": FINDING, "probability": 0.5, "triage": "unknown", "model_digest": "m",
        "why": "unknown", "split": "train", "manifest": {},
    }  # fmt: skip
    return CoreCase(case_id=case_id, **{**known, **fields})


@pytest.fixture
def bench(database: Database, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A core that is prepared, without labels."""
    made = Bench(database, store, tmp_path / "core")
    monkeypatch.setattr(job, "run", made.train)
    made.core().prepare()
    return made


# Labels and cases


def test_labels_cannot_be_changed_or_removed_and_the_newest_counts(bench: Bench) -> None:
    bench.label(1)
    for change in (update(Label).values(label="negative"), delete(Label)):
        with pytest.raises(DatabaseError, match="append-only"), bench.database.write() as session:
            session.execute(change)
    last = cases.last_label(bench.database)
    assert [row.label for row in cases.labelled(bench.database, FINDING, last)] == [1]
    decisions.label(bench.database, "case-001", "negative", "Dr. B")
    newest = cases.last_label(bench.database)
    assert [row.label for row in cases.labelled(bench.database, FINDING, newest)] == [0]
    assert [row.label for row in cases.labelled(bench.database, FINDING, last)] == [1], "as it was then"
    decisions.label(bench.database, "case-001", "unsure", "Dr. B")
    assert cases.labelled(bench.database, FINDING, cases.last_label(bench.database)) == []


def test_only_usable_labels_of_the_training_split_are_learned_from_and_counted(bench: Bench) -> None:
    bench.label(2)
    bench.label(1, split="evaluation")
    bench.label(1, finding="effusion")
    decisions.label(bench.database, "case-002", "unsure", "Dr. B")
    found = cases.labelled(bench.database, FINDING, cases.last_label(bench.database))
    assert [(row.key, row.group, row.source) for row in found] == [("cases/case-001", "p-case-001", "cases")]
    assert cases.new_labels(bench.database, FINDING) == 1


def test_all_cases_of_a_patient_are_on_one_side_for_ever(
    bench: Bench, make_parcel: Callable[..., Any], desk: intake.Desk
) -> None:
    patients = ["B" * 16, "D" * 16]
    for number in range(6):
        parcel = make_parcel(number % 2, picture=True).with_manifest(
            patient=patients[number % 2], parcel_id=f"{number:032x}"
        )
        parcel.send(bench.store)
        assert intake.take_in(bench.store, bench.database, desk).accepted == 1
    with bench.database.read() as session:
        rows = list(session.scalars(select(CoreCase)))
    sides = {(row.patient, row.split) for row in rows}
    assert len(rows) == 6
    assert sides == {(patients[0], "train"), (patients[1], "evaluation")}


def test_the_queue_asks_for_the_most_uncertain_first_and_for_each_case_once(bench: Bench) -> None:
    with bench.database.write() as session:
        for name, probability in (("sure", 0.97), ("torn", 0.51), ("low", 0.2), ("near", 0.4)):
            session.add(case(name, probability=probability))

    def queue() -> list[str]:
        return [row.case_id for row in queries.unlabelled(bench.database)]

    assert queue() == ["torn", "near", "low", "sure"]
    decisions.label(bench.database, "torn", "unsure", "Dr. A")
    decisions.label(bench.database, "sure", "positive", "Dr. A")
    assert queue() == ["near", "low"], "an unsure label is an answer too"
    assert queries.count_unlabelled(bench.database) == 2


# Preparing and pointing


def test_the_shipped_model_is_registered_once_and_the_pointer_leads_to_it(bench: Bench) -> None:
    shipped = bundled_digest(FINDING)
    bench.core().prepare()
    assert bench.models == {shipped: "promoted"}
    assert registry.current(bench.store, FINDING) == shipped
    pulled = registry.pull(bench.store, FINDING, shipped, bench.folder / "edge")
    assert (pulled / "weights.npz").read_bytes() == (bundled_model() / "weights.npz").read_bytes()


def test_every_step_puts_a_wrong_pointer_right(bench: Bench) -> None:
    loop = Loop(bench.settings, bench.core())
    loop.step()
    bench.store.put(f"registry/{FINDING}/current.json", b"spoilt")
    loop.step()
    assert registry.current(bench.store, FINDING) == bundled_digest(FINDING)


def test_a_dead_store_or_database_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(bench.settings, bench.core())

    def dead(*_: Any) -> None:
        raise StoreUnavailable("away")

    def locked(*_: Any) -> None:
        raise OperationalError("select", {}, Exception("locked"))

    for trouble in (dead, locked):
        with monkeypatch.context() as patched:
            patched.setattr(intake, "take_in", trouble)
            loop.step()
    with bench.database.read() as session:
        assert session.get(ComponentStatus, "core") is None
    loop.step()
    with bench.database.read() as session:
        assert session.get_one(ComponentStatus, "core").data["training"] == 0


# Training


def test_enough_new_labels_start_one_training_and_intake_goes_on_meanwhile(
    bench: Bench, make_parcel: Callable[..., Any], desk: intake.Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "desk_of", lambda _: desk)
    loop = Loop(bench.settings, bench.core())
    bench.label(NEEDED - 1)
    loop.step()
    assert bench.runs == []
    began, go_on = threading.Event(), threading.Event()

    def stay() -> None:
        began.set()
        go_on.wait(60)

    bench.meanwhile = stay
    bench.label(1)
    loop.step()
    assert began.wait(60)
    make_parcel().send(bench.store)
    loop.step()
    loop.step()
    assert loop.is_training
    with bench.database.read() as session:
        assert (
            session.scalar(select(CoreCase).where(CoreCase.edge_id == "north", CoreCase.why == "unknown")) is not None
        )
        assert session.get_one(ComponentStatus, "core").data == {
            "accepted": 1, "refused": 0, "stuck": 0, "training": 1,
        }  # fmt: skip
    go_on.set()
    assert loop._training is not None
    loop._training.join(60)
    (run,) = bench.runs
    assert (run.state, run.cases, run.candidate_digest) == ("succeeded", NEEDED, NEW)
    assert run.progress == {"losses": [0.5, 0.4], "unreadable": 0, "decision": "promoted: better"}
    assert bench.models == {bundled_digest(FINDING): "retired", NEW: "promoted"}
    assert registry.current(bench.store, FINDING) == NEW
    loop.step()
    assert len(bench.runs) == 1, "the same labels start no second one"
    assert verify(bench.database)[1] is None


def test_a_training_gets_the_labelled_cases_and_the_model_in_service(bench: Bench) -> None:
    bench.label()
    bench.label(1, split="evaluation")
    bench.core().retrain()
    (plan,) = bench.plans
    assert [(row.key, row.label) for row in plan.held_out] == [("cases/case-005", 1)]
    assert [(row.key, row.label) for row in plan.references] == [
        ("cases/case-001", 1), ("cases/case-002", 0), ("cases/case-003", 1), ("cases/case-004", 0),
    ]  # fmt: skip
    assert plan.parent.name == bundled_digest(FINDING)
    assert plan.config.batch_size == bench.settings.train.batch_size * bench.settings.train.workers
    assert not plan.folder.exists(), "nothing is left"
    assert not list(bench.store.list(job.CHECKPOINTS))


def test_what_the_rule_rejects_does_not_come_into_service(bench: Bench) -> None:
    bench.decision = Decision(False, "not promoted: no better")
    bench.label()
    run = bench.core().retrain()
    assert run is not None
    assert (run.state, run.progress["decision"]) == ("succeeded", "not promoted: no better")
    assert bench.models == {bundled_digest(FINDING): "promoted", NEW: "rejected"}
    assert registry.current(bench.store, FINDING) == bundled_digest(FINDING)


def test_a_run_that_failed_waits_for_new_labels_and_the_model_in_service_stays(bench: Bench) -> None:
    core = bench.core()
    bench.label()
    bench.trouble = FloatingPointError("the loss of epoch 2 is nan: lower the learning rate")
    run = core.retrain()
    assert run is not None
    assert (run.state, run.error) == ("failed", "the loss of epoch 2 is nan: lower the learning rate")
    assert run.finished_at is not None
    assert registry.current(bench.store, FINDING) == bundled_digest(FINDING)
    assert not core.is_due()
    bench.label(NEEDED - 1)
    assert not core.is_due()
    bench.label(1)
    assert core.is_due()
    bench.trouble = None
    assert core.retrain() is not None
    assert [run.state for run in bench.runs] == ["failed", "succeeded"]
    assert len(bench.plans[-1].references) == 2 * NEEDED, "the labels of the failed run are learned from now"


def test_without_enough_of_both_labels_it_says_what_is_missing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real job, which looks before it starts anything
    bench.label(1)
    run = bench.core().retrain()
    assert run is not None
    assert run.state == "failed"
    assert run.error is not None
    assert "1 positive and 0 negative cases to train on, at least 2 of each are needed" in run.error


def test_with_training_turned_off_nothing_is_due(bench: Bench) -> None:
    bench.label()
    bench.settings = load_settings(data_dir=bench.folder, train={"min_new_labels": NEEDED, "enabled": False})
    assert not bench.core().is_due()


# Cores that die, and several of them


def test_a_run_whose_core_died_is_taken_up_as_it_was(bench: Bench) -> None:
    bench.label()
    bench.trouble = KeyboardInterrupt()  # as sudden as an end can be in one process
    with pytest.raises(KeyboardInterrupt):
        bench.core().retrain()
    bench.label(NEEDED)
    other = bench.core()
    assert not other.is_due(), "its core may still live"
    assert other.retrain() is None
    bench.silence()
    bench.trouble = None
    assert other.is_due()
    run = other.retrain()
    assert run is not None
    assert (run.state, run.attempts) == ("succeeded", 2)
    assert len(bench.runs) == 1
    first, second = bench.plans
    assert (first.run_id, first.references) == (second.run_id, second.references), "with the labels of then"
    assert other.is_due(), "the labels that came meanwhile start the next one"


def test_a_run_that_outlives_core_after_core_is_given_up(bench: Bench) -> None:
    bench.label()
    bench.trouble = KeyboardInterrupt()
    for _ in range(runs.MAX_ATTEMPTS):
        with pytest.raises(KeyboardInterrupt):
            bench.core().retrain()
        bench.silence()
    bench.store.put(f"{job.CHECKPOINTS}{bench.plans[0].run_id}/checkpoint", b"x")
    core = bench.core()
    assert core.is_due(), "to be ended"
    run = core.retrain()
    assert run is not None
    assert (run.state, len(bench.plans)) == ("failed", runs.MAX_ATTEMPTS)
    assert run.error == "the core ended 3 times during this run, so it was given up"
    assert not core.is_due()
    assert not list(bench.store.list(job.CHECKPOINTS))


@pytest.mark.parametrize("trouble", [StoreUnavailable("away"), OperationalError("x", {}, Exception("away"))])
def test_a_store_or_database_that_stops_answering_fails_no_run(bench: Bench, trouble: Exception) -> None:
    bench.label()
    bench.trouble = trouble
    for _ in range(runs.MAX_ATTEMPTS + 2):
        core = bench.core()
        run = core.retrain()
        assert run is not None
        assert (run.state, run.finished_at) == ("running", None)
        assert (run.error or "").startswith("waits: ")
        assert not core.is_due(), "not at once again"
        bench.silence()
    bench.trouble = None
    run = bench.core().retrain()
    assert run is not None
    assert (run.state, run.error) == ("succeeded", None)
    assert len({plan.run_id for plan in bench.plans}) == 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_store_that_dies_between_any_two_steps_of_the_end_doubles_nothing(
    bench: Bench, tmp_path: Path, after: bool
) -> None:
    for step in range(20):
        database = Database(f"sqlite:///{tmp_path / f'{after}-{step}.db'}")
        database.upgrade()
        bench.database, bench.cases = database, 0
        bench.store.fail(None)
        bench.store.objects.clear()
        bench.core().prepare()
        bench.label()
        bench.store.fail(step, after)
        run = bench.core().retrain()
        reached = bench.store.writes > step
        bench.store.fail(None)
        assert run is not None
        if run.state == "running":
            bench.silence()
            run = bench.core().retrain()
        Loop(bench.settings, bench.core()).step()
        assert run is not None
        assert run.state == "succeeded"
        assert [row.training_run_id for row in bench.runs] == [run.training_run_id]
        assert bench.models == {bundled_digest(FINDING): "retired", NEW: "promoted"}
        assert registry.current(bench.store, FINDING) == NEW
        assert verify(database)[1] is None
        database.close()
        if not reached:
            assert step > 3
            return
    pytest.fail("the writes never ended")


def test_of_two_cores_one_trains(
    tmp_database_url: str, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(tmp_database_url)
    database.upgrade()
    bench = Bench(database, store, tmp_path / "core")
    monkeypatch.setattr(job, "run", bench.train)
    bench.core().prepare()
    bench.label()
    # Whoever trains holds its run until the other has looked: they are at it at the same time, on any machine.
    together, looked = threading.Barrier(2), threading.Event()
    bench.meanwhile = lambda: looked.wait(60)
    ended: list[TrainingRun | None] = []

    def work() -> None:
        core = bench.core()
        together.wait(60)
        ended.append(core.retrain())
        looked.set()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bench.plans) == len(bench.runs) == 1
    assert sorted(run.state if run else "none" for run in ended) == ["none", "succeeded"]
    database.close()


def test_what_a_core_finishes_after_another_took_over_is_void(bench: Bench) -> None:
    bench.label()

    def taken_over() -> None:
        bench.silence()
        taken = runs.take_up(bench.database, FINDING, "another")
        assert taken is not None

    bench.meanwhile = taken_over
    run = bench.core().retrain()
    assert run is not None
    assert (run.state, run.owner, run.candidate_digest) == ("running", "another", None)
    assert bench.models == {bundled_digest(FINDING): "promoted"}
    assert registry.current(bench.store, FINDING) == bundled_digest(FINDING)
    with pytest.raises(runs.Lost), bench.database.write() as session:
        runs.succeed(session, bench.runs[0].__class__(training_run_id=run.training_run_id, owner="me"), NEW, {})


def test_a_heartbeat_keeps_a_run_and_ends_with_it(bench: Bench) -> None:
    run = runs.claim(bench.database, FINDING, "me", parent="p", cases=1, last_label_id=0)
    assert run is not None
    bench.silence()
    beaten = threading.Event()

    class Watched(Database):
        def write(self) -> Any:
            beaten.set()
            return super().write()

    watched = Watched(str(bench.database.engine.url))
    heart = runs.Heartbeat(watched, run, every=0.01)
    with heart:
        assert beaten.wait(60)
    assert not heart._thread.is_alive()
    assert not runs.waits(bench.database, FINDING)
    watched.close()


# Why it failed, in words


def test_the_cause_is_found_behind_what_wraps_it() -> None:
    from ray.exceptions import ActorDiedError, RayTaskError
    from ray.train import WorkerGroupError

    cause = FloatingPointError("the loss of epoch 1 is nan: lower the learning rate")
    assert failure.in_words(WorkerGroupError("long text", {1: cause}), 1) == str(cause)
    task = RayTaskError("export", "a traceback\nof many lines", failure.NotTrainable("too few"))
    assert failure.in_words(task, 1) == "too few"
    assert failure.in_words(task.as_instanceof_cause(), 1) == "too few"
    away = RayTaskError("fit", "a traceback", WorkerGroupError("long text", {0: StoreUnavailable("store is away")}))
    assert failure.in_words(away.as_instanceof_cause(), 1) == "store is away"
    assert failure.is_passing(away.as_instanceof_cause())
    dead = WorkerGroupError("long text", {0: ActorDiedError()})
    assert failure.in_words(dead, 0).startswith("a training process died once, most often for want of memory")
    assert failure.in_words(dead, 2).startswith("a training process died 3 times")
    unknown = failure.in_words(KeyError("first\nsecond"), 1)
    assert unknown.startswith("KeyError: ")
    assert "\n" not in unknown
    chained = RuntimeError("outer")
    chained.__cause__ = StoreUnavailable("away")
    assert failure.is_passing(chained)
    assert not failure.is_passing(cause)
    chained.__cause__.__cause__ = chained
    assert failure.is_passing(chained), "a ring ends"
