"""An edge in surroundings that are hostile all at once: dead proxies, a long TMPDIR, no home, umask 0, not root."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from edgerad import private, runfile
from edgerad.database import Database
from edgerad.demo.process import descendants
from edgerad.phantom import random_spec, render, to_dicom
from edgerad.records import Assessment, ComponentStatus, Image, Rollout
from edgerad.store import ObjectStore, StoreConfig
from serve.shelf import bundled_digest
from tests.conftest import absent

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
PATIENCE = 300.0
SOMEBODY = "12345"
"""A user id that no account has: no name, no home."""
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
"""127.0.0.1, ::1 and ::ffff:127.0.0.1 as /proc/net/tcp and tcp6 write them, on a little-endian machine."""
LISTEN = "0A"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
LOST = "b" * 64


def another_user() -> list[str]:
    """Return what puts a command under a user that is not root, and that can read the interpreter wherever it lies."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        absent("another user", "root without setpriv (util-linux) cannot start a process of another user")
    capability = "+dac_read_search"  # to read what root alone may read; it lets nothing be written
    return ["setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups",
            f"--inh-caps={capability}", f"--ambient-caps={capability}"]  # fmt: skip


@dataclass
class Edge:
    """A running edge and where it keeps things."""

    process: subprocess.Popen[bytes]
    data: Path
    log: Path
    command: list[str]
    environment: dict[str, str]

    def wait(self, what: Callable[[], Any]) -> Any:
        """Return the first true value, as long as the process lives."""
        deadline = time.monotonic() + PATIENCE
        while not (found := what()):
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, self.log.read_text(encoding="utf-8")
            time.sleep(0.2)
        return found

    def rows(self, table: type[Any]) -> list[Any]:
        """Return all rows of a table."""
        database = Database(f"sqlite:///{self.data / 'edgerad.db'}")
        with database.read() as session:
            found = list(session.scalars(select(table)))
        database.close()
        return found

    def put(self, key: str, data: bytes) -> None:
        """Write an object into the embedded store."""
        run = runfile.read(self.data)
        assert run is not None
        keys = [(self.data / "keys" / name).read_text() for name in ("s3-access-key", "s3-secret-key")]
        ObjectStore(StoreConfig(run.addresses["s3"], "xray", keys[0], keys[1])).put(key, data)

    def assessed(self) -> int:
        """Return how many images are assessed."""
        return sum(image.state == "assessed" for image in self.rows(Image))

    def processes(self) -> list[int]:
        """Return the process ids of the edge."""
        return descendants(self.process.pid)

    def restarted(self, name: str, pid: int) -> bool:
        """Return whether an actor runs in another process than that one."""
        return self.actor(name) not in {None, pid}

    def actor(self, name: str) -> int | None:
        """Return the process id of a Ray actor by the beginning of its title, as Ray sets it."""
        for pid in self.processes():
            if command_of(pid).startswith(f"ray::{name}"):
                return pid
        return None


def command_of(pid: int) -> str:
    """Return a process's command line; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def surroundings(base: Path) -> dict[str, str]:
    """Return an environment in which much is wrong."""
    (base / "closed").mkdir(mode=0o500)
    # Nobody listens on a port that was just free.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{free.getsockname()[1]}"
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    for name in ("RAY_AUTH_MODE", "KERAS_HOME", "LANG", "USER", "LOGNAME", "HOME"):
        kept.pop(name, None)
    long = base / ("long-" * 20)
    long.mkdir()
    return {
        **kept,
        **dict.fromkeys(PROXIES, proxy),
        **{f"EDGERAD_{name}__PORT": "0" for name in ("RECEIVER", "GATEWAY", "DASHBOARD")},
        "no_proxy": ".hospital.example",
        "EDGERAD_DATA_DIR": str(base / "data"),
        "TMPDIR": str(long),
        "LC_ALL": "C",
        # Where the user has an account, its home cannot be written to; else it has none at all.
        **({"HOME": str(base / "closed")} if os.geteuid() else {}),
        "EDGERAD_CORE__POLL_INTERVAL": "1",
    }


def served_before(data: Path, digest: str) -> None:
    """Leave a data folder as an older version did: open to all, and with a model in service that is not there."""
    data.mkdir()
    for name in ("keys", "run", "s3", "models"):
        (data / name).mkdir()
    database = Database(f"sqlite:///{data / 'edgerad.db'}")
    database.upgrade()
    with database.write() as session:
        session.add(Rollout(edge_id="edge", finding="pneumonia", model_digest=digest, state="serving"))
    database.close()
    for path in [data, *data.iterdir()]:
        path.chmod(0o777 if path.is_dir() else 0o666)


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    """An edge that runs in these surroundings."""
    with tempfile.TemporaryDirectory(prefix="edgerad-around-", ignore_cleanup_errors=True) as name:
        base = Path(name)
        base.chmod(0o755)
        served_before(base / "data", LOST)
        environment = surroundings(base)
        user = another_user()
        if user:
            for path in [base, *base.rglob("*")]:
                os.chown(path, int(SOMEBODY), int(SOMEBODY))
        command = [*user, sys.executable, "-m", "edgerad.cli"]
        log = base / "up.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "up", "--role", "edge"],
                cwd=base, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, umask=0,
            )  # fmt: skip
        running = Edge(process, base / "data", log, command, environment)
        try:
            running.wait(lambda: (run := runfile.read(running.data)) and run.state == "running")
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                process.kill()


def test_an_image_is_scored_by_the_fallback_and_status_tells_why(edge: Edge) -> None:
    edge.put("a.dcm", to_dicom(render(random_spec(1, positive=True, size=384))))
    edge.wait(lambda: edge.assessed() == 1)
    shipped = bundled_digest("pneumonia")
    assert [row.model_digest for row in edge.rows(Assessment)] == [shipped]
    status = subprocess.run(
        [*edge.command, "status", "--json"], env=edge.environment, capture_output=True, text=True, check=True
    )
    report = json.loads(status.stdout)
    rollout = report["components"]["rollout"]
    assert (report["model"], rollout["model"], rollout["fallback"]) == (shipped, shipped, True)
    assert LOST[:12] in rollout["trouble"]
    assert [(row.model_digest, row.state) for row in edge.rows(Rollout)] == [(LOST, "serving"), (shipped, "fallback")]
    said = [json.loads(line) for line in edge.log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    assert [line["model_digest"] for line in said if line["level"] == "error"] == [shipped], "its log tells, too"


def test_nothing_of_the_edge_listens_beyond_loopback(edge: Edge) -> None:
    edge.wait(lambda: edge.actor("ServeReplica"))
    owners: dict[str, int] = {}
    for pid in edge.processes():
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = descriptor.readlink().name
            except OSError:
                continue
            if target.startswith("socket:["):
                owners[target[len("socket:[") : -1]] = pid
    listeners = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="utf-8").splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN and fields[9] in owners:
                listeners.append((fields[1].partition(":")[0], command_of(owners[fields[9]]).split("\0")[0]))
    assert len(listeners) > 12, "the receiver, the gateway, the dashboard, the store, and Ray's own"
    assert [name for name in ("raylet", "gcs_server", "ray::ServeReplica") if name not in str(listeners)] == []
    assert [found for found in listeners if found[0] not in LOOPBACK] == []


def test_the_dashboard_answers(edge: Edge) -> None:
    run = runfile.read(edge.data)
    assert run is not None
    with httpx.Client(trust_env=False) as client:
        edge.wait(lambda: _answers(client, run.addresses["dashboard"] + "/_stcore/health"))


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == HTTPStatus.OK
    except httpx.HTTPError:
        return False


def test_only_the_user_of_the_edge_can_read_what_it_keeps(edge: Edge) -> None:
    user = edge.data.stat().st_uid
    names = {path.name for path in edge.data.iterdir()}
    assert names >= {"edgerad.db", "edgerad.db-wal", "edgerad.db-shm", "keys", "run", "s3"}
    kept = [path for path in edge.data.iterdir() if path.name in private.KEPT or path.name.startswith("edgerad.db")]
    assert [path.name for path in kept if path.stat().st_mode & 0o077 or path.stat().st_uid != user] == []
    folders = {
        Path(word.partition("=")[2])
        for pid in edge.processes()
        for word in command_of(pid).split("\0")
        if word.startswith("--temp-dir=")
    }
    assert len(folders) == 1, "Ray keeps all in one folder"
    (folder,) = folders
    assert (folder / "session_latest" / "logs").is_dir()
    parent = folder.parent.stat()
    assert (parent.st_mode & 0o777, parent.st_uid) == (0o700, user)
    temporary = list(Path(edge.environment["TMPDIR"]).iterdir())
    assert [path.name for path in temporary if path.stat().st_mode & 0o077 or path.stat().st_uid != user] == []
    umasks = {
        line.split()[1]
        for pid in edge.processes()
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        if line.startswith("Umask")
    }
    assert umasks == {"0077"}


def test_what_is_killed_starts_again_and_scores(edge: Edge) -> None:
    for name in ("ServeReplica", "IngestActor", "RolloutActor"):
        pid = edge.wait(partial(edge.actor, name))
        os.kill(pid, signal.SIGKILL)
        edge.wait(partial(edge.restarted, name, pid))
    done = edge.assessed()
    edge.put("b.dcm", to_dicom(render(random_spec(2, size=384))))
    edge.wait(lambda: edge.assessed() == done + 1)
    seen = edge.wait(lambda: [row for row in edge.rows(ComponentStatus) if row.component == "rollout"])
    assert seen[0].data["trouble"] is not None, "it is still a fallback"
    assert {row.state for row in edge.rows(Image)} == {"assessed"}


def test_down_ends_it_in_order(edge: Edge) -> None:
    pids = edge.processes()
    down = subprocess.run(
        [*edge.command, "down", "--timeout", "90"], env=edge.environment, capture_output=True, text=True, check=False
    )
    assert down.returncode == 0, down.stderr
    assert edge.process.wait(60) == 0
    deadline = time.monotonic() + 60
    while alive := [pid for pid in pids if command_of(pid)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.2)
