"""Cores that die in the middle of a run, and several at a time: no run is lost, doubled or repeated in vain."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from edgerad import registry
from edgerad.audit import verify
from edgerad.database import Database
from edgerad.records import TrainingRun, now
from edgerad.store import StoreUnavailable
from serve.shelf import bundled_digest
from tests.train.bench import FINDING, NEEDED, NEW, Bench
from tests.train.conftest import MemoryStore
from train import job, runs
from train.core import Loop


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


def test_a_sign_of_life_by_a_clock_that_was_ahead_keeps_no_run_waiting(bench: Bench) -> None:
    bench.label()
    bench.trouble = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        bench.core().retrain()
    bench.trouble = None
    with bench.database.write() as session:
        for run in session.scalars(select(TrainingRun)):
            run.seen_at = now() + timedelta(hours=10)
    taken = bench.core().retrain()
    assert taken is not None
    assert (taken.state, taken.attempts) == ("succeeded", 2)


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
