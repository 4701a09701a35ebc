"""Takes parcels from the core's inbox: checked, copied, recorded, receipted, removed; each step may be its last.

Whatever step a crash comes between, the next run ends in the same state: the case's id follows from the parcel's, its
object is written before its row, its row before its receipt, and the waybill, which announces the parcel, goes last.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from edgerad import envelope, ids, keyring, ledger
from edgerad.database import insert
from edgerad.parcels import (
    INBOX,
    MAX_MANIFEST_BYTES,
    RECEIPT,
    WAYBILL,
    WAYBILL_FILE,
    ParcelManifest,
    Receipt,
    Waybill,
    context,
    receipt_key,
    sealed_key,
    unpacked,
    waybill_key,
)
from edgerad.records import Audit, CoreCase, DeadLetter, now
from edgerad.store import ObjectGone, ObjectStore, ObjectTooLarge, StoreUnavailable
from edgerad.telemetry import get_logger
from imaging.limits import Limits
from imaging.refusal import Unreadable
from serve.decode import decode
from train import clean

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from sqlalchemy.orm import Session

    from edgerad.database import Database
    from edgerad.settings import Settings

CASES = "cases/"
EVALUATION_SHARE = 0.2
"""Share of the patients whose cases are never trained on. Fixed for ever: another share would move patients."""
ACTOR = "core"
REFUSED = "parcel-refused"
SOURCE = "parcel"
"""Source of the dead letters that refused parcels leave."""
_PARCEL = re.compile(r"([a-z0-9][a-z0-9-]{0,31})/([0-9a-f]{32,64})/(sealed|waybill\.json)")
_EXTENSIONS = {"application/dicom": "dcm", "image/png": "png"}


@dataclass(frozen=True)
class Desk:
    """Who takes parcels in: the finding, the edges' public keys, the keys that open and the one that signs."""

    finding: str
    edges: Mapping[str, tuple[bytes, ...]]
    opening: Mapping[str, X25519PrivateKey]
    signing: Ed25519PrivateKey
    limits: Limits = field(default_factory=Limits)


def desk_of(settings: Settings) -> Desk:
    """Return the desk of these settings; SettingsError names a key that is wrong."""
    signing = keyring.load_signing_key(keyring.core_keys(settings)[0], "core.signing_key")
    return Desk(settings.finding, keyring.edge_public_keys(settings), keyring.opening_keys(settings), signing)


class Refusal(Exception):
    """The parcel is not taken; `reason` is a code of docs/core.md, `digest` what its waybill says is sealed."""

    def __init__(self, reason: str, digest: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.digest = reason, digest


@dataclass(slots=True)
class Taken:
    """What a look at the inbox found: parcels accepted, refused, seen before; keys that are no parcel's; failures."""

    accepted: int = 0
    refused: int = 0
    repeated: int = 0
    strays: int = 0
    stuck: int = 0


def take_in(store: ObjectStore, database: Database, desk: Desk) -> Taken:
    """Take every whole parcel of the inbox once. Raises StoreUnavailable or SQLAlchemyError: try again later.

    A parcel that makes this code fail is left, counted as stuck, and keeps no other from being taken.
    """
    taken = Taken()
    log = get_logger("core")
    for edge_id, parcel_id in _parcels(store, taken):
        try:
            outcome = take(store, database, desk, edge_id, parcel_id)
        except (StoreUnavailable, SQLAlchemyError):
            raise
        except ObjectGone:  # its waybill went between the listing and now: somebody else took it
            continue
        except Exception as error:  # noqa: BLE001 - one parcel must not stop the others; logged by type, tried again
            log.error("parcel could not be taken", parcel_id=parcel_id, edge_id=edge_id, error=error)
            outcome = "stuck"
        setattr(taken, outcome, getattr(taken, outcome) + 1)
    return taken


def _parcels(store: ObjectStore, taken: Taken) -> Iterator[tuple[str, str]]:
    for item in store.list(INBOX):
        match = _PARCEL.fullmatch(item.key.removeprefix(INBOX))
        if match is None:
            taken.strays += 1
        elif match[3] == WAYBILL_FILE:
            yield match[1], match[2]


def take(store: ObjectStore, database: Database, desk: Desk, edge_id: str, parcel_id: str) -> str:
    """Take one parcel and return accepted, refused or repeated."""
    case_id, outcome = case_id_of(edge_id, parcel_id), "accepted"
    try:
        waybill = _waybill(store, desk, edge_id, parcel_id)
        with database.read() as session:
            held = session.get(CoreCase, case_id)
        if held is None:
            manifest, data = _opened(store, desk, waybill)
            key = f"{CASES}{case_id}/object.{_EXTENSIONS[manifest.media_type]}"
            store.put(key, data, content_type=manifest.media_type)
            with database.write() as session:
                _insert(session, case_id, key, manifest, now())
        else:  # sent again, or replayed, or a crash came before the end: the case stays what it was
            outcome = "repeated"
    except Refusal as refusal:
        if refusal.reason == "object-missing" and _has_receipt(store, desk, edge_id, parcel_id, refusal):
            store.delete(waybill_key(edge_id, parcel_id))  # answered before, and a crash came before the end
            return "repeated"
        _note_refusal(database, edge_id, parcel_id, refusal.reason)
        _close(store, desk, edge_id, parcel_id, accepted=False, reason=refusal.reason, digest=refusal.digest)
        return "refused"
    _close(store, desk, edge_id, parcel_id, accepted=True, reason="received", digest=waybill.sealed_sha256)
    return outcome


def _has_receipt(store: ObjectStore, desk: Desk, edge_id: str, parcel_id: str, refusal: Refusal) -> bool:
    try:
        raw = store.get(receipt_key(edge_id, parcel_id), limit_bytes=MAX_MANIFEST_BYTES)
        payload = envelope.verified(RECEIPT, raw, [desk.signing.public_key().public_bytes_raw()])
        return Receipt.model_validate_json(payload).sealed_sha256 == refusal.digest
    except (ObjectGone, ObjectTooLarge, envelope.NotSigned, ValidationError):
        return False


def case_id_of(edge_id: str, parcel_id: str) -> str:
    """Return the id of the case that a parcel becomes."""
    return ids.digest("case", edge_id, parcel_id)


def split_of(edge_id: str, patient: str) -> str:
    """Return train or evaluation, by the patient's pseudonym alone: all cases of a patient, for ever."""
    return "evaluation" if ids.share(f"{edge_id}/{patient}", "split") < EVALUATION_SHARE else "train"


def refusals(database: Database) -> dict[str, int]:
    """Return how many parcels were refused so far, by reason."""
    with database.read() as session:
        reason = Audit.detail["reason"].as_string()
        query = select(reason, func.count()).where(Audit.action == REFUSED).group_by(reason)
        return {str(name): number for name, number in session.execute(query)}


def _waybill(store: ObjectStore, desk: Desk, edge_id: str, parcel_id: str) -> Waybill:
    """Return the waybill that a known edge has signed for this very parcel."""
    if edge_id not in desk.edges:
        raise Refusal("edge-unknown")
    try:
        raw = store.get(waybill_key(edge_id, parcel_id), limit_bytes=MAX_MANIFEST_BYTES)
        payload = envelope.verified(WAYBILL, raw, desk.edges[edge_id])
        waybill = Waybill.model_validate_json(payload)
    except envelope.NotSigned:
        raise Refusal("signature-invalid") from None
    except (ObjectTooLarge, ValidationError):
        raise Refusal("waybill-invalid") from None
    if (waybill.edge_id, waybill.parcel_id) != (edge_id, parcel_id):
        raise Refusal("waybill-mismatch", waybill.sealed_sha256)
    return waybill


def _opened(store: ObjectStore, desk: Desk, waybill: Waybill) -> tuple[ParcelManifest, bytes]:
    """Return what lies in a parcel, checked; nothing of it is kept when it is refused."""
    try:
        manifest, data = _unsealed(store, desk, waybill)
        _check(desk, waybill, manifest, data)
    except Refusal as refusal:
        raise Refusal(refusal.reason, waybill.sealed_sha256) from None
    return manifest, data


def _unsealed(store: ObjectStore, desk: Desk, waybill: Waybill) -> tuple[ParcelManifest, bytes]:
    edge_id, parcel_id = waybill.edge_id, waybill.parcel_id
    if waybill.sealed_bytes > desk.limits.max_bytes + MAX_MANIFEST_BYTES:
        raise Refusal("too-large")
    if waybill.core_key not in desk.opening:
        raise Refusal("core-key-unknown")
    try:
        sealed = store.get(sealed_key(edge_id, parcel_id), limit_bytes=waybill.sealed_bytes)
    except ObjectGone:
        raise Refusal("object-missing") from None
    except ObjectTooLarge:
        raise Refusal("size-mismatch") from None
    if len(sealed) != waybill.sealed_bytes:
        raise Refusal("size-mismatch")
    if hashlib.sha256(sealed).hexdigest() != waybill.sealed_sha256:
        raise Refusal("digest-mismatch")
    try:
        content = envelope.unseal(sealed, desk.opening[waybill.core_key], context(edge_id, parcel_id))
        manifest, data = unpacked(content)
        return ParcelManifest.model_validate_json(manifest), data
    except envelope.NotSealed:
        raise Refusal("unsealing-failed") from None
    except ValueError:  # pydantic's errors are ValueErrors
        raise Refusal("manifest-invalid") from None


def _check(desk: Desk, waybill: Waybill, manifest: ParcelManifest, data: bytes) -> None:
    if (manifest.edge_id, manifest.parcel_id) != (waybill.edge_id, waybill.parcel_id):
        raise Refusal("manifest-mismatch")
    if manifest.finding != desk.finding:
        raise Refusal("finding-unknown")
    if len(data) > desk.limits.max_bytes:
        raise Refusal("too-large")
    if (len(data), hashlib.sha256(data).hexdigest()) != (manifest.object_bytes, manifest.object_sha256):
        raise Refusal("object-mismatch")
    try:
        clean.check(data, manifest.media_type, manifest.patient)
        decode(data, desk.limits)
    except clean.Unclean as finding:
        raise Refusal(finding.reason) from None
    except Unreadable:
        raise Refusal("undecodable") from None


def _insert(session: Session, case_id: str, key: str, manifest: ParcelManifest, at: Any) -> None:
    row = {
        "case_id": case_id,
        "edge_id": manifest.edge_id,
        "object_key": key,
        "object_digest": manifest.object_sha256,
        "media_type": manifest.media_type,
        "patient": manifest.patient,
        "finding": manifest.finding,
        "probability": manifest.probability,
        "triage": manifest.triage,
        "model_digest": manifest.model_digest,
        "why": manifest.why,
        "split": split_of(manifest.edge_id, manifest.patient),
        "manifest": manifest.model_dump(mode="json"),
        "received_at": at,
    }
    new = insert(session, CoreCase).values(row).on_conflict_do_nothing().returning(CoreCase.case_id)
    if session.execute(new).first():
        detail = {"edge_id": manifest.edge_id, "parcel_id": manifest.parcel_id, "split": row["split"]}
        ledger.audit(session, ACTOR, "case-received", case_id, detail)
    letters = select(DeadLetter).where(
        DeadLetter.source == SOURCE, DeadLetter.position == _position(manifest.edge_id, manifest.parcel_id)
    )
    for letter in session.scalars(letters):  # what hindered it has been put right
        letter.replayed_at = letter.replayed_at or at


def _position(edge_id: str, parcel_id: str) -> str:
    return f"{edge_id}/{parcel_id}"


def _note_refusal(database: Database, edge_id: str, parcel_id: str, reason: str) -> None:
    """Write a refusal into the audit and a dead letter, once for each reason; nothing of the parcel itself is kept."""
    get_logger("core").error("parcel refused", parcel_id=parcel_id, edge_id=edge_id, reason=reason)
    detail = {"edge_id": edge_id, "reason": reason}
    with database.write() as session:
        known = session.scalars(select(Audit).where(Audit.action == REFUSED, Audit.subject == parcel_id))
        if all(row.detail != detail for row in known):  # a repeat after a crash is the same refusal
            ledger.audit(session, ACTOR, REFUSED, parcel_id, detail)
        letter = ledger.Letter(SOURCE, _position(edge_id, parcel_id), "")
        ledger.write_dead_letter(session, letter, reason, f"parcel {parcel_id} of edge {edge_id}, docs/core.md")


def _close(
    store: ObjectStore, desk: Desk, edge_id: str, parcel_id: str, *, accepted: bool, reason: str, digest: str | None
) -> None:
    """Write the receipt, then remove the parcel: the waybill last, which makes a crash before it a repeat."""
    receipt = Receipt(
        schema_version=1, parcel_id=parcel_id, accepted=accepted, reason=reason, sealed_sha256=digest, at=now()
    )
    signed = envelope.sign(RECEIPT, receipt.as_bytes(), desk.signing)
    store.put(receipt_key(edge_id, parcel_id), signed, content_type="application/json")
    store.delete(sealed_key(edge_id, parcel_id))
    store.delete(waybill_key(edge_id, parcel_id))
