"""What the GPU benchmark makes of its figures; that needs neither a GPU nor TensorFlow nor Ray."""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import gpu, gpu_replicas
from edgerad.scoring import Outcome, Refused, Scored, ScoreRequest
from serve.app import CALLS_PER_REPLICA


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({1: 100.0}, 1),
        ({1: 10.0, 8: 80.0, 16: 95.0, 32: 100.0}, 16),
        ({1: 10.0, 8: 90.0, 16: 100.0}, 8),  # nine tenths are enough
        ({8: 100.0, 16: 60.0, 32: 50.0}, 8),  # a larger batch may be slower
    ],
)
def test_the_knee_is_the_smallest_batch_near_the_best_rate(rates: dict[int, float], expected: int) -> None:
    assert gpu.knee(rates) == expected


def test_inputs_are_repeated_to_fill_a_batch() -> None:
    inputs = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    assert gpu.filled(inputs, 5).ravel().tolist() == [0, 1, 2, 0, 1]
    assert gpu.filled(inputs, 2).ravel().tolist() == [0, 1]


def test_a_late_race_still_has_one_repeat() -> None:
    inputs = np.zeros((2, 1, 1, 1), np.uint8)
    empty = np.zeros(0, np.float32)
    times: dict[tuple[str, int], list[float]] = {("one", 1): [], ("one", 4): []}
    options = argparse.Namespace(repeats=5, until=time.monotonic() - 1, allow_cpu=True)
    assert gpu.race({"one": lambda _: (empty, empty)}, times, inputs, options) == 1
    assert [len(own) for own in times.values()] == [1, 1]


def test_logits_of_all_inputs_come_in_batches_that_are_ready() -> None:
    sizes = []

    def explain(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sizes.append(len(batch))
        return batch[:, 0, 0, 0].astype(np.float32), np.zeros((len(batch), 5, 5), np.float32)

    inputs = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    assert gpu.logits(explain, inputs, 2).tolist() == [0, 1, 2]
    assert sizes == [2, 2]


class Handle:
    """Scores every image but number 1; counts how many calls are under way at a time."""

    def __init__(self) -> None:
        self.score, self.now, self.most, self._lock = self, 0, 0, threading.Lock()

    def remote(self, mode: str, requests: list[ScoreRequest]) -> SimpleNamespace:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        return SimpleNamespace(result=lambda timeout_s: self._done(requests))

    def _done(self, requests: list[ScoreRequest]) -> list[Outcome]:
        time.sleep(0.01)
        with self._lock:
            self.now -= 1
        scored = Scored("", "pneumonia", 0.5, 0.0, "unknown", "", "", "", "tensorflow", 0.01)
        return [Refused("", "view", "no") if request.key == "1" else scored for request in requests]


def test_a_turn_keeps_the_replicas_full_and_counts_refusals_apart() -> None:
    handle = Handle()
    done = gpu_replicas.turn(handle, "decoding", 2, 0.2, files=4, batch=4)
    assert 1 < handle.most <= 2 * CALLS_PER_REPLICA
    assert done["images_per_second"] > 0
    assert done["refused"] > 0
    assert 0 <= done["cpu_percent"] <= 100


def test_given_jpeg_files_are_what_replicas_score(tmp_path: Path) -> None:
    given, out = tmp_path / "given", tmp_path / "out"
    for name in ("b.JPG", "a.jpeg", "notes.txt", "sub/c.jpg"):
        (given / name).parent.mkdir(parents=True, exist_ok=True)
        (given / name).write_bytes(name.encode())
    out.mkdir()
    assert gpu_replicas.write_files(out, argparse.Namespace(folder=given, files=2)) == [6, 5]
    assert [path.read_bytes() for path in sorted(out.iterdir())] == [b"a.jpeg", b"b.JPG"]


def test_neither_ray_nor_tensorflow_is_imported_before_they_are_needed() -> None:
    program = "import benchmarks.gpu, sys; print({'ray', 'tensorflow', 'keras'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
