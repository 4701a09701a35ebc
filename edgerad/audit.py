"""Verification of the audit's hash chain, and anchors that tie its end to something outside the database.

The chain alone finds a record that was changed, removed or reordered. Whoever may write to the database can also cut
its end off, or compute it anew from some record on; that is found by an anchor: position and hash of a record, under a
key (HMAC-SHA256) that the database does not hold. What came after the newest anchor is not covered.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from edgerad import keyring
from edgerad.database import Database
from edgerad.ledger import audit_hash
from edgerad.records import Audit, now
from edgerad.sections import Secret
from edgerad.telemetry import get_logger

ANCHORS = "audit-anchors.jsonl"
"""In `data_dir`, one anchor a line. Copy it to where whoever owns this machine cannot change it."""
KEY = "audit-key"
ANCHOR_EVERY = 900.0
"""Seconds between anchors while edgerad runs: what is removed from the end within them may go unseen."""


class Anchor(BaseModel):
    """The audit had `records` records, the last of them with `hash`; `mac` proves who wrote this down."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    records: int
    hash: str
    at: str
    mac: str

    def holds(self, key: bytes) -> bool:
        """Return whether it was made under that key and not changed since."""
        return hmac.compare_digest(self.mac, _mac(key, self.records, self.hash, self.at))


class AnchorsDamaged(Exception):
    """A line of the file of anchors is none, or was not written under this key; the text names the line."""


def anchor_key(data_dir: Path) -> bytes:
    """Return the key of the anchors, made on first use in `data_dir`/keys."""
    secret = keyring.ensure(Secret(), data_dir / "keys", KEY).reveal() or ""
    return hashlib.sha256(secret.encode()).digest()


def _mac(key: bytes, records: int, last: str, at: str) -> str:
    return hmac.digest(key, f"audit\0{records}\0{last}\0{at}".encode(), hashlib.sha256).hex()


def make_anchor(database: Database, key: bytes) -> Anchor:
    """Return an anchor of the audit as it is now, unverified."""
    with database.read() as session:
        newest = session.scalar(select(func.max(Audit.audit_id))) or 0
        records = session.scalar(select(func.count()).where(Audit.audit_id <= newest)) or 0
        last = session.scalar(select(Audit.hash).where(Audit.audit_id == newest)) or ""
    at = now().isoformat(timespec="seconds")
    return Anchor(records=records, hash=last, at=at, mac=_mac(key, records, last, at))


def append_anchor(path: Path, anchor: Anchor) -> None:
    """Write an anchor behind the others, durably; what a full disk left of one before goes."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(anchor.model_dump_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_anchors(path: Path, key: bytes) -> list[Anchor]:
    """Return the anchors of a file, none when there is no file; raises AnchorsDamaged.

    A last line without its end is what a full disk left of one: it counts as not written.
    """
    if not path.exists():
        return []
    anchors = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            anchor = Anchor.model_validate_json(line)
        except ValidationError:
            raise AnchorsDamaged(f"line {number} of {path.name} is no anchor") from None
        if not anchor.holds(key):
            raise AnchorsDamaged(f"line {number} of {path.name} was changed, or written under another key")
        anchors.append(anchor)
    return anchors


def verify(database: Database, anchors: Iterable[Anchor] = ()) -> tuple[int, str | None]:
    """Walk the chain; return the number of records that hold and what is wrong at the first that does not, or None."""
    expected = {anchor.records: anchor.hash for anchor in anchors if anchor.records}
    previous, good = "", 0
    with database.read() as session:
        for row in session.scalars(select(Audit).order_by(Audit.audit_id).execution_options(yield_per=1000)):
            if row.previous_hash != previous:
                return (
                    good,
                    f"record {row.audit_id} does not follow the one before it: a record was removed or reordered",
                )
            if row.hash != audit_hash(previous, row.at, row.actor, row.action, row.subject, row.detail):
                return good, f"record {row.audit_id} was changed after it was written"
            if expected.pop(good + 1, row.hash) != row.hash:
                return good, f"record {row.audit_id} is not the one that was anchored: the chain was written anew"
            previous, good = row.hash, good + 1
    if expected:
        return good, f"{max(expected)} records were anchored: the last {max(expected) - good} were removed"
    return good, None


class Anchorer:
    """Anchors the audit while edgerad runs: at once, then every `ANCHOR_EVERY` seconds, when it has grown."""

    def __init__(self, database: Database, data_dir: Path) -> None:
        """Keep where things are; nothing is read yet."""
        self._database, self._data_dir = database, data_dir
        self._due, self._log = 0.0, get_logger("audit")

    def step(self) -> bool:
        """Write an anchor if one is due, and return whether; a failure is logged, it is no reason to end."""
        if time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + ANCHOR_EVERY
        try:
            return self._anchored()
        except AnchorsDamaged as damage:
            self._log.error("the audit's anchors are damaged: run `edgerad audit verify`", error=damage)
        except (SQLAlchemyError, OSError) as error:
            self._log.warning("the audit was not anchored", error=error)
        return False

    def _anchored(self) -> bool:
        path, key = self._data_dir / ANCHORS, anchor_key(self._data_dir)
        known = max((anchor.records for anchor in read_anchors(path, key)), default=0)
        newest = make_anchor(self._database, key)
        if newest.records < known:
            self._log.error("the audit lost records: run `edgerad audit verify`", count=known - newest.records)
        if newest.records <= known:
            return False
        append_anchor(path, newest)
        return True
