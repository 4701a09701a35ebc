"""Dead letters back into the flow: the image is pending again and the original record comes once more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from edgerad import ledger
from edgerad.database import Database
from edgerad.records import DeadLetter, now

Requeue = Callable[[str], None]
"""Put an original record back where it came from; raises when it is not durable there."""


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
    """Put dead letters back; without `requeue` (no Kafka) the sweep finds the images that are pending again.

    The record is requeued before the letter is closed: after a crash in between it comes twice, which changes nothing.
    """
    done = []
    for letter in letters:
        with database.write() as session:
            if letter.image_id is not None:
                ledger.reopen(session, letter.image_id)
        if requeue is not None and letter.record and letter.source == "kafka":
            requeue(letter.record)
        with database.write() as session:
            row = session.get_one(DeadLetter, letter.dead_letter_id)
            row.replayed_at = now()
            ledger.audit(session, "operator", "dead-letter-replayed", letter.dead_letter_id, {"reason": letter.reason})
        done.append(Replayed(letter.dead_letter_id, letter.image_id, letter.reason))
    return done
