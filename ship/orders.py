"""What goes into a de-identification job and what comes out, for those that only hand it on: nothing heavy in it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from edgerad.scoring import Triage
from edgerad.store import StoreConfig

OUTBOX_SUFFIX = "-outbox"


@dataclass(frozen=True)
class Order:
    """What is to be shipped."""

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
    release: dict[str, Any] | None = None
    """Boxes by which a person released the image from quarantine."""


@dataclass(frozen=True)
class Sealed:
    """A parcel that lies complete in the outbox: digest of the clean image, digest and size of what is sealed."""

    shipment_id: str
    parcel_id: str
    object_sha256: str
    sealed_sha256: str
    sealed_bytes: int
    core_key: str
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
