"""What the serving benchmark makes of its figures, and that its parts run; nothing here is timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import bare, contenders, images, plot, processes, runtimes, serving, spike
from benchmarks.edge import Run
from edgerad.demo.process import descendants
from serve.bundle import bundled_keys, bundled_model, load_bundle
from serve.score import open_scorer

REPORT: dict[str, Any] = {
    "all_repeats": {  # the machine slows down between the turns
        "limit": [200.0, 160.0, 50.0], "limit_with_fetch": [160.0, 140.0, 40.0], "bare": [100.0, 80.0, 25.0],
        "serve": [180.0, 144.0, 30.0], "pipeline": [150.0, 120.0, 40.0], "fastapi": [20.0, 16.0, 5.0],
        "reference": [1.5, 1.2, 0.4],
    },
    "single_image_ms": 10.0,
    "latency_at_half_load": {"p50_ms": 90.0, "lost": 0},
    "queues": [{"lost": 0}, {"lost": 0}],
    "spike": {
        "lost": 0,
        "first_scaling_decision_seconds": 1.0,
        "first_assessment_seconds": 0.3,
        "first_extra_replica_seconds": 5.0,
    },
    "replica": {"start_seconds": 3.0, "rss_mb": 340},
}  # fmt: skip


@pytest.fixture(autouse=True)
def phantoms_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real images are not needed here."""
    monkeypatch.setenv("EDGERAD_SHARED", str(tmp_path))
    monkeypatch.setattr(images, "PHANTOM_SIZE", 256)


def test_goals_are_met_and_missed_as_the_figures_say() -> None:
    judged = serving.goals(REPORT)
    assert all(goal.get("met", True) for goal in judged.values())
    assert judged["serve / limit"] == {"value": 0.9, "at_least": 0.9, "met": True}, "not the last turn alone"
    assert judged["pipeline / limit"] == {"value": 0.75, "at_least": 0.75, "met": True}
    worse = {
        **REPORT,
        "single_image_ms": 5.0,
        "queues": [{"lost": 1}],
        "spike": {**REPORT["spike"], "first_extra_replica_seconds": None},
        "all_repeats": {**REPORT["all_repeats"], "serve": [100.0, 80.0, 45.0]},
    }
    missed = {name for name, goal in serving.goals(worse).items() if not goal.get("met", True)}
    assert missed == {
        "serve / limit", "p50 at half load, ms", "images lost", "spike: first extra replica serves, s",
    }  # fmt: skip


class Edge:
    """An edge that takes as many milliseconds for an image as its number says, and loses the last of five."""

    def run(self, count: int, gaps: Any = ()) -> Run:
        """Return the run of `count` images."""
        sent = {str(number): float(number) for number in range(count)}
        done = {key: at + (number + 1) / 1000 for number, (key, at) in enumerate(sent.items()) if number != 4}
        return Run(sent, done, {"store": 0.5, "replica": 1.5})


def test_latencies_are_ranked_and_a_loss_is_seen() -> None:
    seen = serving.latency(Edge(), 10.0, 2.0)
    assert (seen["images"], seen["lost"]) == (20, 1)
    assert seen["p50_ms"] == 11.0
    assert seen["largest_ms"] == seen["p99_ms"] == 20.0


def test_a_queue_is_measured_as_often_as_it_is_short() -> None:
    short, long = serving.queue(Edge(), 2), serving.queue(Edge(), 2000)
    assert (short["runs"], long["runs"]) == (5, 1)
    assert short["cpu_ms_per_image"] == 1000.0
    assert long["lost"] == 1


def test_cpu_is_shared_out_by_process() -> None:
    assert serving.shares([{"a": 0.001, "b": 0.003}, {"a": 0.001}, {"a": 0.002, "b": 0.003}]) == {
        "all": 4.0,
        "b": 3.0,
        "a": 1.0,
    }


def test_a_spike_is_drawn() -> None:
    run = Run({"a": 10.0, "b": 10.0}, {"a": 11.0, "b": 13.0}, {})
    looks = [spike.Look(9.0, 0, 1, 0), spike.Look(10.5, 2, 1, 1), spike.Look(12.0, 1, 2, 0), spike.Look(14.0, 0, 2, 0)]
    series = spike.series(run, looks, 10.0)
    assert [row["waiting"] for row in series] == [0, 2, 1, 0]
    assert [row["at"] for row in series] == [-1.0, 0.5, 2.0, 4.0]
    drawn = ElementTree.fromstring(serving.drawing(series))  # noqa: S314 - our own
    texts = [element.text for element in drawn.iter() if element.text]
    assert {"replicas", "seconds", "lag that the policy reads", "serving", "starting"} <= set(texts)
    steps = [path.get("d", "") for path in drawn.iter() if path.get("fill") == "none"]
    assert [step.count("V") for step in steps] == [3, 3, 3, 3]


def test_a_flat_line_can_be_drawn() -> None:
    ElementTree.fromstring(plot.svg("a & b", [0.0], [("p", [plot.Line("x", [0.0])])]))  # noqa: S314 - our own


def test_a_watcher_tells_when_something_was_first_seen() -> None:
    watcher = spike.Watcher()
    watcher.looks = [spike.Look(1.0, 0, 1, 0), spike.Look(2.0, 9, 1, 1), spike.Look(5.25, 9, 2, 0)]
    assert watcher.first(lambda seen: seen.running > 1, 1.0) == 4.25
    assert watcher.first(lambda seen: seen.starting > 0, 3.0) is None


def test_the_bare_loop_scores_what_it_is_given() -> None:
    files = images.load(3).files
    took = bare.turn(files.__getitem__, [0, 1, 2, 0], [open_scorer(), open_scorer()])
    assert took["seconds"] >= took["single"] > 0


def test_processes_are_found_and_their_costs_read() -> None:
    import os

    own = os.getpid()
    assert own in descendants(os.getppid())
    assert processes.cpu_seconds([own])[own] > 0
    assert processes.cpu_seconds([2**30]) == {}
    memory = processes.memory_mb(own)
    assert memory["rss"] >= memory["pss"] > 10
    assert processes.named([own], "no such word") == []


def test_runtimes_are_compared_and_what_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> Any:
        raise ImportError("not installed")

    bundle = load_bundle(bundled_model(), bundled_keys())
    monkeypatch.setattr(runtimes, "make_artifacts", lambda folder: [])
    monkeypatch.setitem(contenders.CONTENDERS, "abacus", absent)
    monkeypatch.setitem(contenders.CONTENDERS, runtimes.REFERENCE, contenders.registered("litert"))
    found = runtimes.compare(bundle, ["litert", "abacus"], 6, [1, 4], 1)
    assert found["left_out"] == ["abacus: ImportError: not installed"]
    assert set(found["runtimes"]) == {runtimes.REFERENCE, "litert"}
    litert = found["runtimes"]["litert"]
    assert litert["passes"]
    assert litert["classes_flipped"] == 0
    assert set(litert["images_per_second"]) == {"1", "4"}


def test_a_runtime_that_changes_classes_does_not_pass() -> None:
    bundle = load_bundle(bundled_model(), bundled_keys())
    expected = np.linspace(-4, 4, 100, dtype=np.float32)
    labels = np.arange(100) >= 50
    moved = expected.copy()
    moved[:3] += 4
    seen = runtimes.parity(bundle, expected, moved, labels)
    assert seen["classes_flipped"] == 3
    assert not seen["passes"]
    assert runtimes.parity(bundle, expected, expected, labels)["passes"]
