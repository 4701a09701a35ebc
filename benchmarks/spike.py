"""A spike from idle, and how long and how much memory an extra replica takes; with a plot of load, lag and replicas."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks import processes
from benchmarks.edge import Edge, Run

LOOK = 0.1
AFTER = 12.0
"""Seconds that are drawn after the last assessment: replicas go again."""
IDLE = 4.0
"""Seconds of rest before a start: Ray ends idle workers after three, so that the next one starts from nothing."""
REPLICA = "ServeReplica:edgerad:Scorer"
PULL = "benchmark"
"""Name of the source that pretends a lag."""


@dataclass(frozen=True)
class Look:
    """What was seen at a time (seconds since 1970): the lag that the policy reads, replicas by state."""

    at: float
    lag: int
    running: int
    starting: int


class Watcher:
    """Looks at lag and replicas until stopped; a context."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self.looks: list[Look] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watcher:
        """Start looking."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join(20)

    def _watch(self) -> None:
        while not self._stop.wait(LOOK):
            self.looks.append(look())

    def first(self, wanted: Callable[[Look], bool], since: float) -> float | None:
        """Return the seconds from `since` until something was first seen, or None."""
        return next((round(seen.at - since, 2) for seen in self.looks if seen.at >= since and wanted(seen)), None)


def look() -> Look:
    """Return lag and replicas of now."""
    from ray import serve

    from edgerad import lag

    states = serve.status().applications["edgerad"].deployments["Scorer"].replica_states
    counts = {str(state.value if hasattr(state, "value") else state): number for state, number in states.items()}
    return Look(time.time(), lag.read() or 0, counts.get("RUNNING", 0), counts.get("STARTING", 0))


def spike(edge: Edge, count: int) -> dict[str, Any]:
    """Send `count` records at once to an idle edge; return what happened and the series for the plot."""
    _until(lambda seen: seen.running == 1 and seen.starting == 0)
    time.sleep(IDLE)
    with Watcher() as watcher:
        time.sleep(2.0)
        run = edge.run(count)
        time.sleep(AFTER)
    began = min(run.sent.values())
    least = min(seen.running for seen in watcher.looks)
    return {
        "images": count,
        "lost": run.lost,
        "seconds": round(run.seconds, 1),
        "first_scaling_decision_seconds": watcher.first(lambda seen: seen.starting + seen.running > least, began),
        "first_assessment_seconds": round(min(run.assessed.values()) - began, 2),
        "first_extra_replica_seconds": watcher.first(lambda seen: seen.running > least, began),
        "most_replicas": max(seen.running for seen in watcher.looks),
        "series": series(run, watcher.looks, began),
    }


def series(run: Run, looks: list[Look], began: float) -> list[dict[str, float]]:
    """Return, by seconds since the spike began: records sent and not assessed, lag as read, replicas."""
    sent, done = sorted(run.sent.values()), sorted(run.assessed.values())
    rows = []
    for seen in looks:
        waiting = sum(at <= seen.at for at in sent) - sum(at <= seen.at for at in done)
        rows.append(
            {"at": round(seen.at - began, 2), "waiting": waiting, "lag": seen.lag, "replicas": seen.running,
             "starting": seen.starting}
        )  # fmt: skip
    return rows


def replica_starts(edge: Edge, repeats: int) -> dict[str, Any]:
    """Have an extra replica start on the idle edge, `repeats` times; return its seconds and memory."""
    from edgerad import lag

    seconds, sizes = [], []
    for _ in range(repeats):
        _until(lambda seen: seen.running == 1 and seen.starting == 0)
        time.sleep(IDLE)
        before = set(processes.named(edge.processes(), REPLICA))
        stop = threading.Event()
        pull = threading.Thread(target=_pretend, args=(lag.publish, stop))
        pull.start()
        try:
            began = _until(lambda seen: seen.starting > 0)
            ended = _until(lambda seen: seen.running > 1)
        finally:
            stop.set()
            pull.join()
        seconds.append(ended - began)
        edge.score(edge.requests(160))
        new = set(processes.named(edge.processes(), REPLICA)) - before
        sizes += [processes.memory_mb(process) for process in new]
        lag.publish(PULL, 0)
    return {
        "starts_seconds": [round(value, 2) for value in seconds],
        "start_seconds": round(median(seconds), 2),
        "rss_mb": max(size["rss"] for size in sizes),
        "pss_mb": max(size["pss"] for size in sizes),
    }


def _pretend(publish: Callable[[str, int], None], stop: threading.Event) -> None:
    while not stop.wait(0.25):
        publish(PULL, 1_000_000)


def _until(wanted: Callable[[Look], bool], timeout: float = 90.0) -> float:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        seen = look()
        if wanted(seen):
            return seen.at
        time.sleep(0.05)
    raise TimeoutError("replicas did not do what was expected")
