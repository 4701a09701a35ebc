"""What a person covered by hand: filled as told, and then looked at again for whatever nobody looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ship import heap, redaction, text
from ship import pixels as px
from ship.boxes import Box
from ship.identity import Identity
from ship.redaction import Doubtful, Redaction
from ship.tone import PLAIN, Tone


@dataclass(frozen=True, slots=True)
class Release:
    """The boxes that a person wants filled, and those of the engine's that the person says hold no text."""

    boxes: tuple[Box, ...]
    dismissed: tuple[Box, ...] = ()


def release_of(content: Mapping[str, Sequence[Sequence[int]]] | None) -> Release | None:
    """A release from its JSON (edgerad.quarantine), or None when nobody released."""
    if content is None:
        return None
    boxes, dismissed = (tuple(Box(*box) for box in content[name]) for name in ("boxes", "dismissed"))
    return Release(boxes, dismissed)


def fill_by_hand(
    pixels: px.Pixels, identity: Identity, release: Release, *, tone: Tone = PLAIN, threads: int = 1
) -> Redaction:
    """Fill exactly the person's boxes; raises Doubtful when text is left that was neither covered nor dismissed.

    One of the patient's own values is never dismissed: it must be covered, whatever the person says.
    """
    shape = (pixels.shape[0], pixels.shape[1])
    boxes = tuple(sorted({part for box in release.boxes if _real(part := box.clipped(*shape))}))
    filled, fill = px.redact(pixels, boxes, tone)
    with heap.kept():
        lines = redaction.find_lines(filled, identity, threads, tone)
    left, known, outline = [], False, redaction.is_outline(boxes)
    for line in text.to_redact(lines, shape, is_known=identity.resembles, filled=boxes):
        box = line.box.grown(text.PADDING).clipped(*shape)
        if identity.resembles(line.text):
            known = True
        elif outline(line.box) or any(box.overlaps(other) for other in release.dismissed):
            continue
        left.append(box)
    if known:
        raise Doubtful("still-read", "one of the patient's values can still be read", {*boxes, *left})
    if left:
        raise Doubtful("text-left", "text was found that nobody covered or looked at", {*boxes, *left})
    return Redaction(filled, boxes, fill, 1)


def _real(box: Box) -> bool:
    return box.x1 > box.x0 and box.y1 > box.y0


def as_record(release: Release) -> dict[str, Any]:
    """What the audit keeps of it."""
    return {"by_hand": True, "dismissed": [box.as_list() for box in release.dismissed]}
