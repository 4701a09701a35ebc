"""Store-and-forward: sealed parcels to the core, receipts back; each step can be repeated after a crash."""

from __future__ import annotations

import hashlib
import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import ValidationError
from sqlalchemy import or_, select

from edgerad import ledger
from edgerad.parcels import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    OBJECT_FILE,
    ParcelManifest,
    Receipt,
    manifest_key,
    object_key,
    receipt_key,
)
from edgerad.records import DeidRecord, Shipment
from edgerad.store import ObjectGone, ObjectTooLarge, StoreUnavailable

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from edgerad.database import Database
    from edgerad.sections import ShipSettings
    from edgerad.store import ObjectStore

BATCH = 100


class Forwarder:
    """Moves parcels from the outbox to the core and closes shipments by receipt."""

    def __init__(self, database: Database, outbox: ObjectStore, core: ObjectStore, settings: ShipSettings) -> None:
        """Keep the two stores; nothing is contacted."""
        self._database, self._outbox, self._core, self._settings = database, outbox, core, settings

    def send(self, at: datetime) -> int:
        """Send the sealed parcels that are due; return how many arrived. Stops when the core does not answer."""
        with self._database.read() as session:
            query = select(Shipment).where(Shipment.state == "sealed", _due(at))
            due = list(session.scalars(query.order_by(Shipment.queued_at).limit(BATCH)))
        sent = 0
        for shipment in due:
            try:
                self._send_one(shipment)
            except StoreUnavailable:
                self._postpone(shipment, at)
                break
            self._mark(shipment, at, state="sent", sent_at=at, attempts=0, next_attempt_at=None)
            sent += 1
        return sent

    def _send_one(self, shipment: Shipment) -> None:
        """Copy object, then manifest, which commits. Raises StoreUnavailable; a parcel that is not right stays here."""
        parcel = shipment.parcel_id or ""
        self._must_be_verified(shipment)
        data = self._outbox.get(f"{parcel}/{OBJECT_FILE}")
        manifest = ParcelManifest.model_validate_json(self._outbox.get(f"{parcel}/{MANIFEST_FILE}"))
        if (
            hashlib.sha256(data).hexdigest() != manifest.object_sha256
            or manifest.object_sha256 != shipment.parcel_digest
        ):
            msg = "a sealed parcel is not what was verified; it is not sent"
            raise NotVerified(msg)
        edge = self._settings.edge_id
        self._core.put(object_key(edge, parcel), data, manifest.media_type)
        self._core.put(manifest_key(edge, parcel), manifest.as_bytes(), "application/json")

    def _must_be_verified(self, shipment: Shipment) -> None:
        with self._database.read() as session:
            record = session.get(DeidRecord, shipment.deid_record_id) if shipment.deid_record_id else None
        if record is None or not record.verified or record.output_digest != shipment.parcel_digest:
            msg = "no de-identification record says that this parcel was verified; it is not sent"
            raise NotVerified(msg)

    def collect(self, at: datetime) -> int:
        """Close the shipments that the core has answered; return how many."""
        with self._database.read() as session:
            query = select(Shipment).where(Shipment.state == "sent").order_by(Shipment.sent_at).limit(BATCH)
            waiting = list(session.scalars(query))
        closed = 0
        for shipment in waiting:
            parcel = shipment.parcel_id or ""
            try:
                data = self._core.get(receipt_key(self._settings.edge_id, parcel), limit_bytes=MAX_MANIFEST_BYTES)
                receipt = Receipt.model_validate_json(data)
            except ObjectGone:
                self._send_again_if_late(shipment, at)
                continue
            except (ObjectTooLarge, ValidationError):
                continue  # garbage in the receipt's place: the shipment stays open, and visible
            except StoreUnavailable:
                break
            if receipt.parcel_id != parcel or receipt.object_sha256 not in {shipment.parcel_digest, None}:
                continue
            state = "received" if receipt.accepted else "refused"
            content = receipt.model_dump(mode="json")
            self._mark(shipment, at, state=state, reason=receipt.reason, receipt=content, closed_at=at)
            self._forget(parcel)
            closed += 1
        return closed

    def _send_again_if_late(self, shipment: Shipment, at: datetime) -> None:
        """Send once more what the core has not answered for long: its intake knows a parcel by its id."""
        late = timedelta(seconds=self._settings.retry_max)
        if shipment.sent_at is not None and at - shipment.sent_at > late:
            self._mark(shipment, at, state="sealed", next_attempt_at=None)

    def _postpone(self, shipment: Shipment, at: datetime) -> None:
        attempts = shipment.attempts + 1
        self._mark(shipment, at, attempts=attempts, next_attempt_at=at + retry_after(attempts, self._settings))

    def _mark(self, shipment: Shipment, at: datetime, **values: object) -> None:
        with self._database.write() as session:
            row = session.get(Shipment, shipment.shipment_id)
            if row is None or row.state != shipment.state:
                return
            for name, value in values.items():
                setattr(row, name, value)
            if "state" in values:
                _audit(session, self._settings.edge_id, row, at)

    def _forget(self, parcel: str) -> None:
        """Remove the local copy of a closed parcel; one that stays behind for a dead store harms nobody."""
        try:
            self._outbox.delete(f"{parcel}/{OBJECT_FILE}")
            self._outbox.delete(f"{parcel}/{MANIFEST_FILE}")
        except StoreUnavailable:
            return


class NotVerified(Exception):
    """Something was about to leave without proof that it is clean."""


def retry_after(attempts: int, settings: ShipSettings, jitter: float | None = None) -> timedelta:
    """Return the pause after failure number `attempts`: doubling, capped, between a half and the whole of it."""
    pause = min(settings.retry_initial * 2.0 ** min(attempts - 1, 30), settings.retry_max)
    factor = random.uniform(0.5, 1.0) if jitter is None else jitter  # noqa: S311 - spreads load, guards nothing
    return timedelta(seconds=pause * factor)


def _due(at: datetime):  # type: ignore[no-untyped-def]
    return or_(Shipment.next_attempt_at.is_(None), Shipment.next_attempt_at <= at)


def _audit(session: Session, edge_id: str, shipment: Shipment, at: datetime) -> None:
    detail = {"parcel_id": shipment.parcel_id, "digest": shipment.parcel_digest, "at": at.isoformat()}
    ledger.audit(session, f"edge:{edge_id}", f"shipment-{shipment.state}", shipment.shipment_id, detail)
