"""What the tests of the intake share: an empty ledger, and Kafka clients that leave nothing behind."""

from __future__ import annotations

import gc
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from edgerad.database import Database


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Iterator[Database]:
    """An empty ledger of one test."""
    path = shutil.copy(empty_database, tmp_path / "edgerad.db")
    database = Database(f"sqlite:///{path}")
    yield database
    database.close()


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    """Return what is logged. Nothing is printed: a thread that prints while pytest puts back standard output can crash
    the interpreter."""
    with structlog.testing.capture_logs() as found:
        yield found


@pytest.fixture
def collected_sockets() -> Iterator[None]:
    """Have what a test left behind collected while its own filter of warnings holds.

    pytest keeps what is logged for longer, with the exceptions in it, whose frames hold sockets: the client is silent.
    """
    log = logging.getLogger("kafka")
    level = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(level)
    gc.collect()
