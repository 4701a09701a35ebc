"""What could not be proven clean and waits for a person, who covers what is left and releases it, or refuses it.

A release sends nothing: it puts the shipment back into the queue with the person's boxes, and only what is then
de-identified and verified with them goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update

from edgerad import ledger
from edgerad.database import Database
from edgerad.decisions import ACTOR, DecisionError, named
from edgerad.records import DeidRecord, Image, Shipment, now

QUARANTINED, WITHHELD = "quarantined", "withheld"
LOOKED_AT = frozenset((
    "too-much-text", "engines-disagree", "burned-in-text-not-found", "not-verified", "text-left", "text-engine-failed",
    "oblique-text",
))  # fmt: skip
"""Reasons about text in the pixels, which a person can judge; for all others the cause must be mended."""
MAX_BOXES = 200

Rectangle = tuple[int, int, int, int]
"""Columns x0 to x1 and rows y0 to y1 of the image, the ends excluded: x0, y0, x1, y1."""


@dataclass(frozen=True)
class Waiting:
    """A quarantined image: its shipment, where it lies, why it waits and what was found so far."""

    shipment: Shipment
    image: Image
    detail: str
    boxes: tuple[Rectangle, ...]

    @property
    def can_be_released(self) -> bool:
        """Whether a look at the pixels can settle it."""
        return self.shipment.reason in LOOKED_AT


def waiting(database: Database, limit: int = 100, offset: int = 0) -> list[Waiting]:
    """Return what waits, the oldest first."""
    query = (
        select(Shipment, Image, DeidRecord)
        .join(Image, Image.image_id == Shipment.image_id)
        .outerjoin(DeidRecord, DeidRecord.deid_record_id == Shipment.deid_record_id)
        .where(Shipment.state == QUARANTINED)
        .order_by(Shipment.closed_at, Shipment.shipment_id)
        .limit(limit)
        .offset(offset)
    )
    with database.read() as session:
        return [_waiting(*row) for row in session.execute(query)]


def _waiting(shipment: Shipment, image: Image, record: DeidRecord | None) -> Waiting:
    detail: dict[str, Any] = record.detail if record else {}
    boxes = tuple((int(box[0]), int(box[1]), int(box[2]), int(box[3])) for box in detail.get("boxes", ()))
    return Waiting(shipment, image, str(detail.get("detail", "")), boxes)


def count(database: Database) -> int:
    """Return how many wait."""
    with database.read() as session:
        query = select(func.count()).select_from(Shipment).where(Shipment.state == QUARANTINED)
        return int(session.scalar(query) or 0)


def release(
    database: Database, shipment_id: str, boxes: Sequence[Rectangle], dismissed: Sequence[Rectangle], person: str
) -> bool:
    """Put an image back into the queue, to be filled at `boxes`; `dismissed` are boxes that hold no text after all.

    Returns False, and changes nothing, when somebody had decided before. Raises DecisionError.
    """
    for box in (*boxes, *dismissed):
        if not (0 <= box[0] < box[2] and 0 <= box[1] < box[3]):
            msg = (
                "a box has its right edge at or left of its left one, or its bottom above its top: correct or remove it"
            )
            raise DecisionError(msg)
    if len(boxes) > MAX_BOXES or len(dismissed) > MAX_BOXES:
        msg = f"there are more than {MAX_BOXES} boxes: cover neighbouring ones with one larger box"
        raise DecisionError(msg)
    content = {"boxes": [list(box) for box in boxes], "dismissed": [list(box) for box in dismissed]}
    return _decide(database, shipment_id, person, "released", content, only=LOOKED_AT)


def retry(database: Database, shipment_id: str, person: str) -> bool:
    """Put an image back into the queue as it is, after the cause was mended; else as `release`."""
    return _decide(database, shipment_id, person, "retried", None)


def refuse(database: Database, shipment_id: str, person: str) -> bool:
    """Keep an image here for good; else as `release`."""
    return _decide(database, shipment_id, person, "refused", None)


def _decide(
    database: Database,
    shipment_id: str,
    person: str,
    what: str,
    content: dict[str, Any] | None,
    only: frozenset[str] = frozenset(),
) -> bool:
    person = named(person)
    values: dict[str, Any] = {"state": WITHHELD, "closed_at": now()}
    if what != "refused":
        values = {"state": "queued", "release": content, "attempts": 0, "next_attempt_at": None, "closed_at": None}
    with database.write() as session:
        shipment = session.get(Shipment, shipment_id, with_for_update=True)
        if shipment is None:
            msg = "there is no such image; reload the page"
            raise DecisionError(msg)
        if shipment.state != QUARANTINED:
            return False
        if only and shipment.reason not in only:
            msg = "a look at the pixels cannot settle this reason: mend its cause and try again, or refuse the image"
            raise DecisionError(msg)
        session.execute(update(Shipment).where(Shipment.shipment_id == shipment_id).values(**values))
        detail = {"reason": shipment.reason, "record": shipment.deid_record_id, **(content or {})}
        ledger.audit(session, ACTOR + person, f"quarantine-{what}", shipment_id, detail)
    return True
