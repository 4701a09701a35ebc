"""What travels between an edge and the core: a parcel (a de-identified image and its manifest) and its receipt.

In the core's object store a parcel is `inbox/<edge_id>/<parcel_id>/object` and `…/manifest.json`; the manifest is
written last and commits it. The core answers with `receipts/<edge_id>/<parcel_id>.json`, and with nothing else.
Every text of a manifest is held to a pattern: there is no field that a name or a date of birth would fit in.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgerad.scoring import Triage

SCHEMA_VERSION: Literal[1] = 1
INBOX, RECEIPTS = "inbox/", "receipts/"
OBJECT_FILE, MANIFEST_FILE = "object", "manifest.json"
MAX_MANIFEST_BYTES = 64 * 1024

EdgeId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
ParcelId = Annotated[str, Field(pattern=r"^[0-9a-f]{32,64}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Pseudonym = Annotated[str, Field(pattern=r"^(?:[A-Z2-7]{16}|2\.25\.[0-9]{1,39}|[0-9a-f]{32,64})$")]
"""A keyed digest as ship/ makes them: 16 base32 characters, a UID under 2.25 (PS3.5 Annex B.2), or hexadecimal."""
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 .,+()/_-]{0,63}$")]
Code = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Deidentification(_Message):
    """That a parcel was de-identified and verified; the boxes and the full record stay at the edge."""

    software: Version = Field(description="What de-identified, with its version.")
    key_id: Annotated[str, Field(pattern=r"^(?:[0-9a-f]{16,64})$")] = Field(
        description="Name of the site secret that the pseudonyms were made with; tells nothing about it."
    )
    verified: Literal[True] = Field(description="Always true: what could not be verified never leaves the edge.")
    counts: Annotated[
        dict[Annotated[str, Field(pattern=r"^[a-z][a-z_-]{0,31}$")], Annotated[int, Field(ge=0)]],
        Field(max_length=32),
    ] = Field(description="How many header attributes met which end, and how many boxes were filled.")


class ParcelManifest(_Message):
    """A parcel's manifest; holds pseudonyms only."""

    schema_version: Literal[1] = Field(SCHEMA_VERSION, description="Version of this schema.")
    parcel_id: ParcelId = Field(description="Identity of the parcel, the same on every attempt.")
    edge_id: EdgeId = Field(description="The edge that sends it.")
    patient: Pseudonym = Field(description="Keyed pseudonym of the patient; groups cases, fixes the split.")
    study: Pseudonym = Field(description="Keyed pseudonym of the study; a picture's is its patient's.")
    media_type: Literal["application/dicom", "image/png"] = Field(description="What the object is.")
    object_sha256: Sha256 = Field(description="SHA-256 of the object.")
    object_bytes: Annotated[int, Field(gt=0)] = Field(description="Size of the object, bytes.")
    finding: Code = Field(description="Finding that was looked for.")
    probability: float = Field(ge=0, le=1, description="Calibrated probability that the edge gave.")
    triage: Triage = Field(description="high, unknown or low.")
    model_digest: Sha256 = Field(description="Model that gave it.")
    calibration_version: Version = Field(description="Calibration that gave the probability.")
    threshold_version: Version = Field(description="Thresholds that gave the triage.")
    why: Literal["unknown", "random"] = Field(description="Shipped as uncertain, or in the random share.")
    deid: Deidentification = Field(description="That it was de-identified and verified.")
    sealed_at: datetime = Field(description="When the parcel was sealed at the edge, UTC.")

    def as_bytes(self) -> bytes:
        """Return the manifest as it is stored: the same bytes for the same parcel."""
        return self.model_dump_json().encode()


class Receipt(_Message):
    """The core's answer to a parcel; the edge closes the shipment on it."""

    schema_version: Literal[1] = Field(SCHEMA_VERSION, description="Version of this schema.")
    parcel_id: ParcelId = Field(description="The parcel.")
    accepted: bool = Field(description="Whether the core keeps it.")
    reason: Code = Field(description="received, or why it was refused; a code of docs/core.md.")
    object_sha256: Sha256 | None = Field(description="SHA-256 of what arrived; none when no object did.")
    at: datetime = Field(description="When the core decided, UTC.")

    def as_bytes(self) -> bytes:
        """Return the receipt as it is stored."""
        return self.model_dump_json().encode()


def parcel_prefix(edge_id: str, parcel_id: str) -> str:
    """Return the prefix of a parcel's two objects."""
    return f"{INBOX}{edge_id}/{parcel_id}/"


def object_key(edge_id: str, parcel_id: str) -> str:
    """Return the key of a parcel's object."""
    return parcel_prefix(edge_id, parcel_id) + OBJECT_FILE


def manifest_key(edge_id: str, parcel_id: str) -> str:
    """Return the key of a parcel's manifest, to be written after the object."""
    return parcel_prefix(edge_id, parcel_id) + MANIFEST_FILE


def receipt_key(edge_id: str, parcel_id: str) -> str:
    """Return the key of the core's receipt for a parcel."""
    return f"{RECEIPTS}{edge_id}/{parcel_id}.json"
