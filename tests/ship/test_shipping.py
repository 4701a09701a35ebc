"""Store-and-forward: nothing lost, nothing sent twice, nothing unverified sent, whatever dies in between."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from edgerad.parcels import ParcelManifest, manifest_key, object_key, receipt_key
from edgerad.records import DeidRecord, Shipment, now
from ship import forward, pipeline
from ship.forward import NotVerified
from ship.parcel import Sealed, seal
from tests.ship.conftest import SETTINGS, World


def test_an_uncertain_case_arrives_at_the_core_without_identity_and_is_closed(world: World, xray: bytes) -> None:
    import io

    import pydicom

    image = world.arrive(xray)
    world.step()
    shipment = world.shipment
    assert shipment.state == "sent"
    parcel = shipment.parcel_id or ""
    data = world.core.get(object_key("edge", parcel))
    manifest = ParcelManifest.model_validate_json(world.core.get(manifest_key("edge", parcel)))
    assert hashlib.sha256(data).hexdigest() == manifest.object_sha256 == shipment.parcel_digest
    original, clean = (pydicom.dcmread(io.BytesIO(content)) for content in (xray, data))
    assert clean.PatientIdentityRemoved == "YES"
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "SOPInstanceUID"):
        assert str(original[keyword].value) not in data.decode("latin-1")
    assert image not in manifest.model_dump_json(), "the edge's own id stays at the edge"
    assert (clean.pixel_array == original.pixel_array).mean() > 0.98

    world.answer()
    world.step()
    assert world.shipment.state == "received"
    assert list(world.outbox.list()) == [], "the local copy goes only now"


def test_a_case_that_cannot_be_proven_clean_stays(world: World) -> None:
    world.arrive(b"neither DICOM nor a picture")
    world.step()
    assert (world.shipment.state, world.shipment.reason) == ("quarantined", "unreadable")
    assert world.core.puts == []
    with world.database.read() as session:
        record = session.scalars(select(DeidRecord)).one()
    assert not record.verified


@pytest.mark.parametrize("calls", [0, 1])
def test_a_core_that_dies_in_the_middle_gets_it_later_and_once(world: World, xray: bytes, calls: int) -> None:
    world.arrive(xray)
    world.core.fail_at = calls
    at = now()
    world.step(at)
    shipment = world.shipment
    assert (shipment.state, shipment.attempts) == ("sealed", 1)
    assert shipment.next_attempt_at is not None
    world.core.fail_at = None
    assert world.forwarder.send(at) == 0, "not before its time"
    assert world.forwarder.send(at + timedelta(seconds=2)) == 1
    assert world.forwarder.send(at + timedelta(seconds=2)) == 0
    manifests = [key for key in world.core.puts if key.endswith("manifest.json")]
    assert len(manifests) == 1
    assert world.core.puts[-1] == manifests[0], "the manifest commits, so it is last"


def test_a_dead_edge_store_delays_and_does_not_quarantine(world: World, xray: bytes) -> None:
    world.arrive(xray)
    world.outbox.fail_at = 0
    world.step()
    assert (world.shipment.state, world.shipment.reason) == ("queued", "store-unavailable")
    world.outbox.fail_at = None
    world.step(now() + timedelta(seconds=2))
    assert world.shipment.state == "sent"


def test_sealing_twice_after_a_crash_makes_the_same_parcel(world: World, xray: bytes) -> None:
    world.arrive(xray)
    (order,) = pipeline.queued(world.database, now(), 10)
    first, second = seal(order, world.place), seal(order, world.place)
    assert isinstance(first, Sealed)
    assert isinstance(second, Sealed)
    assert (first.parcel_id, first.object_sha256) == (second.parcel_id, second.object_sha256)
    for outcome in (first, second, first):
        pipeline.record(world.database, outcome, SETTINGS, now())
    with world.database.read() as session:
        assert len(list(session.scalars(select(DeidRecord)))) == 1


@pytest.mark.parametrize("harm", ["record", "object", "digest"])
def test_what_is_not_verified_is_not_sent(world: World, xray: bytes, harm: str) -> None:
    world.arrive(xray)
    (order,) = pipeline.queued(world.database, now(), 10)
    pipeline.record(world.database, seal(order, world.place), SETTINGS, now())
    parcel = world.shipment.parcel_id or ""
    if harm == "object":
        world.outbox.put(f"{parcel}/object", xray)
    else:
        values = {"deid_record_id": None} if harm == "record" else {"parcel_digest": "0" * 64}
        with world.database.write() as session:
            session.execute(update(Shipment).values(**values))
    with pytest.raises(NotVerified):
        world.forwarder.send(now())
    assert world.core.puts == []
    assert world.shipment.state == "sealed"


def test_a_refusal_is_kept_with_its_reason(world: World, xray: bytes) -> None:
    world.arrive(xray)
    world.step()
    world.answer(accepted=False, reason="not-clean")
    world.step()
    assert (world.shipment.state, world.shipment.reason) == ("refused", "not-clean")


@pytest.mark.parametrize("what", ["garbage", "other parcel", "other content"])
def test_a_receipt_that_is_not_ours_closes_nothing(world: World, xray: bytes, what: str) -> None:
    world.arrive(xray)
    world.step()
    if what == "garbage":
        world.core.put(receipt_key("edge", world.shipment.parcel_id or ""), b"<html>")
    else:
        world.answer(**({"parcel_id": "f" * 32} if what == "other parcel" else {"object_sha256": "0" * 64}))
    world.step()
    assert world.shipment.state == "sent"


def test_without_a_receipt_it_is_sent_again_after_a_while(world: World, xray: bytes) -> None:
    world.arrive(xray)
    at = now()
    world.step(at)
    world.forwarder.collect(at + timedelta(seconds=59))
    assert world.shipment.state == "sent"
    world.forwarder.collect(at + timedelta(seconds=61))
    assert world.shipment.state == "sealed"


def test_pauses_grow_and_are_capped() -> None:
    pauses = [forward.retry_after(n, SETTINGS, jitter=1.0).total_seconds() for n in (1, 2, 3, 30, 1000)]
    assert pauses == [1.0, 2.0, 4.0, 60.0, 60.0]
