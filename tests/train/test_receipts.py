"""Old receipts go when their edge has surely read them, on a real S3 server; an edge that was off finds its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edgerad.database import Database
from edgerad.parcels import RECEIPTS, receipt_key
from edgerad.records import CoreCase, now
from edgerad.s3server import S3Server
from edgerad.sections import CoreSettings
from edgerad.settings import load_settings
from edgerad.store import ObjectStore, StoreConfig
from tests.train.conftest import EDGE_NAME
from train import intake, receipts
from train.core import Core

LATER = timedelta(days=91)
KEEP = CoreSettings().keep_receipts


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStore]:
    """An embedded S3 server's, in place of the one in memory."""
    with S3Server(tmp_path / "s3", "ak", "sk") as server:
        store = ObjectStore(StoreConfig(server.endpoint_url, "core", "ak", "sk", max_attempts=1))
        store.ensure_bucket()
        yield store


def answered(store: ObjectStore) -> list[str]:
    return [item.key for item in store.list(RECEIPTS)]


def heard_from_it(database: Database, after: timedelta) -> None:
    """Let the edge's case have come so much later."""
    with database.write() as session:
        session.query(CoreCase).one().received_at = now() + after


@pytest.fixture
def parcel(store: ObjectStore, database: Database, desk: intake.Desk, make_parcel: Callable[..., Any]) -> Any:
    """A parcel that was taken in and answered."""
    made = make_parcel()
    made.send(store)
    assert intake.take_in(store, database, desk).accepted == 1
    return made


def test_a_receipt_goes_after_90_days_when_its_edge_has_sent_something_since(
    store: ObjectStore, database: Database, parcel: Any
) -> None:
    key = receipt_key(EDGE_NAME, parcel.parcel_id)
    heard_from_it(database, timedelta(days=2))
    assert receipts.forget(store, database, now() + timedelta(days=89), KEEP) == 0
    assert answered(store) == [key]
    assert receipts.forget(store, database, now() + LATER, KEEP) == 1
    assert answered(store) == []
    assert receipts.forget(store, database, now() + LATER, KEEP) == 0


def test_how_long_receipts_are_kept_is_a_setting(
    store: ObjectStore, database: Database, parcel: Any, tmp_path: Path
) -> None:
    heard_from_it(database, timedelta(days=2))
    assert Core(load_settings(data_dir=tmp_path), database, store).forget_receipts() == 0
    settings = load_settings(data_dir=tmp_path, core={"keep_receipts": 0})
    assert Core(settings, database, store).forget_receipts() == 1


def test_the_receipts_of_an_edge_that_is_off_stay_however_old_they_are(
    store: ObjectStore, database: Database, parcel: Any
) -> None:
    assert receipts.forget(store, database, now() + timedelta(days=4000), KEEP) == 0
    assert len(answered(store)) == 1


def test_receipts_of_an_edge_that_never_had_a_case_stay(store: ObjectStore, database: Database, parcel: Any) -> None:
    heard_from_it(database, timedelta(days=2))
    store.put(receipt_key("south", "0" * 32), b"{}")
    assert receipts.forget(store, database, now() + LATER, KEEP) == 1
    assert answered(store) == [receipt_key("south", "0" * 32)]


def test_many_go_a_part_at_a_time(
    store: ObjectStore, database: Database, parcel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard_from_it(database, timedelta(days=2))
    store.put(receipt_key(EDGE_NAME, "0" * 32), b"{}")
    monkeypatch.setattr(receipts, "AT_ONCE", 1)
    assert [receipts.forget(store, database, now() + LATER, KEEP) for _ in range(3)] == [1, 1, 0]


def test_a_parcel_that_is_sent_again_because_its_receipt_is_gone_makes_no_second_case(
    store: ObjectStore, database: Database, desk: intake.Desk, parcel: Any
) -> None:
    heard_from_it(database, timedelta(days=2))
    receipts.forget(store, database, now() + LATER, KEEP)
    parcel.send(store)
    assert intake.take_in(store, database, desk).repeated == 1
    assert answered(store) == [receipt_key(EDGE_NAME, parcel.parcel_id)]
    with database.read() as session:
        assert session.query(CoreCase).count() == 1
