"""Store-and-forward: sealed parcels to the core, receipts back; each step can be repeated after a crash.

Clocks only say how long to wait; receipts and signatures hold whatever they say, and a clock that was set right after
it was wrong leaves nothing waiting for a time that is far away.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import ValidationError
from sqlalchemy import select

from edgerad import clock, envelope, ledger
from edgerad.parcels import (
    MAX_MANIFEST_BYTES,
    RECEIPT,
    SEALED_FILE,
    WAYBILL,
    WAYBILL_FILE,
    Receipt,
    Waybill,
    edge_prefix,
    receipt_key,
    sealed_key,
    waybill_key,
)
from edgerad.records import DeidRecord, Shipment, now
from edgerad.store import ClockSkewed, ObjectGone, ObjectTooLarge, StoreDenied, StoreError, StoreUnavailable
from edgerad.telemetry import get_logger
from edgerad.upload import abort_uploads, put_resumed
from ship.pace import Pace, Window

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from edgerad.database import Database
    from edgerad.sections import ShipSettings
    from edgerad.store import ObjectStore

BATCH = 100
CHUNK = 2**20
LONGEST_HOLD = timedelta(days=1)
KEY_UNKNOWN = "core-key-unknown"
"""The core opens nothing with that key any more: the image is sealed anew once the settings name another."""
ON_THE_WAY = frozenset({"object-missing", "size-mismatch", "digest-mismatch"})
"""Refusals that blame the line: the same parcel is sent again."""
HELD = frozenset({"edge-unknown", "signature-invalid", "waybill-invalid", "finding-unknown", KEY_UNKNOWN})
"""Refusals that settings at the core will end: the same parcel is sent again, later and later."""


class NotVerified(Exception):
    """Something was about to leave without proof that it is clean; `again` when sealing it anew puts that right."""

    def __init__(self, reason: str, again: bool) -> None:
        super().__init__(f"{reason}: it is not sent")
        self.reason, self.again = reason, again


class Closed(Exception):
    """The time window for uploads has ended."""


@dataclass(frozen=True)
class Keys:
    """Raw public keys: the edge's own, those of the core whose receipts are believed, the id of what it seals to."""

    own: bytes
    core: tuple[bytes, ...]
    sealing: str


class Forwarder:
    """Moves parcels from the outbox to the core and closes shipments by receipt."""

    def __init__(
        self,
        database: Database,
        outbox: ObjectStore,
        core: ObjectStore,
        settings: ShipSettings,
        keys: Keys,
        clock: Callable[[], datetime] = now,
    ) -> None:
        """Keep the two stores; nothing is contacted."""
        self._database, self._outbox, self._core, self._settings, self._keys = database, outbox, core, settings, keys
        self._clock, self._window, self._pace = clock, Window.parse(settings.window), Pace(settings.bytes_per_second)
        self._edge = settings.edge_id
        self._tidy = False
        self._log = get_logger("shipper")
        self.trouble: str | None = None
        """Why nothing goes out at the moment, in a word; None when nothing hinders."""

    def send(self, at: datetime) -> int:
        """Send the sealed parcels that are due; return how many arrived. Stops when the core does not answer."""
        if not self._is_open():
            self.trouble = "outside the time window"
            return 0
        with self._database.read() as session:
            query = select(Shipment).where(Shipment.state == "sealed", due(at))
            ready = list(session.scalars(query.order_by(Shipment.queued_at).limit(BATCH)))
        sent = 0
        for shipment in ready:
            try:
                self._abort_strays()
                self._send_one(shipment)
            except NotVerified as finding:
                self._set_aside(shipment, finding, at)
                continue
            except Closed:
                self.trouble = "outside the time window"
                break
            except StoreError as error:
                self.trouble = type(error).__name__
                self._log.warning("the core takes nothing", error=error)
                if not isinstance(error, ClockSkewed):  # with a wrong clock nothing is put off by that clock
                    self._postpone(shipment, at)
                break
            self.trouble = None
            self._mark(shipment, at, state="sent", reason=None, sent_at=at, attempts=0, next_attempt_at=None)
            sent += 1
        return sent

    def _send_one(self, shipment: Shipment) -> None:
        """Upload what is sealed, then its waybill, which commits. Raises StoreError, NotVerified, Closed."""
        parcel = shipment.parcel_id or ""
        self._must_be_verified(shipment)
        signed, etag, size = self._must_be_whole(shipment)
        if self._has(waybill_key(self._edge, parcel), signed):
            return  # the answer to it was lost on the line, or the core has not looked yet
        key, part = sealed_key(self._edge, parcel), self._settings.part_bytes
        self._pace.attach(self._core)
        if size > part:
            put_resumed(
                self._core,
                key,
                lambda first, count: self._outbox.get_range(f"{parcel}/{SEALED_FILE}", first, count, etag),
                size,
                part,
                body=self._pace.body,
                before_part=self._must_be_open,
            )
        else:
            self._core.put(key, self._pace.body(self._outbox.get(f"{parcel}/{SEALED_FILE}", etag=etag)))
        self._core.put(waybill_key(self._edge, parcel), signed, "application/json")

    def _must_be_verified(self, shipment: Shipment) -> None:
        with self._database.read() as session:
            record = session.get(DeidRecord, shipment.deid_record_id) if shipment.deid_record_id else None
        if record is None or not record.verified or record.output_digest != shipment.parcel_digest:
            raise NotVerified("not-verified", again=False)

    def _must_be_whole(self, shipment: Shipment) -> tuple[bytes, str, int]:
        """Return the signed waybill, and ETag and size of what is sealed, proven to be what was recorded as verified.

        What is read afterwards by that ETag is what was hashed here.
        """
        parcel = shipment.parcel_id or ""
        try:
            signed = self._outbox.get(f"{parcel}/{WAYBILL_FILE}", limit_bytes=MAX_MANIFEST_BYTES)
            waybill = Waybill.model_validate_json(envelope.verified(WAYBILL, signed, [self._keys.own]))
            head, digest = self._outbox.head(f"{parcel}/{SEALED_FILE}"), hashlib.sha256()
            for first in range(0, head.size, CHUNK):
                count = min(CHUNK, head.size - first)
                digest.update(self._outbox.get_range(f"{parcel}/{SEALED_FILE}", first, count, head.etag))
        except (ObjectGone, ObjectTooLarge, envelope.NotSigned, ValidationError):
            raise NotVerified("outbox-changed", again=True) from None
        told = (waybill.edge_id, waybill.parcel_id, waybill.sealed_sha256, waybill.sealed_bytes)
        if told != (self._edge, parcel, digest.hexdigest(), head.size) or told[2] != shipment.sealed_digest:
            raise NotVerified("outbox-changed", again=True)
        return signed, head.etag, head.size

    def _has(self, key: str, content: bytes) -> bool:
        try:
            return self._core.get(key, limit_bytes=MAX_MANIFEST_BYTES) == content
        except (ObjectGone, ObjectTooLarge):
            return False

    def _set_aside(self, shipment: Shipment, finding: NotVerified, at: datetime) -> None:
        """Keep a parcel that is not what was verified: sealed anew from the image, or for a person to look at."""
        self._log.error("a parcel was not sent", shipment_id=shipment.shipment_id, reason=finding.reason)
        if finding.again:
            self._seal_again(shipment, at, finding.reason)
        else:
            self._mark(shipment, at, state="quarantined", reason=finding.reason, closed_at=at)

    def _seal_again(self, shipment: Shipment, at: datetime, reason: str, **values: object) -> None:
        attempts = shipment.attempts + 1
        pause = retry_after(attempts, self._settings)
        self._mark(shipment, at, state="queued", reason=reason, attempts=attempts, next_attempt_at=at + pause, **values)

    def collect(self, at: datetime) -> int:
        """Close the shipments that the core has answered; return how many."""
        with self._database.read() as session:
            query = select(Shipment).where(Shipment.state == "sent").order_by(Shipment.sent_at).limit(BATCH)
            waiting = list(session.scalars(query))
        closed = 0
        for shipment in waiting:
            try:
                receipt = self._receipt(shipment)
                if receipt is None:
                    self._send_again_if_late(shipment, at)
                    continue
            except StoreUnavailable as error:
                self.trouble = type(error).__name__
                break
            self._answer(shipment, receipt, at)
            closed += 1
        return closed

    def _receipt(self, shipment: Shipment) -> Receipt | None:
        """Return the core's answer to this very parcel, None when it has none yet; raises StoreUnavailable."""
        parcel = shipment.parcel_id or ""
        try:
            raw = self._core.get(receipt_key(self._edge, parcel), limit_bytes=MAX_MANIFEST_BYTES)
            receipt = Receipt.model_validate_json(envelope.verified(RECEIPT, raw, self._keys.core))
        except ObjectGone:
            return None
        except (ObjectTooLarge, envelope.NotSigned, ValidationError) as error:
            self._log.error("a receipt is not the core's", shipment_id=shipment.shipment_id, error=error)
            return None
        fitting = {shipment.sealed_digest} if receipt.accepted else {shipment.sealed_digest, None}
        if receipt.parcel_id != parcel or receipt.sealed_sha256 not in fitting:
            return None  # of another parcel, or of this one as it was sealed before
        # A refusal that was acted upon stays in the store until the core answers the next attempt.
        return None if receipt.model_dump(mode="json") == shipment.receipt else receipt

    def _answer(self, shipment: Shipment, receipt: Receipt, at: datetime) -> None:
        content, reason = receipt.model_dump(mode="json"), receipt.reason
        if receipt.accepted:
            self._mark(shipment, at, state="received", reason=reason, receipt=content, closed_at=at)
        elif reason == KEY_UNKNOWN and shipment.core_key != self._keys.sealing:
            self._seal_again(shipment, at, reason, receipt=content)
            return
        elif reason in ON_THE_WAY | HELD:
            refusals = shipment.refusals + 1
            pause = retry_after(refusals, self._settings)
            if reason in HELD:
                pause = min(timedelta(seconds=self._settings.retry_max) * 2.0 ** min(refusals - 1, 10), LONGEST_HOLD)
            again = {"receipt": content, "refusals": refusals, "next_attempt_at": at + pause}
            self._mark(shipment, at, state="sealed", reason=reason, **again)
            return
        else:
            self._log.error("the core refused a parcel", shipment_id=shipment.shipment_id, reason=reason)
            self._mark(shipment, at, state="refused", reason=reason, receipt=content, closed_at=at)
        self._forget(shipment.parcel_id or "")

    def _send_again_if_late(self, shipment: Shipment, at: datetime) -> None:
        """Send once more what is neither answered nor in the inbox any more; the core knows a parcel by its id."""
        late = timedelta(seconds=self._settings.retry_max)
        if shipment.sent_at is None or abs(at - shipment.sent_at) <= late:
            return
        if self._core.exists(waybill_key(self._edge, shipment.parcel_id or "")):
            self._mark(shipment, at, sent_at=at)  # the core has not come to it: once more would be no faster
        else:
            self._mark(shipment, at, state="sealed", next_attempt_at=None)

    def _abort_strays(self) -> None:
        """Once a start: abort the uploads of this edge that nobody will go on with."""
        if self._tidy:
            return
        with self._database.read() as session:
            query = select(Shipment.parcel_id).where(Shipment.state == "sealed")
            keep = {sealed_key(self._edge, parcel) for parcel in session.scalars(query) if parcel}
        try:
            if aborted := abort_uploads(self._core, edge_prefix(self._edge), keep.__contains__):
                self._log.info("stale uploads aborted", count=aborted)
        except ClockSkewed:
            raise
        except StoreDenied as error:  # the right to list uploads is good to have; a small parcel goes without
            self._log.warning("stale uploads cannot be listed at the core", error=error)
        self._tidy = True

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
                _audit(session, self._edge, row, at)

    def _forget(self, parcel: str) -> None:
        """Remove the local copy of a closed parcel; one that stays behind for a dead store harms nobody."""
        try:
            self._outbox.delete(f"{parcel}/{SEALED_FILE}")
            self._outbox.delete(f"{parcel}/{WAYBILL_FILE}")
        except StoreUnavailable:
            return

    def _is_open(self) -> bool:
        return self._window.is_open(self._clock().astimezone().time())

    def _must_be_open(self) -> None:
        if not self._is_open():
            raise Closed


def retry_after(attempts: int, settings: ShipSettings, jitter: float | None = None) -> timedelta:
    """Return the pause after failure number `attempts`: doubling, capped, between a half and the whole of it."""
    pause = min(settings.retry_initial * 2.0 ** min(attempts - 1, 30), settings.retry_max)
    factor = random.uniform(0.5, 1.0) if jitter is None else jitter  # noqa: S311 - spreads load, guards nothing
    return timedelta(seconds=pause * factor)


def due(at: datetime) -> ColumnElement[bool]:
    """Return the condition that a shipment's pause is over, or was stored by a clock that was ahead."""
    return clock.due(Shipment.next_attempt_at, at, 2 * LONGEST_HOLD)


def _audit(session: Session, edge_id: str, shipment: Shipment, at: datetime) -> None:
    detail = {
        "parcel_id": shipment.parcel_id,
        "digest": shipment.parcel_digest,
        "sealed": shipment.sealed_digest,
        "reason": shipment.reason,
        "at": at.isoformat(),
    }
    ledger.audit(session, f"edge:{edge_id}", f"shipment-{shipment.state}", shipment.shipment_id, detail)
