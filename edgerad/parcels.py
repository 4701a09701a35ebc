"""What travels between an edge and the core: a sealed parcel with its waybill, and the receipt that comes back.

In the core's object store a parcel is `inbox/<edge_id>/<parcel_id>/sealed` and `…/waybill.json`; the waybill is written
last and commits it. Sealed is the de-identified image with its manifest, encrypted to the core (edgerad/envelope.py);
the waybill tells whose it is, for which key, and its digest, and is signed by the edge. The core answers with
`receipts/<edge_id>/<parcel_id>.json`, signed as well, and with nothing else.
Every text of a manifest is held to a pattern: there is no field that a name or a date of birth would fit in.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgerad.scoring import Triage

SCHEMA_VERSION: Literal[1] = 1
INBOX, RECEIPTS = "inbox/", "receipts/"
SEALED_FILE, WAYBILL_FILE = "sealed", "waybill.json"
WAYBILL, RECEIPT = "application/vnd.edgerad.waybill+json", "application/vnd.edgerad.receipt+json"
"""What a signature says that it is under: one of the other kind is none."""
MAX_MANIFEST_BYTES = 64 * 1024
SEALING_BYTES = 48
"""What sealing adds to the content: an encapsulated X25519 key and a Poly1305 tag (RFC 9180)."""
_LENGTH_BYTES = 4

EdgeId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
ParcelId = Annotated[str, Field(pattern=r"^[0-9a-f]{32,64}$")]
KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
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
    """What lies in a parcel beside its object; holds pseudonyms only."""

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
        """Return the manifest as it is packed."""
        return self.model_dump_json().encode()


class Waybill(_Message):
    """What stands on the outside of a parcel: nothing about a case."""

    schema_version: Literal[1] = Field(SCHEMA_VERSION, description="Version of this schema.")
    parcel_id: ParcelId = Field(description="Identity of the parcel, the same on every attempt.")
    edge_id: EdgeId = Field(description="The edge that sends it.")
    core_key: KeyId = Field(description="Id of the core's key that it is sealed to.")
    sealed_sha256: Sha256 = Field(description="SHA-256 of what is sealed, as it is stored.")
    sealed_bytes: Annotated[int, Field(gt=SEALING_BYTES)] = Field(description="Its size, bytes.")
    sealed_at: datetime = Field(description="When it was sealed, by the edge's clock, UTC. Nothing depends on it.")

    def as_bytes(self) -> bytes:
        """Return the waybill as it is signed."""
        return self.model_dump_json().encode()


class Receipt(_Message):
    """The core's answer to a parcel; the edge closes the shipment on it."""

    schema_version: Literal[1] = Field(SCHEMA_VERSION, description="Version of this schema.")
    parcel_id: ParcelId = Field(description="The parcel.")
    accepted: bool = Field(description="Whether the core keeps it.")
    reason: Code = Field(description="received, or why it was refused; a code of docs/core.md.")
    sealed_sha256: Sha256 | None = Field(description="By the waybill that it answers; none when that is unreadable.")
    at: datetime = Field(description="When the core decided, by its clock, UTC. Nothing depends on it.")

    def as_bytes(self) -> bytes:
        """Return the receipt as it is signed."""
        return self.model_dump_json().encode()


def context(edge_id: str, parcel_id: str) -> bytes:
    """Return what a parcel is sealed in: it opens under no other name."""
    return f"edgerad parcel {SCHEMA_VERSION}\n{edge_id}/{parcel_id}".encode()


def packed(manifest: bytes, data: bytes) -> bytes:
    """Return manifest and object as one content to seal: the manifest's length (4 bytes, big-endian) goes before."""
    return len(manifest).to_bytes(_LENGTH_BYTES, "big") + manifest + data


def unpacked(content: bytes) -> tuple[bytes, bytes]:
    """Return manifest and object; ValueError when it is not packed so."""
    end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "big")
    if len(content) < end or end > MAX_MANIFEST_BYTES:
        msg = "not a manifest and an object"
        raise ValueError(msg)
    return content[_LENGTH_BYTES:end], content[end:]


def edge_prefix(edge_id: str) -> str:
    """Return the prefix that an edge writes its parcels under."""
    return f"{INBOX}{edge_id}/"


def sealed_key(edge_id: str, parcel_id: str) -> str:
    """Return the key of a sealed parcel."""
    return f"{edge_prefix(edge_id)}{parcel_id}/{SEALED_FILE}"


def waybill_key(edge_id: str, parcel_id: str) -> str:
    """Return the key of a parcel's waybill, to be written after the parcel."""
    return f"{edge_prefix(edge_id)}{parcel_id}/{WAYBILL_FILE}"


def receipt_key(edge_id: str, parcel_id: str) -> str:
    """Return the key of the core's receipt for a parcel."""
    return f"{RECEIPTS}{edge_id}/{parcel_id}.json"
