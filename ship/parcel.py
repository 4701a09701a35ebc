"""One shipment from the edge's store to a sealed parcel: fetch, de-identify, encrypt, sign; without Ray."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgerad import envelope, keyring
from edgerad.parcels import (
    SEALED_FILE,
    WAYBILL,
    WAYBILL_FILE,
    Deidentification,
    ParcelManifest,
    Waybill,
    context,
    packed,
)
from edgerad.records import now
from edgerad.store import ObjectGone, ObjectStore, ObjectTooLarge, StoreUnavailable, config_from
from ship.deidentify import Clean, Options, Quarantined, deidentify
from ship.keys import KeyMissing, SiteKey, site_key
from ship.orders import Kept, Order, Outcome, Sealed, outbox_config
from ship.release import release_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from edgerad.settings import Settings


@dataclass(frozen=True)
class Workplace:
    """What sealing needs: both stores, the keys (None when one is missing), and the site's choices."""

    edge: ObjectStore
    outbox: ObjectStore
    key: SiteKey | None
    edge_id: str
    core_key: bytes | None
    signing_key: Ed25519PrivateKey
    options: Options
    max_bytes: int


def workplace(settings: Settings) -> Workplace:
    """Return the workplace of these settings; without the site secret everything is quarantined."""
    key: SiteKey | None
    try:
        key = site_key(settings)
    except KeyMissing:
        key = None
    config = config_from(settings.store)
    return Workplace(
        ObjectStore(config),
        ObjectStore(outbox_config(config)),
        key,
        settings.ship.edge_id,
        keyring.sealing_key(settings),
        keyring.load_signing_key(keyring.edge_key(settings), "ship.signing_key"),
        Options(
            keep_characteristics=settings.ship.keep_patient_characteristics,
            keep_device=settings.ship.keep_device_identity,
        ),
        settings.serve.max_object_bytes,
    )


def seal(order: Order, place: Workplace) -> Outcome:
    """De-identify one image and write its parcel. A repeat writes the same image under the same name, sealed anew."""
    key, edge_id = place.key, place.edge_id
    if place.core_key is None:
        return Kept(order.shipment_id, "core-key-missing", retry=True)
    try:
        data = place.edge.get(order.key, etag=order.etag, limit_bytes=place.max_bytes)
    except StoreUnavailable:
        return Kept(order.shipment_id, "store-unavailable", retry=True)
    except (ObjectGone, ObjectTooLarge) as error:
        reason = "object-gone" if isinstance(error, ObjectGone) else "too-large"
        return Kept(order.shipment_id, reason, retry=False)
    result = deidentify(data, key, place.options, hints=(order.key,), release=release_of(order.release))
    if isinstance(result, Quarantined) or key is None:
        reason = result.reason.value if isinstance(result, Quarantined) else "key-missing"
        return Kept(order.shipment_id, reason, retry=False, record=result.record)
    parcel_id = key.digest("parcel", edge_id, order.shipment_id.encode()).hex()[:32]
    manifest = _manifest(order, edge_id, parcel_id, result)
    content = envelope.seal(packed(manifest.as_bytes(), result.data), place.core_key, context(edge_id, parcel_id))
    waybill = Waybill(
        schema_version=1,
        parcel_id=parcel_id,
        edge_id=edge_id,
        core_key=envelope.key_id(place.core_key),
        sealed_sha256=hashlib.sha256(content).hexdigest(),
        sealed_bytes=len(content),
        sealed_at=now(),
    )
    try:
        place.outbox.put(f"{parcel_id}/{SEALED_FILE}", content)
        signed = envelope.sign(WAYBILL, waybill.as_bytes(), place.signing_key)
        place.outbox.put(f"{parcel_id}/{WAYBILL_FILE}", signed, "application/json")
    except StoreUnavailable:
        return Kept(order.shipment_id, "store-unavailable", retry=True)
    return Sealed(
        order.shipment_id,
        parcel_id,
        manifest.object_sha256,
        waybill.sealed_sha256,
        waybill.sealed_bytes,
        waybill.core_key,
        result.record,
    )


def _manifest(order: Order, edge_id: str, parcel_id: str, clean: Clean) -> ParcelManifest:
    return ParcelManifest(
        schema_version=1,
        parcel_id=parcel_id,
        edge_id=edge_id,
        patient=clean.patient,
        study=clean.patient,
        media_type=clean.media_type,
        object_sha256=hashlib.sha256(clean.data).hexdigest(),
        object_bytes=len(clean.data),
        finding=order.finding,
        probability=order.probability,
        triage=order.triage,
        model_digest=order.model_digest,
        calibration_version=order.calibration_version,
        threshold_version=order.threshold_version,
        why=order.why,
        deid=Deidentification(
            software=clean.record["software"],
            key_id=clean.record["key_id"],
            verified=True,
            counts=counts(clean.record),
        ),
        sealed_at=now(),
    )


def counts(record: dict[str, Any]) -> dict[str, int]:
    """Return the numbers of a de-identification record that go along: header actions and filled boxes."""
    return {**record.get("header", {}), "boxes": len(record.get("boxes", ()))}
