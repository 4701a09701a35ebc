"""Intake: whatever fails between two steps, nothing is lost, doubled or told otherwise in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from edgerad import envelope
from edgerad.audit import verify
from edgerad.database import Database
from edgerad.parcels import RECEIPT, Receipt, receipt_key, waybill_key
from edgerad.store import StoreUnavailable
from tests.train.conftest import CORE, add_private, audits, cases, public
from train import intake


def end_state(store: Any, database: Database) -> tuple[Any, ...]:
    rows = [(case.case_id, case.object_key, case.object_digest, case.split) for case in cases(database)]
    receipts = {}
    for item in store.list("receipts/"):
        receipt = Receipt.model_validate_json(envelope.verified(RECEIPT, store.get(item.key), [public(CORE)]))
        receipts[item.key] = (receipt.accepted, receipt.reason)
    return rows, sorted(item.key for item in store.list()), receipts, audits(database)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("bad", [False, True], ids=["accepted", "refused"])
def test_a_crash_between_any_two_steps_changes_nothing_in_the_end(
    store: Any, tmp_path: Any, desk: intake.Desk, make_parcel: Callable[..., Any], after: bool, bad: bool
) -> None:
    parcel = make_parcel()
    if bad:
        parcel = parcel.edited(add_private)
    expected = None
    for step in range(100):
        store.objects.clear()
        database = Database(f"sqlite:///{tmp_path / f'{after}-{bad}-{step}.db'}")
        database.upgrade()
        parcel.send(store)
        store.fail(None if step == 0 else step - 1, after)
        failed = False
        try:
            intake.take_in(store, database, desk)
        except StoreUnavailable:
            failed = True
        writes = store.writes
        store.fail(None)
        intake.take_in(store, database, desk)
        found = end_state(store, database)
        assert verify(database)[1] is None
        database.close()
        expected = expected or found
        assert found == expected
        reason = "private-attribute" if bad else "received"
        assert expected[2] == {receipt_key(parcel.edge_id, parcel.parcel_id): (not bad, reason)}
        if step and not failed:
            assert step > 3, "no write was made to fail"
            assert writes >= 3
            return
    pytest.fail("the writes never ended")


def test_a_database_that_fails_loses_nothing(
    store: Any, database: Database, desk: intake.Desk, make_parcel: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    parcel = make_parcel()
    parcel.send(store)

    def locked(*_: object) -> None:
        raise OperationalError("insert", {}, Exception("database is locked"))

    with monkeypatch.context() as patched:
        patched.setattr(intake, "_insert", locked)
        with pytest.raises(OperationalError):
            intake.take_in(store, database, desk)
    assert store.exists(waybill_key(parcel.edge_id, parcel.parcel_id))
    assert not store.exists(receipt_key(parcel.edge_id, parcel.parcel_id))
    assert intake.take_in(store, database, desk).accepted == 1
