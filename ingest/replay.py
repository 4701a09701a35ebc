"""Dead letters back into the flow: the image is pending again and the original record comes once more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from edgerad import ids, ledger
from edgerad.database import Database
from edgerad.records import DeadLetter, now
from ingest import events

Requeue = Callable[[bytes, bytes | None], None]
"""Put a record (value, key) into `xray.uploaded`; raises when it is not durable there."""


@dataclass(frozen=True)
class Replayed:
    """One dead letter that was put back."""

    dead_letter_id: str
    image_id: str | None
    reason: str


def waiting(database: Database, reasons: Sequence[str] = (), identities: Sequence[str] = ()) -> list[DeadLetter]:
    """Return the dead letters that were not replayed, the oldest first, by reason or identity where given."""
    query = select(DeadLetter).where(DeadLetter.replayed_at.is_(None)).order_by(DeadLetter.created_at)
    if reasons:
        query = query.where(DeadLetter.reason.in_(reasons))
    if identities:
        query = query.where(DeadLetter.dead_letter_id.in_(identities))
    with database.read() as session:
        return list(session.scalars(query))


def replay(database: Database, letters: Sequence[DeadLetter], requeue: Requeue | None) -> list[Replayed]:
    """Put dead letters back; return those that were.

    Without `requeue` (no Kafka) the sweep finds the images that are pending again; a letter that has no image, only a
    record that came by Kafka, then stays. The record is requeued before the letter is closed: after a crash in between
    it comes twice, which changes nothing.
    """
    done = []
    for letter in letters:
        if requeue is None and letter.image_id is None and letter.source == "kafka":
            continue
        if letter.image_id is not None:
            with database.write() as session:
                ledger.reopen(session, letter.image_id)
        if requeue is not None and letter.record:
            record = events.to_bytes(letter.record)
            requeue(record, _study(record))
        with database.write() as session:
            row = session.get_one(DeadLetter, letter.dead_letter_id)
            if row.replayed_at is not None:
                continue  # by another operator, just now
            row.replayed_at = now()
            ledger.audit(session, "operator", "dead-letter-replayed", letter.dead_letter_id, {"reason": letter.reason})
        done.append(Replayed(letter.dead_letter_id, letter.image_id, letter.reason))
    return done


def _study(record: bytes) -> bytes | None:
    """Return the Kafka key that keeps a record with its study, None for one that names no object."""
    try:
        created = events.parse(record).created
    except events.PoisonedRecord:
        return None
    return ids.study_key(created[0].key).encode() if created else None
