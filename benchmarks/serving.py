"""Serving against the bare model and against how others do it: rate, latency, cost by backlog, a spike, a start.

`python -m benchmarks.serving` prints JSON. Who is compared takes turns, all in one run:

- limit: `benchmarks.bare`, on all cores; limit_with_fetch: each image fetched as replicas do; bare: on one thread
- serve: replicas through the Serve handle, in calls as ingest's, fetched from the embedded store: as files, or --http
- pipeline: Kafka record to assessment in the database, by a whole running edge
- fastapi and reference: `benchmarks.peers`
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import images
from deploy.process import free_port
from edgerad.scoring import Scored

PEERS_WITHIN = 180.0
CALLERS = 4
"""Clients of the FastAPI service at a time, as many as calls to Serve."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600, help="images in a turn of limit, serve and pipeline")
    parser.add_argument("--files", type=int, default=104, help="different files among them")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--replicas", type=int, default=1, help="replicas of serve and pipeline")
    parser.add_argument("--fastapi-images", type=int, default=100)
    parser.add_argument("--reference-images", type=int, default=3)
    parser.add_argument("--queues", type=int, nargs="+", default=[1, 10, 100, 1000, 10_000])
    parser.add_argument("--half-load-seconds", type=float, default=30.0)
    parser.add_argument("--spike", type=int, default=2000, help="images of the spike")
    parser.add_argument("--starts", type=int, default=3, help="starts of an extra replica")
    parser.add_argument("--http", action="store_true", help="fetch objects as from another machine, not as files")
    parser.add_argument("--plot", type=Path, help="write the plot of the spike to this SVG file")
    parser.add_argument("--part", choices=["rates", "scaling"], help="(inner use) only this part, in this process")
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part](options)))
        return
    measured = {part: in_a_process(part) for part in PARTS}
    series = measured["scaling"]["spike"].pop("series")
    if options.plot:
        options.plot.write_text(drawing(series), encoding="utf-8")
    report = {"machine": machine(), **measured["rates"], **measured["scaling"]}
    print(json.dumps({**report, "goals": goals(report)}, indent=1))


def in_a_process(part: str) -> dict[str, Any]:
    """Run a part in a process of its own, with this one's options: an edge sets much for its process."""
    command = [sys.executable, "-m", "benchmarks.serving", *sys.argv[1:], "--part", part]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def machine() -> dict[str, Any]:
    """Return where and when this was measured."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": model,
        "load_average_at_the_end": round(os.getloadavg()[0], 1),
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
    }


def rates(options: argparse.Namespace) -> dict[str, Any]:
    """Return rates, costs by backlog and latencies of an edge with a fixed number of replicas."""
    from benchmarks.edge import Edge

    pictures, cores = images.load(options.files), len(os.sched_getaffinity(0))
    load_before = round(os.getloadavg()[0], 1)
    with (
        tempfile.TemporaryDirectory(prefix="edgerad-bench-", ignore_cleanup_errors=True) as name,
        Peers(Path(name), pictures.files) as peers,
        Edge(
            Path(name),
            pictures.files,
            over_http=options.http,
            min_replicas=options.replicas,
            max_replicas=options.replicas,
        ) as edge,
    ):
        edge.run(64)
        edge.score(edge.requests(64))
        turns: dict[str, list[float]] = {}
        single, cpu = [], []
        for _ in range(options.repeats):
            count = options.images
            limit, bare = peers.bare(count, cores), peers.bare(count // 2, 1)
            fetching = peers.bare(count, cores, **edge.store_of_originals())
            single.append(bare["single"])
            turns.setdefault("limit", []).append(count / limit["seconds"])
            turns.setdefault("limit_with_fetch", []).append(count / fetching["seconds"])
            turns.setdefault("bare", []).append((count // 2) / bare["seconds"])
            seconds, outcomes = edge.score(edge.requests(count))
            assert all(isinstance(outcome, Scored) for outcome in outcomes), "a replica refused a benchmark's image"
            turns.setdefault("serve", []).append(count / seconds)
            run = edge.run(count)
            assert run.lost == 0
            cpu.append({name: used / count for name, used in run.cpu.items()})
            turns.setdefault("pipeline", []).append(count / run.seconds)
            turns.setdefault("fastapi", []).append(peers.fastapi(options.fastapi_images))
            turns.setdefault("reference", []).append(peers.reference(options.reference_images))
        speed = {name: round(median(values), 2) for name, values in turns.items()}
        return {
            "images": pictures.described(),
            "parts": edge.parts,
            "replicas": options.replicas,
            "load_average_before": load_before,
            "images_per_second": speed,
            "all_repeats": {name: [round(value, 4) for value in values] for name, values in turns.items()},
            "single_image_ms": round(median(single) * 1000, 2),
            "cpu_ms_per_image": shares(cpu),
            "latency_at_half_load": latency(edge, speed["pipeline"] / 2, options.half_load_seconds),
            "queues": [queue(edge, waiting) for waiting in options.queues],
        }


def shares(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the median CPU milliseconds an image of each process, the largest first, and of all together."""
    names = {name for run in runs for name in run}
    middle = {name: round(median(run.get(name, 0.0) for run in runs) * 1000, 2) for name in names}
    ordered = dict(sorted(middle.items(), key=lambda item: -item[1])[:8])
    return {"all": round(median(sum(run.values()) for run in runs) * 1000, 2), **ordered}


def latency(edge: Any, rate: float, seconds: float) -> dict[str, Any]:
    """Send records at random times (Poisson, fixed seed) and return the times until they are durable."""
    rng = random.Random(7)
    gaps = [rng.expovariate(rate) for _ in range(max(int(rate * seconds), 10))]
    run = edge.run(len(gaps), gaps)
    times: list[float] = run.latencies

    def rank(share: float) -> float:
        return round(times[min(int(share * len(times)), len(times) - 1)] * 1000, 1)

    return {
        "images": len(gaps),
        "images_per_second": round(rate, 1),
        "lost": run.lost,
        "p50_ms": rank(0.5),
        "p90_ms": rank(0.9),
        "p99_ms": rank(0.99),
        "largest_ms": round(times[-1] * 1000, 1),
    }


def queue(edge: Any, waiting: int) -> dict[str, Any]:
    """Send so many records at once, several times if they are few; return what an image costs."""
    runs = [edge.run(waiting) for _ in range(max(1, min(5, 2000 // waiting)))]
    return {
        "queued": waiting,
        "runs": len(runs),
        "lost": sum(run.lost for run in runs),
        "seconds": round(median(run.seconds for run in runs), 3),
        "ms_per_image": round(median(run.seconds for run in runs) / waiting * 1000, 2),
        "cpu_ms_per_image": round(median(run.cpu_seconds for run in runs) / waiting * 1000, 2),
    }


def scaling(options: argparse.Namespace) -> dict[str, Any]:
    """Return a spike and starts of an extra replica, on an edge that may have a second one."""
    from benchmarks.edge import Edge
    from benchmarks.spike import replica_starts, spike

    pictures = images.load(options.files)
    with (
        tempfile.TemporaryDirectory(prefix="edgerad-bench-", ignore_cleanup_errors=True) as name,
        Edge(
            Path(name), pictures.files, over_http=options.http, min_replicas=1, max_replicas=2, downscale_delay=4.0
        ) as edge,
    ):
        edge.run(64)
        return {"replica": replica_starts(edge, options.starts), "spike": spike(edge, options.spike)}


PARTS = {"rates": rates, "scaling": scaling}


class Peers:
    """The processes that are compared with; a context."""

    def __init__(self, folder: Path, files: Sequence[bytes]) -> None:
        """Keep the files, which the reference reads from disk."""
        self._files, self._paths = files, [folder / f"{number}.jpeg" for number in range(len(files))]
        for path, data in zip(self._paths, files, strict=True):
            path.write_bytes(data)
        self._port = free_port()
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Peers:
        """Start them, and have each do its first image."""
        self._bare = self._start("benchmarks.bare", str(len(self._files)))
        self._reference = self._start("benchmarks.peers", "reference")
        self._start("benchmarks.peers", "fastapi", str(self._port))
        try:
            self.bare(8, len(os.sched_getaffinity(0)))
            self.reference(1)
            deadline = time.monotonic() + PEERS_WITHIN
            while True:
                try:
                    self.fastapi(CALLERS)
                    break
                except ConnectionRefusedError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.5)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End them."""
        for process in self._started:
            process.terminate()
        for process in self._started:
            process.wait(20)

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"} if arguments[0] == "benchmarks.bare" else None,
        )
        self._started.append(process)
        return process

    @staticmethod
    def _ask(process: subprocess.Popen[str], order: dict[str, Any]) -> dict[str, float]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        return dict(json.loads(process.stdout.readline()))

    def bare(self, count: int, threads: int, **store: Any) -> dict[str, float]:
        """Return seconds of `count` images, and the median of single ones."""
        return self._ask(self._bare, {"images": count, "threads": threads, **store})

    def reference(self, count: int) -> float:
        """Return the reference pattern's images a second."""
        files = [str(self._paths[index % len(self._paths)]) for index in range(count)]
        seconds = self._ask(self._reference, {"files": files})["seconds"]
        return count / seconds

    def fastapi(self, count: int) -> float:
        """Return the FastAPI service's images a second, asked by CALLERS clients at a time."""

        def client(own: Sequence[bytes]) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            for data in own:
                head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.jpeg"\r\n\r\n'
                body = head + data + b"\r\n--b--\r\n"
                connection.request("POST", "/predict", body, {"Content-Type": "multipart/form-data; boundary=b"})
                answer = json.loads(connection.getresponse().read())
                assert 0 <= answer["probability"] <= 1
            connection.close()

        wanted = [self._files[index % len(self._files)] for index in range(count)]
        started = time.perf_counter()
        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(client, [wanted[index::CALLERS] for index in range(CALLERS)]))
        return count / (time.perf_counter() - started)


def goals(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each goal with its figure and whether it is met."""
    spike, replica = report["spike"], report["replica"]
    half = report["latency_at_half_load"]
    lost = half["lost"] + spike["lost"] + sum(row["lost"] for row in report["queues"])

    def share(one: str, other: str) -> float:
        # Of each turn, then the median: a machine whose speed drifts slows both of a turn.
        turns: dict[str, list[float]] = report["all_repeats"]
        return median(mine / theirs for mine, theirs in zip(turns[one], turns[other], strict=True))

    at_least = {
        "serve / limit": (share("serve", "limit"), 0.9),
        "pipeline / limit": (share("pipeline", "limit"), 0.75),
        "pipeline / reference": (share("pipeline", "reference"), 100),
        "pipeline / fastapi": (share("pipeline", "fastapi"), 3),
    }
    beside = {
        "serve / limit with fetch": share("serve", "limit_with_fetch"),
        "serve / bare, one thread": share("serve", "bare"),
        "pipeline / bare, one thread": share("pipeline", "bare"),
    }
    at_most = {
        "p50 at half load, ms": (half["p50_ms"], 4 * report["single_image_ms"] + 50),
        "spike: first scaling decision, s": (spike["first_scaling_decision_seconds"], 1.5),
        "spike: first assessment, s": (spike["first_assessment_seconds"], 1.5),
        "spike: first extra replica serves, s": (spike["first_extra_replica_seconds"], 6.0),
        "replica's start, s": (replica["start_seconds"], 4.0),
        "replica's memory (RSS), MB": (replica["rss_mb"], 450),
        "images lost": (lost, 0),
    }
    judged: dict[str, dict[str, Any]] = {}
    for name, (value, bound) in at_least.items():
        judged[name] = {"value": round(value, 2), "at_least": bound, "met": value >= bound}
    for name, (figure, bound) in at_most.items():
        judged[name] = {"value": figure, "at_most": round(bound, 1), "met": figure is not None and figure <= bound}
    return judged | {name: {"value": round(value, 2)} for name, value in beside.items()}


def drawing(series: Sequence[dict[str, float]]) -> str:
    """Return the plot of a spike."""
    from benchmarks.plot import Line, svg

    def line(name: str, key: str) -> Line:
        return Line(name, [row[key] for row in series])

    panels = [
        ("images sent and not yet assessed", [line("", "waiting")]),
        ("lag that the policy reads", [line("", "lag")]),
        ("replicas", [line("serving", "replicas"), line("starting", "starting")]),
    ]
    return svg("A spike from idle", [row["at"] for row in series], panels)


if __name__ == "__main__":
    main()
