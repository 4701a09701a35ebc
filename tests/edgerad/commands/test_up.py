"""`edgerad up` as an administrator runs it: both roles, embedded parts; killed in the middle, it goes on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import func, select

from edgerad import runfile
from edgerad.database import Database
from edgerad.phantom import random_spec, render, to_dicom, to_jpeg
from edgerad.records import Assessment, Image
from edgerad.store import ObjectStore, StoreConfig

PATIENCE = 400.0
"""Seconds: a start takes 15 on an idle machine of two cores."""


def wait_for(what: Callable[[], Any], process: subprocess.Popen[bytes], log: Path) -> Any:
    """Return the first true value, as long as the process lives."""
    deadline = time.monotonic() + PATIENCE
    while not (found := what()):
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
        time.sleep(0.2)
    return found


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Settings by environment: everything embedded, free ports."""
    ports = {f"EDGERAD_{name}__PORT": "0" for name in ("RECEIVER", "GATEWAY", "DASHBOARD")}
    return {**os.environ, **ports, "EDGERAD_DATA_DIR": str(tmp_path / "data")}


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Start `edgerad up --role both`; returns when it runs. Whatever still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def up() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "edgerad.cli", "up", "--role", "both"]
        log = tmp_path / f"up-{len(started)}.log"
        with log.open("wb") as output:
            started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=output))
        wait_for(lambda: (run := runfile.read(tmp_path / "data")) and run.state == "running", started[-1], log)
        return started[-1]

    yield up
    for process in started:
        process.kill()
        process.wait(30)


def edgerad(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run another command with the same settings."""
    command = [sys.executable, "-m", "edgerad.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def answers(address: str) -> bool:
    """Return whether somebody listens there."""
    found = urlsplit(address if "://" in address else f"//{address}")
    with socket.socket() as probe:
        return probe.connect_ex((found.hostname or "", found.port or 0)) == 0


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_what_was_killed_goes_on_and_nothing_is_lost(
    tmp_path: Path, environment: dict[str, str], start: Callable[[], subprocess.Popen[bytes]]
) -> None:
    data_dir = tmp_path / "data"
    first = start()
    run = runfile.read(data_dir)
    assert run is not None
    assert set(run.addresses) == {"s3", "receiver", "gateway", "dashboard"}
    keys = [(data_dir / "keys" / name).read_text(encoding="utf-8") for name in ("s3-access-key", "s3-secret-key")]
    phantom = render(random_spec(1, size=384))
    objects = {"a.dcm": to_dicom(phantom), "b.jpeg": to_jpeg(phantom), "c.dcm": b"no image", "d.dcm": b""}
    store = ObjectStore(StoreConfig(run.addresses["s3"], "xray", keys[0], keys[1]))
    for name, data in objects.items():
        store.put(f"doe^jane/{name}", data)
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    assert runfile.read(data_dir) is None, "what is dead does not run"

    second = start()
    old, run = run, runfile.read(data_dir)
    assert run is not None
    assert run.pid == second.pid
    assert not answers(old.addresses["dashboard"]), "a killed edgerad leaves no dashboard behind"
    addresses = run.addresses.values()
    wait_for(lambda: all(answers(address) for address in addresses), second, tmp_path / "up-1.log")
    database = Database(f"sqlite:///{data_dir / 'edgerad.db'}")

    def ended() -> dict[str, str] | None:
        with database.read() as session:
            states = {image.key.rpartition("/")[2]: image.state for image in session.scalars(select(Image))}
        return states if len(states) == len(objects) and "pending" not in states.values() else None

    states = wait_for(ended, second, tmp_path / "up-1.log")
    assert states == {"a.dcm": "assessed", "b.jpeg": "assessed", "c.dcm": "quarantined", "d.dcm": "quarantined"}
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Assessment)) == 2, "none twice"

    status = edgerad(environment, "status", "--json")
    assert status.returncode == 0, status.stderr
    report = json.loads(status.stdout)
    assert (report["state"], report["pid"]) == ("running", second.pid)
    assert report["images"] == {"assessed": 2, "quarantined": 2}
    again = edgerad(environment, "up")
    assert again.returncode == 1
    assert "already runs" in again.stderr
    down = edgerad(environment, "down", "--timeout", str(PATIENCE))
    assert down.returncode == 0, down.stderr
    assert second.wait(PATIENCE) == 0
    assert not any(answers(address) for address in addresses)
    assert "doe" not in (tmp_path / "up-0.log").read_text() + (tmp_path / "up-1.log").read_text()
    database.close()
