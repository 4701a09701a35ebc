"""Takes parcels from the core's inbox: checked, copied, recorded, receipted, removed; each step may be its last.

Whatever step a crash comes between, the next run ends in the same state: the case's id follows from the parcel's, its
object is written before its row, its row before its receipt, and the manifest, which announces the parcel, goes last.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from edgerad import ids, ledger
from edgerad.database import insert_new
from edgerad.parcels import INBOX, MANIFEST_FILE, MAX_MANIFEST_BYTES, ParcelManifest, Receipt, manifest_key, receipt_key
from edgerad.parcels import object_key as parcel_object_key
from edgerad.records import Audit, CoreCase, now
from edgerad.store import ObjectGone, ObjectStore, ObjectTooLarge, StoreUnavailable
from edgerad.telemetry import get_logger
from serve.decode import Limits, decode
from serve.reasons import Unreadable
from train import clean

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgerad.database import Database

CASES = "cases/"
EVALUATION_SHARE = 0.2
"""Share of the patients whose cases are never trained on. Fixed for ever: another share would move patients."""
ACTOR = "core"
REFUSED = "parcel-refused"
_PARCEL = re.compile(r"([a-z0-9][a-z0-9-]{0,31})/([0-9a-f]{32,64})/(object|manifest\.json)")
_EXTENSIONS = {"application/dicom": "dcm", "image/png": "png"}


class Refusal(Exception):
    """The parcel is not taken; `reason` is a code of docs/core.md."""

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


def take_in(store: ObjectStore, database: Database, finding: str, limits: Limits | None = None) -> Taken:
    """Take every whole parcel of the inbox once. Raises StoreUnavailable or SQLAlchemyError: try again later.

    A parcel that makes this code fail is left, counted as stuck, and keeps no other from being taken.
    """
    taken = Taken()
    log = get_logger("core")
    for edge_id, parcel_id in _parcels(store, taken):
        try:
            outcome = take(store, database, finding, edge_id, parcel_id, limits or Limits())
        except (StoreUnavailable, SQLAlchemyError):
            raise
        except ObjectGone:  # its manifest went between the listing and now: somebody else took it
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
        elif match[3] == MANIFEST_FILE:
            yield match[1], match[2]


def take(store: ObjectStore, database: Database, finding: str, edge_id: str, parcel_id: str, limits: Limits) -> str:
    """Take one parcel and return accepted, refused or repeated."""
    case_id = case_id_of(edge_id, parcel_id)
    with database.read() as session:
        held = session.get(CoreCase, case_id)
    if held is not None:  # sent again, or a crash came before the end
        receipt = Receipt(
            parcel_id=parcel_id, accepted=True, reason="received", object_sha256=held.object_digest, at=held.received_at
        )
        _close(store, edge_id, receipt)
        return "repeated"
    try:
        manifest = _manifest(store, finding, edge_id, parcel_id)
        data = _object(store, manifest, limits)
    except Refusal as refusal:
        if refusal.reason == "object-missing" and store.exists(receipt_key(edge_id, parcel_id)):
            store.delete(manifest_key(edge_id, parcel_id))  # refused before, and a crash came before the end
            return "repeated"
        _note_refusal(database, edge_id, parcel_id, refusal.reason)
        receipt = Receipt(
            parcel_id=parcel_id, accepted=False, reason=refusal.reason, object_sha256=refusal.digest, at=now()
        )
        _close(store, edge_id, receipt)
        return "refused"
    key = f"{CASES}{case_id}/object.{_EXTENSIONS[manifest.media_type]}"
    store.put(key, data, content_type=manifest.media_type)
    at = now()
    with database.write() as session:
        _insert(session, case_id, key, manifest, at)
    receipt = Receipt(
        parcel_id=parcel_id, accepted=True, reason="received", object_sha256=manifest.object_sha256, at=at
    )
    _close(store, edge_id, receipt)
    return "accepted"


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


def _manifest(store: ObjectStore, finding: str, edge_id: str, parcel_id: str) -> ParcelManifest:
    try:
        raw = store.get(manifest_key(edge_id, parcel_id), limit_bytes=MAX_MANIFEST_BYTES)
        manifest = ParcelManifest.model_validate_json(raw)
    except (ObjectTooLarge, ValidationError):
        raise Refusal("manifest-invalid") from None
    if (manifest.edge_id, manifest.parcel_id) != (edge_id, parcel_id):
        raise Refusal("manifest-mismatch")
    if manifest.finding != finding:
        raise Refusal("finding-unknown")
    return manifest


def _object(store: ObjectStore, manifest: ParcelManifest, limits: Limits) -> bytes:
    if manifest.object_bytes > limits.max_bytes:
        raise Refusal("too-large")
    try:
        data = store.get(parcel_object_key(manifest.edge_id, manifest.parcel_id), limit_bytes=manifest.object_bytes)
    except ObjectGone:
        raise Refusal("object-missing") from None
    except ObjectTooLarge:
        raise Refusal("size-mismatch") from None
    digest = hashlib.sha256(data).hexdigest()
    if len(data) != manifest.object_bytes:
        raise Refusal("size-mismatch", digest)
    if digest != manifest.object_sha256:
        raise Refusal("digest-mismatch", digest)
    try:
        clean.check(data, manifest.media_type, manifest.patient)
        decode(data, limits)
    except clean.Unclean as finding:
        raise Refusal(finding.reason, digest) from None
    except Unreadable:
        raise Refusal("undecodable", digest) from None
    return data


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
    if insert_new(session, CoreCase, [row], "case_id"):
        detail = {"edge_id": manifest.edge_id, "parcel_id": manifest.parcel_id, "split": row["split"]}
        ledger.audit(session, ACTOR, "case-received", case_id, detail)


def _note_refusal(database: Database, edge_id: str, parcel_id: str, reason: str) -> None:
    detail = {"edge_id": edge_id, "reason": reason}
    with database.write() as session:
        known = session.scalars(select(Audit).where(Audit.action == REFUSED, Audit.subject == parcel_id))
        if all(row.detail != detail for row in known):  # a repeat after a crash is the same refusal
            ledger.audit(session, ACTOR, REFUSED, parcel_id, detail)


def _close(store: ObjectStore, edge_id: str, receipt: Receipt) -> None:
    """Write the receipt, then remove the parcel: the manifest last, which makes a crash before it a repeat."""
    store.put(receipt_key(edge_id, receipt.parcel_id), receipt.as_bytes(), content_type="application/json")
    store.delete(parcel_object_key(edge_id, receipt.parcel_id))
    store.delete(manifest_key(edge_id, receipt.parcel_id))
