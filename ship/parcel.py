"""One shipment from the edge's store to a sealed parcel: fetch, de-identify, write object and manifest; without Ray."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from edgerad.parcels import MANIFEST_FILE, OBJECT_FILE, Deidentification, ParcelManifest
from edgerad.records import now
from edgerad.scoring import Triage
from edgerad.store import ObjectGone, ObjectStore, ObjectTooLarge, StoreConfig, StoreUnavailable, config_from
from ship.deidentify import Options, Quarantined, deidentify
from ship.keys import KeyMissing, SiteKey, site_key

if TYPE_CHECKING:
    from edgerad.settings import Settings

OUTBOX_SUFFIX = "-outbox"


@dataclass(frozen=True)
class Order:
    """What is to be shipped; `hints` are texts that may name the patient and must not survive."""

    shipment_id: str
    image_id: str
    key: str
    etag: str | None
    finding: str
    probability: float
    triage: Triage
    model_digest: str
    calibration_version: str
    threshold_version: str
    why: str


@dataclass(frozen=True)
class Sealed:
    """A parcel that lies complete in the outbox."""

    shipment_id: str
    parcel_id: str
    object_sha256: str
    record: dict[str, Any]


@dataclass(frozen=True)
class Kept:
    """An image that stays here; `retry` when the cause may pass."""

    shipment_id: str
    reason: str
    retry: bool
    record: dict[str, Any] = field(default_factory=dict)


Outcome = Sealed | Kept


def outbox_config(edge: StoreConfig) -> StoreConfig:
    """Return the store of sealed parcels: a bucket of their own, so that no sweep takes them for X-rays."""
    return replace(edge, bucket=edge.bucket + OUTBOX_SUFFIX)


@dataclass(frozen=True)
class Workplace:
    """What sealing needs: both stores, the site's key (None when it is missing), and the site's choices."""

    edge: ObjectStore
    outbox: ObjectStore
    key: SiteKey | None
    edge_id: str
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
        Options(keep_characteristics=settings.ship.keep_patient_characteristics),
        settings.serve.max_object_bytes,
    )


def seal(order: Order, place: Workplace) -> Outcome:
    """De-identify one image and write its parcel; repeating it writes the same parcel again."""
    key, edge_id = place.key, place.edge_id
    try:
        data = place.edge.get(order.key, etag=order.etag, limit_bytes=place.max_bytes)
    except StoreUnavailable:
        return Kept(order.shipment_id, "store-unavailable", retry=True)
    except (ObjectGone, ObjectTooLarge) as error:
        reason = "object-gone" if isinstance(error, ObjectGone) else "too-large"
        return Kept(order.shipment_id, reason, retry=False)
    result = deidentify(data, key, place.options, hints=(order.key,))
    if isinstance(result, Quarantined) or key is None:
        reason = result.reason.value if isinstance(result, Quarantined) else "key-missing"
        return Kept(order.shipment_id, reason, retry=False, record=result.record)
    parcel_id = key.digest("parcel", edge_id, order.shipment_id.encode()).hex()[:32]
    digest = hashlib.sha256(result.data).hexdigest()
    manifest = ParcelManifest(
        schema_version=1,
        parcel_id=parcel_id,
        edge_id=edge_id,
        patient=result.patient,
        study=result.patient,
        media_type=result.media_type,
        object_sha256=digest,
        object_bytes=len(result.data),
        finding=order.finding,
        probability=order.probability,
        triage=order.triage,
        model_digest=order.model_digest,
        calibration_version=order.calibration_version,
        threshold_version=order.threshold_version,
        why=order.why,
        deid=Deidentification(
            software=result.record["software"],
            key_id=result.record["key_id"],
            verified=True,
            counts=counts(result.record),
        ),
        sealed_at=now(),
    )
    try:
        place.outbox.put(f"{parcel_id}/{OBJECT_FILE}", result.data, result.media_type)
        place.outbox.put(f"{parcel_id}/{MANIFEST_FILE}", manifest.as_bytes(), "application/json")
    except StoreUnavailable:
        return Kept(order.shipment_id, "store-unavailable", retry=True)
    return Sealed(order.shipment_id, parcel_id, digest, result.record)


def counts(record: dict[str, Any]) -> dict[str, int]:
    """Return the numbers of a de-identification record that go along: header actions and filled boxes."""
    return {**record.get("header", {}), "boxes": len(record.get("boxes", ()))}
