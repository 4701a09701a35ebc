"""What the ingest loop has in hand: records under way, the images that they announced, and what was done so far."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from edgerad.ledger import NewImage
from edgerad.scoring import ScoreRequest
from ingest.sources import Position


@dataclass(slots=True, eq=False)
class Receipt:
    """A record under way: done when `open` (its images, and the taking in itself) is 0."""

    position: Position
    body: bytes
    open: int = 1


@dataclass(slots=True, eq=False)
class Work:
    """A pending image under way, with the records that announced it."""

    image: NewImage
    receipts: list[Receipt]
    attempts: int = 0

    @property
    def request(self) -> ScoreRequest:
        """What to ask Serve."""
        image = self.image
        return ScoreRequest(image.image_id, image.bucket, image.key, image.version_id, image.etag.strip('"'))


@dataclass(slots=True)
class Figures:
    """What the loop has done since it started."""

    records: int = 0
    assessed: int = 0
    quarantined: int = 0
    repeated: int = 0
    dead_letters: int = 0
    deleted: int = 0
    retried: int = 0
    ignored: Counter[str] = field(default_factory=Counter)

    def counts(self) -> dict[str, Any]:
        """Return them as plain data."""
        return {
            "records": self.records,
            "assessed": self.assessed,
            "quarantined": self.quarantined,
            "repeated": self.repeated,
            "dead_letters": self.dead_letters,
            "deleted": self.deleted,
            "retried": self.retried,
            "ignored": self.ignored.total(),
        }
