"""Parcels, records and receipts that somebody changed, made up or played back: none is sent, closed or taken twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select, text, update

from edgerad import envelope
from edgerad.parcels import SEALED_FILE, WAYBILL, WAYBILL_FILE, Waybill, receipt_key, sealed_key, waybill_key
from edgerad.records import Audit, DeidRecord, Shipment, now
from tests.ship.conftest import World, raw

pytestmark = pytest.mark.usefixtures("deidentified_once")


def put_other_object(world: World, parcel: str, xray: bytes) -> None:
    world.outbox.put(f"{parcel}/{SEALED_FILE}", xray)


def put_longer_object(world: World, parcel: str, xray: bytes) -> None:
    key = f"{parcel}/{SEALED_FILE}"
    world.outbox.put(key, world.outbox.get(key) + xray)


def put_unverified_parcel(world: World, parcel: str, xray: bytes) -> None:
    """Seal an original by all rules of the envelope: right key, right name, right digests, own signature."""
    from edgerad.parcels import context

    sealed = envelope.seal(xray, raw(world.secrets.parcels), context("edge", parcel))
    told = waybill_of(world, parcel).model_copy(
        update={"sealed_sha256": hashlib.sha256(sealed).hexdigest(), "sealed_bytes": len(sealed)}
    )
    world.outbox.put(f"{parcel}/{SEALED_FILE}", sealed)
    world.outbox.put(f"{parcel}/{WAYBILL_FILE}", envelope.sign(WAYBILL, told.as_bytes(), world.secrets.edge))


def put_other_signature(world: World, parcel: str, xray: bytes) -> None:
    told = waybill_of(world, parcel)
    signed = envelope.sign(WAYBILL, told.as_bytes(), Ed25519PrivateKey.generate())
    world.outbox.put(f"{parcel}/{WAYBILL_FILE}", signed)


def put_other_name(world: World, parcel: str, xray: bytes) -> None:
    told = waybill_of(world, parcel).model_copy(update={"parcel_id": "f" * 32})
    world.outbox.put(f"{parcel}/{WAYBILL_FILE}", envelope.sign(WAYBILL, told.as_bytes(), world.secrets.edge))


def put_garbage_waybill(world: World, parcel: str, xray: bytes) -> None:
    world.outbox.put(f"{parcel}/{WAYBILL_FILE}", b'{"payload": []}')


def remove_waybill(world: World, parcel: str, xray: bytes) -> None:
    world.outbox.delete(f"{parcel}/{WAYBILL_FILE}")


def remove_object(world: World, parcel: str, xray: bytes) -> None:
    world.outbox.delete(f"{parcel}/{SEALED_FILE}")


def waybill_of(world: World, parcel: str) -> Waybill:
    signed = world.outbox.get(f"{parcel}/{WAYBILL_FILE}")
    return Waybill.model_validate_json(envelope.verified(WAYBILL, signed, [raw(world.secrets.edge)]))


@pytest.mark.parametrize(
    "tamper",
    [
        put_other_object,
        put_longer_object,
        put_unverified_parcel,
        put_other_signature,
        put_other_name,
        put_garbage_waybill,
        remove_waybill,
        remove_object,
    ],
)
def test_a_parcel_that_was_tampered_with_is_not_sent_but_sealed_anew_from_the_image(
    world: World, xray: bytes, tamper: Callable[[World, str, bytes], None]
) -> None:
    at = now()
    world.arrive(xray)
    world.shipper.seal(at)
    tamper(world, world.shipment.parcel_id or "", xray)
    world.shipper.forward(at)
    assert world.line.asked == [] or {method for method, _ in world.line.asked} == {"GET"}, "nothing went out"
    assert (world.shipment.state, world.shipment.reason) == ("queued", "outbox-changed")
    with world.database.read() as session:
        assert session.scalars(select(Audit.detail).where(Audit.action == "shipment-queued")).one()["reason"]
    world.step(at + timedelta(seconds=2))
    assert world.core_takes().accepted == 1


@pytest.mark.parametrize(
    "values",
    [{"deid_record_id": None}, {"parcel_digest": "0" * 64}, "unverified"],
    ids=["no record", "of another image", "says unverified"],
)
def test_without_a_record_that_says_verified_it_stays_for_a_person_and_holds_up_no_other(
    world: World, xray: bytes, values: Any
) -> None:
    world.arrive(xray)
    world.shipper.seal(now())
    with world.database.write() as session:
        if values == "unverified":
            # The table is append-only: whoever wants to tamper with it has to take the trigger away first.
            session.execute(text("DROP TRIGGER deid_record_no_update"))
            session.execute(update(DeidRecord).values(verified=False))
        else:
            session.execute(update(Shipment).values(**values))
    bad = world.shipment.shipment_id
    world.arrive(xray, "a/2.dcm")
    world.step()
    with world.database.read() as session:
        states = {row.shipment_id: (row.state, row.reason) for row in session.scalars(select(Shipment))}
    assert states.pop(bad) == ("quarantined", "not-verified")
    assert list(states.values()) == [("sent", None)]
    assert len(world.line.requests("PUT", "waybill")) == 1


def test_a_changed_record_of_verification_is_seen_by_the_database(world: World, xray: bytes) -> None:
    world.arrive(xray)
    world.shipper.seal(now())
    with pytest.raises(Exception, match="append-only"), world.database.write() as session:
        session.execute(update(DeidRecord).values(verified=True, output_digest="0" * 64))


@pytest.mark.parametrize(
    "what", ["garbage", "other parcel", "other content", "no content", "unsigned", "own signature"]
)
def test_a_receipt_that_is_not_the_cores_or_not_for_this_parcel_closes_nothing(
    world: World, xray: bytes, what: str
) -> None:
    world.arrive(xray)
    world.step()
    key = receipt_key("edge", world.shipment.parcel_id or "")
    match what:
        case "garbage":
            world.inside.put(key, b"<html>")
        case "other parcel":
            world.answer(parcel_id="f" * 32)
        case "other content":
            world.answer(sealed_sha256="0" * 64)
        case "no content":
            world.answer(sealed_sha256=None)
        case "unsigned":
            world.answer(Ed25519PrivateKey.generate())
        case "own signature":
            world.answer(world.secrets.edge)
    world.step()
    assert world.shipment.state == "sent"
    assert len(list(world.outbox.list())) == 2


@pytest.mark.parametrize("repeat", ["after it was received", "before"])
def test_a_parcel_that_is_played_back_makes_no_second_case(world: World, xray: bytes, repeat: str) -> None:
    world.arrive(xray)
    world.step()
    parcel = world.shipment.parcel_id or ""
    keys = sealed_key("edge", parcel), waybill_key("edge", parcel)
    copies = [world.inside.get(key) for key in keys]
    world.core_takes()
    if repeat == "after it was received":
        world.step()
        assert world.shipment.state == "received"
    for key, copy in zip(keys, copies, strict=True):
        world.inside.put(key, copy)
    taken = world.core_takes()
    assert (taken.accepted, taken.repeated) == (0, 1)
    assert len(world.cases) == 1
    for other in (sealed_key("edge", "e" * 32), waybill_key("edge", "e" * 32)):
        world.inside.put(other, copies[other.endswith("json")])
    assert world.core_takes().refused == 1, "under another name it is not what its waybill says"
    assert len(world.cases) == 1
