"""From an uncertain case to a case at the core: nothing lost, nothing twice, nothing that is not verified."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import event, select
from sqlalchemy.exc import OperationalError

from deploy.ceph import Ceph
from edgerad import envelope
from edgerad.audit import verify
from edgerad.parcels import WAYBILL, Waybill, sealed_key, waybill_key
from edgerad.records import DeadLetter, DeidRecord, Shipment, now
from edgerad.s3server import disk
from edgerad.s3server.disk import Draft
from edgerad.store import StoreConfig, StoreFull
from ship import pipeline
from ship.orders import Kept, Order, Sealed
from ship.parcel import seal
from tests.ship.conftest import SETTINGS, SMALL_PARTS, World, raw
from train import receipts

pytestmark = pytest.mark.usefixtures("deidentified_once")


YEAR = timedelta(days=365)


def waybill(world: World) -> Waybill:
    """Return the waybill that lies at the core, its signature checked as the core does."""
    signed = world.inside.get(waybill_key("edge", world.shipment.parcel_id or ""))
    return Waybill.model_validate_json(envelope.verified(WAYBILL, signed, [raw(world.secrets.edge)]))


def flow(world: World, xray: bytes) -> None:
    """Ship a case to its end and look at every station."""
    image = world.arrive(xray)
    world.step()
    shipment = world.shipment
    parcel = shipment.parcel_id or ""
    assert shipment.state == "sent"
    sealed = world.inside.get(sealed_key("edge", parcel))
    told = waybill(world)
    assert hashlib.sha256(sealed).hexdigest() == told.sealed_sha256 == shipment.sealed_digest
    for secret in (b"DICM", b"pneumonia", image.encode(), b"PatientIdentityRemoved"):
        assert secret not in sealed, "what travels is encrypted"
    assert "patient" not in told.model_dump_json(), "the outside tells nothing about a case"

    taken = world.core_takes()
    assert (taken.accepted, taken.refused, taken.stuck) == (1, 0, 0)
    (case,) = world.cases
    data = world.inside.get(case.object_key)
    assert hashlib.sha256(data).hexdigest() == shipment.parcel_digest == case.object_digest
    original, clean = (pydicom.dcmread(io.BytesIO(content)) for content in (xray, data))
    assert clean.PatientIdentityRemoved == "YES"
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "SOPInstanceUID"):
        assert str(original[keyword].value) not in data.decode("latin-1")
    assert image not in str(case.manifest), "the edge's own id stays at the edge"
    assert (clean.pixel_array == original.pixel_array).mean() > 0.98

    world.step()
    assert world.shipment.state == "received"
    assert list(world.outbox.list()) == [], "the local copy goes only now"
    assert verify(world.database)[1] is None


def mirrored(data: bytes) -> bytes:
    """Return an image with the same UIDs and other pixels."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.PixelData = np.ascontiguousarray(dataset.pixel_array[:, ::-1]).tobytes()
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def test_two_images_with_one_uid_and_different_content_are_two_parcels_and_two_cases(world: World, xray: bytes) -> None:
    """Pseudonyms of equal UIDs are equal: what lies in a store is named after the content, at the core as well."""
    for data, key in ((xray, "a/1.dcm"), (mirrored(xray), "b/1.dcm"), (mirrored(xray), "b/1.dcm")):
        world.arrive(data, key)
    world.step()
    assert world.core_takes().accepted == 2
    stored = [world.inside.get(case.object_key) for case in world.cases]
    assert [hashlib.sha256(data).hexdigest() for data in stored] == [case.object_digest for case in world.cases]
    assert len({case.object_key for case in world.cases}) == len(set(stored)) == 2
    assert len({pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID for data in stored}) == 1


def test_an_image_that_another_with_its_uid_has_overwritten_is_not_shipped_in_its_place(
    world: World, xray: bytes
) -> None:
    for data in (xray, mirrored(xray)):
        world.arrive(data, "a/1.dcm")
    world.step()
    with world.database.read() as session:
        ends = {(shipment.state, shipment.reason) for shipment in session.scalars(select(Shipment))}
    assert ends == {("sent", None), ("quarantined", "object-gone")}


def test_an_uncertain_case_arrives_at_the_core_without_identity_and_is_closed(world: World, xray: bytes) -> None:
    flow(world, xray)


@pytest.fixture
def ceph_world(ceph: Ceph, make_world: Callable[..., World]) -> World:
    """An edge and a core that both keep their objects in Ceph."""
    found = ceph.endpoints()
    config = StoreConfig(found["s3"], "ship-edge", found["access_key"], found["secret_key"], max_attempts=1)
    return make_world(config, replace(config, bucket="ship-core"))


@pytest.mark.real
def test_it_arrives_over_ceph_as_well(ceph_world: World, xray: bytes) -> None:
    flow(ceph_world, xray)


def test_a_case_that_cannot_be_proven_clean_stays(world: World) -> None:
    world.arrive(b"neither DICOM nor a picture")
    world.step()
    assert (world.shipment.state, world.shipment.reason) == ("quarantined", "unreadable")
    assert world.line.requests("PUT") == []
    with world.database.read() as session:
        record = session.scalars(select(DeidRecord)).one()
    assert not record.verified


def test_without_the_cores_key_nothing_is_sealed_and_nothing_lost(world: World, xray: bytes) -> None:
    world.arrive(xray)
    (order,) = pipeline.queued(world.database, now(), 10)
    kept = seal(order, replace(world.place, core_key=None))
    assert kept == Kept(order.shipment_id, "core-key-missing", retry=True)
    pipeline.record(world.database, kept, SETTINGS, now())
    assert (world.shipment.state, world.shipment.reason) == ("queued", "core-key-missing")
    assert list(world.outbox.list()) == []


def test_sealing_twice_after_a_crash_makes_the_same_parcel(world: World, xray: bytes) -> None:
    world.arrive(xray)
    (order,) = pipeline.queued(world.database, now(), 10)
    first, second = seal(order, world.place), seal(order, world.place)
    assert isinstance(first, Sealed)
    assert isinstance(second, Sealed)
    assert (first.parcel_id, first.object_sha256) == (second.parcel_id, second.object_sha256)
    assert first.sealed_sha256 != second.sealed_sha256, "no two encryptions are alike"
    for outcome in (second, first, second):
        pipeline.record(world.database, outcome, SETTINGS, now())
    with world.database.read() as session:
        assert len(list(session.scalars(select(DeidRecord)))) == 1
    assert world.shipment.sealed_digest == second.sealed_sha256
    world.step()
    assert world.core_takes().accepted == 1


def test_a_refusal_of_what_is_not_clean_is_final_and_kept_with_its_reason(world: World, xray: bytes) -> None:
    world.arrive(xray)
    world.step()
    world.answer(accepted=False, reason="identifying-attribute")
    world.step()
    assert (world.shipment.state, world.shipment.reason) == ("refused", "identifying-attribute")
    assert list(world.outbox.list()) == []


def test_clocks_that_are_wrong_by_years_change_nothing(world: World, xray: bytes) -> None:
    at = now()
    world.arrive(xray)
    world.line.breaks("refused")
    world.step(at + 3 * YEAR)  # the edge's clock runs ahead, and a transfer fails: the next is due in three years
    world.line.mend()
    assert (world.shipment.state, world.shipment.attempts) == ("sealed", 1)
    world.step(at)  # the clock is set right
    assert world.shipment.state == "sent", "what a wrong clock put off is not put off for years"
    world.answer(at=at - 20 * YEAR)
    world.step(at)
    assert world.shipment.state == "received", "the core's clock does not matter"


def test_without_a_receipt_it_is_sent_again_after_a_while_unless_it_still_lies_there(world: World, xray: bytes) -> None:
    at = now()
    world.arrive(xray)
    world.step(at)
    world.forwarder.collect(at + timedelta(seconds=59))
    assert (world.shipment.state, world.shipment.sent_at) == ("sent", at)
    world.forwarder.collect(at + timedelta(seconds=61))
    assert (world.shipment.state, world.shipment.sent_at) == ("sent", at + timedelta(seconds=61)), "it lies there"
    world.inside.delete(waybill_key("edge", world.shipment.parcel_id or ""))
    world.forwarder.collect(at + timedelta(seconds=200))
    assert world.shipment.state == "sealed"
    world.step(at + timedelta(seconds=201))
    assert world.core_takes().accepted == 1


def new_core_key(world: World, keep_old: bool) -> None:
    world.secrets = replace(world.secrets, parcels=X25519PrivateKey.generate())
    world.opening = [world.secrets.parcels, *(world.opening if keep_old else [])]


def test_an_edge_that_was_off_for_years_finds_its_receipt_and_sends_nothing_twice(world: World, xray: bytes) -> None:
    world.arrive(xray)
    world.step()
    assert world.shipment.state == "sent"
    world.core_takes()
    later = now() + timedelta(days=1000)
    assert receipts.forget(world.inside, world.database, later, timedelta(days=90).total_seconds()) == 0
    world.restart()
    sent = len(world.line.requests("PUT"))
    world.step(later)
    assert world.shipment.state == "received"
    assert len(world.line.requests("PUT")) == sent


def test_a_parcel_of_the_old_key_is_taken_while_the_core_keeps_that_key(world: World, xray: bytes) -> None:
    world.arrive(xray)
    world.step()
    new_core_key(world, keep_old=True)
    assert world.core_takes().accepted == 1
    world.step()
    assert world.shipment.state == "received"


def test_a_parcel_of_a_key_that_is_gone_waits_and_is_sealed_anew_to_the_new_one(world: World, xray: bytes) -> None:
    at = now()
    world.arrive(xray)
    world.step(at)
    old = world.shipment.sealed_digest
    new_core_key(world, keep_old=False)
    assert world.core_takes().refused == 1
    world.step(at)
    assert (world.shipment.state, world.shipment.reason) == ("sealed", "core-key-unknown"), "the edge knows no other"
    world.restart()  # with the core's new key in its settings
    world.step(at + timedelta(seconds=61))
    assert world.core_takes().refused == 1, "it was sealed to the old key"
    world.step(at + timedelta(seconds=62))
    assert world.shipment.state == "queued"
    world.step(at + timedelta(seconds=70))
    assert world.shipment.sealed_digest != old
    taken = world.core_takes()
    assert (taken.accepted, taken.refused) == (1, 0)
    world.step(at + timedelta(seconds=71))
    assert world.shipment.state == "received"
    assert len(world.cases) == 1
    with world.database.read() as session:
        letters = list(session.scalars(select(DeadLetter)))
    assert [(letter.reason, letter.replayed_at is not None) for letter in letters] == [("core-key-unknown", True)]


def test_an_edge_that_the_core_does_not_know_yet_loses_nothing(world: World, xray: bytes) -> None:
    at = now()
    world.arrive(xray)
    world.step(at)
    known, world.secrets = world.secrets.edge, replace(world.secrets, edge=Ed25519PrivateKey.generate())
    assert world.core_takes().refused == 1
    world.step(at)
    assert (world.shipment.state, world.shipment.reason) == ("sealed", "signature-invalid")
    world.secrets = replace(world.secrets, edge=known)  # the core's settings name the edge's key now
    world.step(at + timedelta(seconds=61))
    assert world.core_takes().accepted == 1


@pytest.mark.parametrize("reason", ["digest-mismatch", "size-mismatch", "object-missing"])
def test_what_was_damaged_on_the_way_is_sent_again_and_an_old_refusal_is_not_taken_for_a_new_one(
    world: World, xray: bytes, reason: str
) -> None:
    at = now()
    world.arrive(xray)
    world.step(at)
    key = sealed_key("edge", world.shipment.parcel_id or "")
    sealed = world.inside.get(key)
    match reason:
        case "digest-mismatch":
            world.inside.put(key, bytes([sealed[0] ^ 1]) + sealed[1:])
        case "size-mismatch":
            world.inside.put(key, sealed[:-1])
        case "object-missing":
            world.inside.delete(key)
    assert world.core_takes().refused == 1
    world.step(at)
    assert (world.shipment.state, world.shipment.reason, world.shipment.refusals) == ("sealed", reason, 1)
    world.step(at + timedelta(seconds=2))
    assert world.shipment.state == "sent", "the refusal still lies there, and was answered already"
    assert world.core_takes().accepted == 1
    world.step(at + timedelta(seconds=3))
    assert world.shipment.state == "received"


class FullDisk(Draft):
    """A content that the kernel has no room for: writing to it fails with ENOSPC."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file.close()
        self._file = Path("/dev/full").open("wb")  # noqa: SIM115 - the draft closes it


def test_a_full_disk_at_the_edge_delays_and_loses_nothing(
    world: World, xray: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.arrive(xray)
    with monkeypatch.context() as patched:
        patched.setattr(disk, "Draft", FullDisk)
        world.step()
        assert (world.shipment.state, world.shipment.reason) == ("queued", "store-unavailable")
        with pytest.raises(StoreFull, match="no room"):
            world.outbox.put("k", b"content")
    files = {path.name for path in (world.folder / "s3" / "files").iterdir()}
    assert len(files) == len(list(world.edge.list())), "what found no room was taken away"
    world.step(now() + timedelta(seconds=2))
    assert world.core_takes().accepted == 1


def fill(world: World, at: datetime, xray: bytes) -> None:
    """Ship images until the database has no room; there is some left inside its file."""
    for number in range(200):
        world.step(at)
        world.arrive(xray, f"b/{number}.dcm")


def test_a_full_disk_under_the_edges_database_delays_and_sends_nothing_twice(world: World, xray: bytes) -> None:
    at = now()
    world.arrive(xray)

    def no_room(connection: Any, record: object) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")

    world.database.engine.dispose()
    event.listen(world.database.engine, "connect", no_room)
    with pytest.raises(OperationalError, match="full"):
        fill(world, at, xray)
    event.remove(world.database.engine, "connect", no_room)
    world.database.engine.dispose()
    for second in range(5):
        world.step(at + timedelta(seconds=100 * second))
        world.core_takes()
    with world.database.read() as session:
        states = set(session.scalars(select(Shipment.state)))
        shipments = len(list(session.scalars(select(Shipment.shipment_id))))
    assert states == {"received"}
    assert len(world.cases) == shipments
    assert len(world.line.requests("PUT", "waybill")) == shipments, "each was sent once"


def test_a_parcel_in_many_parts_arrives_whole(world: World, xray: bytes) -> None:
    world.restart(part_bytes=SMALL_PARTS)
    flow(world, xray)
    assert len(world.line.requests("PUT", "partNumber")) > 5


def test_the_order_of_the_queue_is_kept(world: World, xray: bytes) -> None:
    names = ["b", "a", "c"]
    for name in names:
        world.arrive(xray, f"{name}/1.dcm")
    orders: list[Order] = pipeline.queued(world.database, now(), 10)
    assert [order.key[0] for order in orders] == names
