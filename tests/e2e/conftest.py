"""What the end-to-end tests share: a running edgerad as its own process, over real parts, and looks at its database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from deploy.ceph import Ceph
from deploy.kafka import Kafka
from edgerad import runfile
from edgerad.database import Database
from edgerad.records import Image, Record

STARTS_WITHIN, ENDS_WITHIN = 180.0, 60.0


@dataclass
class Running:
    """An `edgerad up` of its own process."""

    process: subprocess.Popen[bytes]
    database: Database
    addresses: dict[str, str]
    data_dir: Path
    log: Path

    def rows(self, table: type[Record]) -> list[Any]:
        """Return all rows of a table."""
        with self.database.read() as session:
            return list(session.scalars(select(table)))

    def wait(self, done: Callable[[], bool], what: str, timeout: float = 120.0) -> None:
        """Wait until done; fails with the end of the log."""
        deadline = time.monotonic() + timeout
        while not done():
            assert self.process.poll() is None, f"edgerad ended: {self.tail()}"
            assert time.monotonic() < deadline, f"{what}: not within {timeout:.0f} s; {self.states()}; {self.tail()}"
            time.sleep(0.2)

    def states(self) -> dict[str, int]:
        """Return how many images are in which state."""
        found: dict[str, int] = {}
        for image in self.rows(Image):
            found[image.state] = found.get(image.state, 0) + 1
        return found

    def tail(self) -> str:
        """Return the end of the log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:]

    @property
    def token(self) -> str:
        """The gateway's token."""
        return (self.data_dir / "keys" / "gateway-token").read_text(encoding="utf-8")


Start = Callable[..., Running]


@pytest.fixture
def edgerad_up(tmp_path: Path) -> Iterator[Start]:
    """Start an edgerad with these EDGERAD_… variables; it is ended at the end of the test."""
    started: list[Running] = []

    def start(role: str, database_url: str, **variables: str) -> Running:
        data_dir = tmp_path / f"data-{len(started)}"
        environment = {
            **os.environ,
            "EDGERAD_DATA_DIR": str(data_dir),
            "EDGERAD_DATABASE__URL__VALUE": database_url,
            "EDGERAD_GATEWAY__PORT": "0",
            "EDGERAD_RECEIVER__PORT": "0",
            "EDGERAD_DASHBOARD__PORT": "0",
            **{f"EDGERAD_{name}": value for name, value in variables.items()},
        }
        log = tmp_path / f"edgerad-{len(started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "edgerad.cli", "up", "--role", role],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        running = Running(process, Database(database_url), {}, data_dir, log)
        started.append(running)
        deadline = time.monotonic() + STARTS_WITHIN
        while (found := runfile.read(data_dir)) is None or found.state != "running":
            assert process.poll() is None, f"edgerad did not start: {running.tail()}"
            assert time.monotonic() < deadline, f"edgerad did not start in time: {running.tail()}"
            time.sleep(0.2)
        running.addresses.update(found.addresses)
        return running

    yield start
    for running in reversed(started):
        running.process.send_signal(signal.SIGTERM)
        try:
            running.process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            running.process.kill()
            pytest.fail(f"edgerad did not end on SIGTERM: {running.tail()}")
        finally:
            running.database.close()


def store_variables(ceph: Ceph, bucket: str) -> dict[str, str]:
    """Return the variables (without EDGERAD_) that put Ceph in the place of the embedded store, edge and core."""
    endpoints = ceph.endpoints()
    variables: dict[str, str] = {}
    for section, name in (("", bucket), ("CORE__", f"{bucket}-core")):
        variables |= {
            f"{section}STORE__ENDPOINT_URL": endpoints["s3"],
            f"{section}STORE__ACCESS_KEY__VALUE": endpoints["access_key"],
            f"{section}STORE__SECRET_KEY__VALUE": endpoints["secret_key"],
            f"{section}STORE__BUCKET": name,
        }
    return variables


def kafka_variables(broker: Kafka, name: str) -> dict[str, str]:
    """Return the variables that make Kafka the event source, with topics and a group of their own."""
    return {
        "KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
        "KAFKA__GROUP": name,
        "KAFKA__TOPIC_UPLOADED": f"{name}.uploaded",
        "KAFKA__TOPIC_ASSESSED": f"{name}.assessed",
        "KAFKA__TOPIC_DEADLETTER": f"{name}.deadletter",
    }
