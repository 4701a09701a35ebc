"""Serve replicas that share one GPU, for `benchmarks.gpu`: what serves, with files in memory for the object store.

All sets of replicas are up at once and take turns; an idle one takes nothing but GPU memory. A call is a batch through
the handle; as many are under way as the replicas take.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks import images
from edgerad.scoring import Outcome, Scored, ScoreRequest
from serve.app import CALLS_PER_REPLICA
from serve.replica import Replica
from serve.runtimes import RuntimeOptions
from serve.score import Prepared, Scorer, open_scorer

SMI = ("nvidia-smi", "--format=csv,noheader,nounits")


class Ready(Scorer):
    """A scorer whose images are prepared already: an item is the number of one."""

    ready: Sequence[Prepared]

    def prepare(self, item: bytes) -> Prepared:
        """Return the prepared image."""
        return self.ready[int(item) % len(self.ready)]


class GpuReplica:
    """What Serve runs: the replica that serves, with files in its memory in place of an object store."""

    def __init__(self, folder: Path, threads: int, batch: int) -> None:
        """Open the model on TensorFlow, and prepare every file once."""
        import cv2

        cv2.setNumThreads(1)
        files = [path.read_bytes() for path in sorted(folder.iterdir())]
        options = RuntimeOptions(parallel=threads, warm_batches=(1, batch))
        scorer = open_scorer(runtime="tensorflow", options=options)
        ready = Ready(scorer.bundle, scorer.runtime)
        prepared = [scorer.prepare(data) for data in files]
        ready.ready = [item for item in prepared if isinstance(item, Prepared)]
        self._replicas = {
            "decoding": Replica(lambda request: files[int(request.key)], threads),
            "prepared": Replica(lambda request: request.key.encode(), threads),
        }
        self._replicas["decoding"].swap(scorer)
        self._replicas["prepared"].swap(ready)
        self._calls = ThreadPoolExecutor(CALLS_PER_REPLICA)

    async def score(self, mode: str, requests: list[ScoreRequest]) -> list[Outcome]:
        """Score a batch as `serve.app` does."""
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(self._calls, self._replicas[mode].score, requests)


def serve_part(options: argparse.Namespace) -> dict[str, Any]:
    """Return the rates of sets of replicas: all are up at once, and an idle one takes only GPU memory."""
    import ray
    from ray import serve

    cores, whole, there = len(os.sched_getaffinity(0)), sum(options.replicas), gpus()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgerad-gpu-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        sizes = write_files(folder, options)
        drawn = time.monotonic()
        ray.init(num_cpus=max(cores, 2), num_gpus=1 if there else 0, include_dashboard=False, log_to_driver=False)
        try:
            serve.start(proxy_location="Disabled")
            shares = {"num_cpus": 0.01, "num_gpus": int(1000 / whole) / 1000 if there else 0}
            targets = []
            for count in options.replicas:
                deployment = serve.deployment(GpuReplica, name="Scorer", num_replicas=count, ray_actor_options=shares)
                deployment = deployment.options(max_ongoing_requests=CALLS_PER_REPLICA)
                bound = deployment.bind(folder, max(cores // count, 1), options.batch)
                targets.append(serve.RunTarget(bound, name=f"replicas{count}", route_prefix=None))
            handles = dict(zip(options.replicas, serve.run_many(targets), strict=True))
            up = time.monotonic() - drawn
            sets = turns(handles, len(sizes), options)
        finally:
            serve.shutdown()
            ray.shutdown()
    return {
        "files": {"count": len(sizes), "mean_kilobytes": round(mean(sizes) / 1000)},
        "batch": options.batch,
        "seconds_to_write_files": round(drawn - started, 1),
        "seconds_until_up": round(up, 1),
        **sets,
    }


def write_files(folder: Path, options: argparse.Namespace) -> list[int]:
    """Write the JPEG files that replicas score into a folder; return their sizes."""
    if options.folder:
        found = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg"})
        files = [path.read_bytes() for path in found[: options.files]]
    else:
        files = images.load(options.files).files
    for number, data in enumerate(files):
        (folder / f"{number:05d}.jpeg").write_bytes(data)
    return [len(data) for data in files]


def turns(handles: Mapping[int, Any], files: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return what each set of replicas did in each way, in turns of some seconds; the first repeat warms up."""
    told: dict[tuple[int, str], list[dict[str, float]]] = {}
    longest, repeat = 0.0, 0
    for repeat in range(options.repeats + 1):
        begun = time.monotonic()
        if repeat > 1 and begun + longest > options.until:
            break
        for count, handle in handles.items():
            for mode in ("prepared", "decoding"):
                done = turn(handle, mode, count, options.turn if repeat else options.turn / 2, files, options.batch)
                told.setdefault((count, mode), []).append(done)
        longest = time.monotonic() - begun
    rows = [
        {
            "replicas": count,
            "inputs": mode,
            **{key: round(median(row[key] for row in rows[1:] if key in row), 1) for key in rows[-1]},
            "all_repeats": [round(row["images_per_second"], 1) for row in rows[1:]],
        }
        for (count, mode), rows in told.items()
    ]
    return {"sets": rows}


def turn(handle: Any, mode: str, replicas: int, seconds: float, files: int, batch: int) -> dict[str, float]:
    """Call for some seconds, as many calls at a time as the replicas take; return the rate and how busy all was."""
    until = time.monotonic() + seconds

    def caller(first: int) -> tuple[int, int]:
        scored = refused = 0
        requests = [ScoreRequest(str(at), "", str((first + at) % files)) for at in range(batch)]
        while time.monotonic() < until:
            outcomes = handle.score.remote(mode, requests).result(timeout_s=120)
            good = sum(isinstance(outcome, Scored) for outcome in outcomes)
            scored, refused = scored + good, refused + len(outcomes) - good
        return scored, refused

    callers = CALLS_PER_REPLICA * replicas
    with Busy() as busy, ThreadPoolExecutor(callers) as pool:
        started = time.monotonic()
        counts = list(pool.map(caller, range(0, callers * batch, batch)))
        took = time.monotonic() - started
    scored, refused = (sum(own) for own in zip(*counts, strict=True))
    return {"images_per_second": scored / took, "refused": refused, **busy.shares}


class Busy:
    """How busy CPUs and GPU were, in percent; a context."""

    shares: Mapping[str, float] = {}

    def __enter__(self) -> Busy:
        """Begin to look."""
        command = ["stdbuf", "-oL", *SMI, "--query-gpu=utilization.gpu,memory.used", "--loop-ms=200"]
        self._smi = subprocess.Popen(command, stdout=subprocess.PIPE, text=True) if gpus() else None
        self._before = cpu_times()
        return self

    def __exit__(self, *_: object) -> None:
        """End, and compute."""
        all_before, idle_before = self._before
        everything, idle = cpu_times()
        shares = {"cpu_percent": 100 * (1 - (idle - idle_before) / max(everything - all_before, 1))}
        if self._smi:
            self._smi.terminate()
            rows = [line.split(",") for line in self._smi.communicate()[0].splitlines() if line.count(",") == 1]
            if rows:
                shares["gpu_percent"] = mean(float(row[0]) for row in rows)
                shares["gpu_memory_mb"] = max(float(row[1]) for row in rows)
        self.shares = shares


def cpu_times() -> tuple[int, int]:
    """Return the CPUs' times since the start and the idle ones among them, in ticks."""
    ticks = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]


def gpus() -> list[str]:
    """Return the GPUs by nvidia-smi, with memory and driver; none where there is no nvidia-smi."""
    quiet: dict[str, Any] = {"capture_output": True, "text": True}
    try:
        done = subprocess.run([*SMI, "--query-gpu=name,memory.total,driver_version"], check=False, **quiet)
    except FileNotFoundError:
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []
