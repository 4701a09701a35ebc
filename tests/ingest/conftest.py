"""What the tests of the intake share: an empty ledger, and Kafka clients that leave nothing behind."""

from __future__ import annotations

import gc
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgerad.database import Database
from edgerad.s3server import S3Server
from edgerad.store import ObjectStore, StoreConfig


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Iterator[Database]:
    """An empty ledger of one test."""
    path = shutil.copy(empty_database, tmp_path / "edgerad.db")
    database = Database(f"sqlite:///{path}")
    yield database
    database.close()


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


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A bucket of an embedded store."""
    with S3Server(tmp_path_factory.mktemp("s3"), "ak", "sk") as server:
        store = ObjectStore(StoreConfig(server.endpoint_url, "xray", "ak", "sk", max_attempts=1))
        store.ensure_bucket()
        yield store


@pytest.fixture
def store(bucket: ObjectStore) -> ObjectStore:
    """The bucket, empty."""
    for item in list(bucket.list()):
        bucket.delete(item.key)
    return bucket
