"""An edge to measure: every part that a hospital runs, and an object store whose images are there before their records.

Kafka is the real one of deploy/ where it can be had; else the sweep finds the objects, which then appear in the store
when their records would be sent. The images lie in the store once; each of their many keys is an image of its own.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import sqlite3
import time
import uuid
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from benchmarks import processes
from deploy import process as parts
from deploy.kafka import Kafka
from deploy.need import missing
from edgerad import bus, compose, ids
from edgerad.demo.process import descendants
from edgerad.s3server import S3Server
from edgerad.scoring import Outcome, ScoreRequest
from edgerad.settings import Settings, load_settings
from edgerad.store import ObjectStore, config_from

ACCESS, SECRET = "benchmark", "benchmark-secret"
PREFIX = "benchmark/"
STEP = 0.004
"""Seconds between looks into the database: so much a latency may be too long."""
PATIENCE = 120.0
"""Seconds without any new assessment after which images are given up as lost."""


@dataclass(frozen=True)
class Run:
    """Records sent and what became of them: seconds since 1970 by key, CPU seconds by process name."""

    sent: dict[str, float]
    assessed: dict[str, float]
    cpu: dict[str, float]

    @property
    def lost(self) -> int:
        """How many were not assessed."""
        return len(self.sent) - len(self.assessed)

    @property
    def seconds(self) -> float:
        """From the first record to the last assessment."""
        return max(self.assessed.values()) - min(self.sent.values())

    @property
    def latencies(self) -> list[float]:
        """Seconds from record to assessment."""
        return sorted(self.assessed[key] - at for key, at in self.sent.items() if key in self.assessed)

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of all parts."""
        return sum(self.cpu.values())


class Edge:
    """A running edge, its Kafka and its store; a context."""

    def __init__(self, folder: Path, files: Sequence[bytes], *, over_http: bool = False, **serve: Any) -> None:
        """Keep what to start; `over_http`: objects come as from another machine; `serve`: settings of that section."""
        self._folder, self._files, self._over_http, self._serve = folder, files, over_http, serve
        self._ingest: dict[str, Any] = {"sweep_prefix": PREFIX}
        self._kafka: Kafka | None = None
        self._system: compose.System | None = None
        self._etags: list[tuple[str, str, int]] = []
        self._known: dict[str, int] = {}
        self._row = 0

    def __enter__(self) -> Self:
        """Start everything."""
        self._parent, child = multiprocessing.get_context("spawn").Pipe()
        self._store = multiprocessing.get_context("spawn").Process(target=_store, args=(self._folder / "s3", child))
        self._store.start()
        try:
            self._start(self._parent.recv())
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, endpoint: str) -> None:
        store: dict[str, Any] = {
            "endpoint_url": endpoint,
            "access_key": {"value": ACCESS},
            "secret_key": {"value": SECRET},
        }
        if not self._over_http:
            store["folder"] = str(self._folder / "s3")
        kafka: dict[str, Any] = {}
        if missing("kafka") is None:
            self._kafka = Kafka(self._folder / "kafka").start()
            kafka = {"bootstrap_servers": self._kafka.bootstrap}
        off = {"enabled": False}
        self.settings: Settings = load_settings(
            role="edge", data_dir=self._folder / "data", store=store, kafka=kafka, serve=self._serve,
            receiver=off, gateway=off, dashboard=off, ingest=self._ingest,
            telemetry={"log_level": "ERROR"},
        )  # fmt: skip
        objects = ObjectStore(config_from(self.settings.store))
        objects.ensure_bucket()
        for number, data in enumerate(self._files):
            key = f"original/{number}"
            self._etags.append((key, objects.put(key, data).etag, len(data)))
        self._index = sqlite3.connect(self._folder / "s3" / "index.db", isolation_level=None, timeout=30)
        self._system = compose.start(self.settings)
        self.settings = self._system.settings
        url = self.settings.database_url
        self._database = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, timeout=30)
        if self._kafka:
            self._producer = bus.producer(self.settings.kafka)

    def __exit__(self, *_: object) -> None:
        """Stop everything."""
        if self._system is not None:
            if self._kafka:
                self._producer.close()
            self._database.close()
            logging.getLogger("ray.serve").disabled = True  # its handle complains of the cluster's end
            compose.stop(self._system)
        if self._kafka is not None:
            self._kafka.stop()
        if self._store.is_alive():
            self._parent.send("stop")
        self._store.join(20)
        if self._store.is_alive():
            self._store.kill()

    @property
    def parts(self) -> dict[str, str]:
        """What this edge is made of, for the report."""
        kafka = "Apache Kafka (deploy/)" if self._kafka else f"the sweep; no Kafka: {missing('kafka')}"
        fetched = "over HTTP" if self._over_http else "as files"
        store = f"embedded S3 server, a process of its own, objects read {fetched}"
        return {"source": kafka, "store": store, "database": "SQLite"}

    def processes(self) -> set[int]:
        """Return the processes of the edge; not this one, which drives and looks."""
        found = set(descendants(os.getpid())) - {os.getpid()}
        if self._kafka is not None and (broker := parts.pid_of(self._kafka.folder, "kafka")):
            found.add(broker)
        return found

    def put(self, count: int) -> list[str]:
        """Return keys of `count` objects that no record has announced; with the sweep, they announce themselves."""
        batch = uuid.uuid4().hex[:8]
        keys = [f"{PREFIX}{batch}/{number:06d}.jpeg" for number in range(count)]
        rows = []
        for number, key in enumerate(keys):
            origin = self._etags[number % len(self._etags)]
            self._known[key] = number % len(self._etags)
            rows.append((key, time.time(), origin[0]))
        self._index.execute("BEGIN IMMEDIATE")
        self._index.executemany(
            "INSERT INTO object SELECT bucket, ?, file, etag, size, ?, headers FROM object"
            " WHERE bucket = 'xray' AND key = ?",
            rows,
        )
        self._index.execute("COMMIT")
        return keys

    def store_of_originals(self) -> dict[str, Any]:
        """Return how a bare process reaches the originals: the store's configuration, keys and ETags."""
        config = config_from(self.settings.store)
        names = ("endpoint_url", "bucket", "access_key", "secret_key")
        return {
            "store": {name: getattr(config, name) for name in names} | {"folder": config.folder and str(config.folder)},
            "keys": [(key, etag) for key, etag, _ in self._etags],
        }

    def requests(self, count: int) -> list[ScoreRequest]:
        """Return requests for the originals, as the ingest loop would send them."""
        chosen = [self._etags[number % len(self._etags)] for number in range(count)]
        return [ScoreRequest(uuid.uuid4().hex, "xray", key, None, etag) for key, etag, _ in chosen]

    def send(self, keys: Sequence[str], gaps: Sequence[float] = ()) -> dict[str, float]:
        """Announce objects, at once or with a pause after each; return when each was sent, seconds since 1970."""
        sent, due = {}, time.time()
        for number, key in enumerate(keys):
            if gaps:
                time.sleep(max(due - time.time(), 0))
                due += gaps[number]
            _, etag, size = self._etags[self._known[key]]
            record = {
                "eventSource": "aws:s3",
                "eventName": "ObjectCreated:Put",
                "s3": {"bucket": {"name": "xray"}, "object": {"key": key, "size": size, "eTag": etag}},
            }
            value, group = json.dumps({"Records": [record]}).encode(), ids.study_key(key).encode()
            sent[key] = time.time()
            self._producer.send(self.settings.kafka.topic_uploaded, value, key=group)
        self._producer.flush()
        return sent

    def run(self, count: int, gaps: Sequence[float] = ()) -> Run:
        """Have `count` images assessed."""
        before = processes.cpu_seconds(self.processes())
        if self._kafka:
            keys = self.put(count)
            with ThreadPoolExecutor(1) as pool:
                sending = pool.submit(self.send, keys, gaps)
                seen = self.wait(keys)
                sent = sending.result()
        else:
            sent = self._appear(count, gaps)
            seen = self.wait(sent)
        after = processes.cpu_seconds(self.processes())
        cpu: dict[str, float] = {}
        for process, used in after.items():
            name = "store" if process == self._store.pid else processes.label(process)
            cpu[name] = cpu.get(name, 0.0) + used - before.get(process, 0.0)
        return Run(sent, seen, cpu)

    def _appear(self, count: int, gaps: Sequence[float]) -> dict[str, float]:
        if not gaps:
            at = time.time()
            return dict.fromkeys(self.put(count), at)
        sent = {}
        for gap in gaps[:count]:
            sent[self.put(1)[0]] = time.time()
            time.sleep(gap)
        return sent

    def wait(self, awaited: Collection[str]) -> dict[str, float]:
        """Return when each of the keys was seen to be assessed; gives up after PATIENCE without any."""
        keys = set(awaited)
        seen: dict[str, float] = {}
        last = time.monotonic()
        query = (
            "SELECT a.rowid, i.key FROM assessment a JOIN image i ON i.image_id = a.image_id"
            " WHERE a.rowid > ? ORDER BY a.rowid"
        )
        while len(seen) < len(keys) and time.monotonic() - last < PATIENCE:
            rows = self._database.execute(query, (self._row,)).fetchall()
            at = time.time()
            for row, key in rows:
                self._row = row
                if key in keys:
                    seen[key] = at
            if rows:
                last = time.monotonic()
            time.sleep(STEP)
        return seen

    def score(self, requests: Sequence[ScoreRequest]) -> tuple[float, list[Outcome]]:
        """Score by the Serve handle, calls as large and as many under way as ingest's; return seconds and outcomes."""
        from ray import serve

        batch, calls = self.settings.ingest.batch_size, self.settings.ingest.calls_in_flight
        handle = serve.get_deployment_handle("Scorer", "edgerad")
        groups = [list(requests[at : at + batch]) for at in range(0, len(requests), batch)]

        def call(group: list[ScoreRequest]) -> list[Outcome]:
            outcomes: list[Outcome] = handle.score.remote(group).result()
            return outcomes

        started = time.perf_counter()
        with ThreadPoolExecutor(calls) as pool:
            outcomes = [outcome for group in pool.map(call, groups) for outcome in group]
        return time.perf_counter() - started, outcomes


def _store(folder: Path, pipe: Connection) -> None:
    """Run the embedded S3 server until told to stop."""
    with S3Server(folder, ACCESS, SECRET) as server:
        pipe.send(server.endpoint_url)
        try:
            pipe.recv()
        except EOFError:
            return
