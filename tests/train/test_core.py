"""The core's steps: what it prepares and points to, when it trains, and what it does with the outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from edgerad import registry
from edgerad.audit import verify
from edgerad.records import ComponentStatus, CoreCase
from edgerad.settings import load_settings
from edgerad.store import StoreUnavailable
from serve.bundle import bundled_model
from serve.shelf import bundled_digest
from tests.train.bench import FINDING, NEEDED, NEW, Bench
from train import intake, job
from train.core import Loop
from train.promote import Decision


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
