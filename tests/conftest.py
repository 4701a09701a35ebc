"""Fixtures that all tests share: real parts (skipped with the reason where they cannot be had, failed in CI), Ray."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import structlog

from deploy.ceph import Ceph
from deploy.kafka import Kafka
from deploy.need import missing
from deploy.orthanc import Orthanc
from deploy.postgres import Postgres

ROOT = Path(__file__).parents[1]
ABSENT: dict[str, str] = {}

# Ray reads these when it is first imported; no test calls anybody, and none leaves a token in the home folder.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_preload_python_modules", "edgerad.ray_worker")
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # a thread that outlives its cluster must not start another one
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "0")


def need(part: str) -> None:
    """Skip with the reason when a part cannot be had on this machine; in CI that is a failure."""
    why = missing(part)
    if why is not None:
        absent(part, why)


def absent(what: str, why: str) -> None:
    """Skip for want of something, or fail in CI."""
    ABSENT[what] = why
    if os.environ.get("CI"):
        pytest.fail(f"{what} must be there in CI: {why}")
    pytest.skip(why)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of several workers one has all that needs real servers, one all that needs Ray or TensorFlow."""
    from xdist.scheduler import LoadScopeScheduling

    @cache
    def group(module: str) -> str:
        code = (ROOT / module).read_text(encoding="utf-8")
        if re.search(r"mark\.real\b|tmp_database_url|kafka_broker", code):
            return "real servers"
        return "Ray or TensorFlow" if re.search(r"mark\.(ray|tf)\b", code) else module

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid.partition("::")[0])

    return Scheduling(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that reports what this worker skipped for want of a part."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["absent"] = ABSENT


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take in what a worker skipped for want of a part."""
    ABSENT.update(getattr(node, "workeroutput", {}).get("absent", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in the last lines what was skipped for want of a part, and how to get it."""
    for what, why in ABSENT.items():
        terminalreporter.write_line(f"not tested: {what}: {why}", yellow=True)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real X-rays and DICOM files beside the repo (EDGERAD_SHARED, else ../shared)."""
    folder = Path(os.environ.get("EDGERAD_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        absent("shared data", "no folder shared/ beside the repo; set EDGERAD_SHARED to it")
    return folder


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests takes part."""
    for name in [name for name in os.environ if name.startswith("EDGERAD_") and name != "EDGERAD_SHARED"]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an SQLite database with its tables and nothing in them, to be copied."""
    from edgerad.database import Database

    path = tmp_path_factory.mktemp("empty") / "edgerad.db"
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    database.close()  # the last connection to close writes the log into the file
    return path


@pytest.fixture(scope="session")
def parts_folder() -> Iterator[Path]:
    """A folder for real parts: short and outside pytest's own, whose parents other users may not enter."""
    with tempfile.TemporaryDirectory(prefix="edgerad-parts-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # PostgreSQL runs as another user when we are root
        yield Path(folder)


@pytest.fixture(scope="session")
def kafka_broker(parts_folder: Path) -> Iterator[Kafka]:
    """A running Apache Kafka; `bootstrap` is its HOST:PORT. Make topics of your own: it is shared."""
    need("kafka")
    with Kafka(parts_folder / "kafka") as broker:
        yield broker


@pytest.fixture(scope="session")
def ceph(parts_folder: Path) -> Iterator[Ceph]:
    """A running Ceph with RADOS gateway; `endpoints()` has `s3`, `access_key`, `secret_key`."""
    need("ceph")
    with Ceph(parts_folder / "ceph") as store:
        yield store


@pytest.fixture(scope="session")
def postgres(parts_folder: Path) -> Iterator[Postgres]:
    """A running PostgreSQL."""
    need("postgres")
    with Postgres(parts_folder / "postgres") as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """The URL of a new, empty PostgreSQL database."""
    return postgres.new_database(f"test_{uuid.uuid4().hex[:12]}")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def tmp_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database: SQLite, then PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'edgerad.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def orthanc(parts_folder: Path) -> Iterator[Orthanc]:
    """An Orthanc that is not started: set its peer, then use it as a context."""
    need("orthanc")
    part = Orthanc(parts_folder / f"orthanc-{uuid.uuid4().hex[:8]}")
    yield part
    part.stop()


@pytest.fixture
def dcmtk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs storescu, dcmsend and echoscu are there, and not pynetdicom's of an environment that is active."""
    own = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != own))
    need("dcmtk")


@pytest.fixture(scope="session")
def tesseract() -> None:
    """An OCR engine that takes no part in de-identification."""
    need("tesseract")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium to drive headless."""
    need("chromium")
    import shutil

    return shutil.which("chromium") or "chromium"


CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
"""Without these Chromium calls out, which a closed network refuses."""


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray cluster for the session, without dashboard."""
    import logging

    import ray

    with tempfile.TemporaryDirectory(prefix="edgerad-ray-", ignore_cleanup_errors=True) as folder:
        for tries_left in (2, 1, 0):
            try:
                ray.init(
                    address="local",
                    num_cpus=8,
                    object_store_memory=200 * 2**20,
                    include_dashboard=False,
                    namespace="edgerad",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=folder,
                    _node_ip_address="127.0.0.1",
                )
                break
            except Exception:
                # Ray gives a busy machine 30 s to start, which no setting changes.
                ray.shutdown()
                if not tries_left:
                    raise
        yield
        ray.shutdown()


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    """Return what is logged. Nothing is printed: a thread that prints while pytest puts back standard output can crash
    the interpreter."""
    with structlog.testing.capture_logs() as found:
        yield found
