"""Text found, filled with a constant and looked for again, until nothing is read that would have to go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ship import pixels as px
from ship import text
from ship.boxes import Box, neighbourhoods
from ship.identity import Identity

ROUNDS = 3
_REACH = 64
"""Pixels around a filled box in which the detector's answer can differ from its first one."""
_READABLE = 0.3
"""A reading with less confidence is noise, even where it resembles a value."""

Doubt = Literal["engine-failed", "too-much-text", "engines-disagree", "still-read"]


@dataclass(frozen=True, slots=True)
class Redaction:
    """Pixels whose boxes hold the constant `fill`, after `rounds` of filling and reading again."""

    pixels: px.Pixels
    boxes: tuple[Box, ...]
    fill: int
    rounds: int

    @property
    def share(self) -> float:
        """The part of the image that the boxes cover, 0..1."""
        return covered(self.pixels, self.boxes)

    def as_record(self) -> dict[str, Any]:
        """What the audit keeps of it: no text."""
        return {
            "boxes": [box.as_list() for box in self.boxes],
            "redacted_share": round(self.share, 6),
            "rounds": self.rounds,
            "fill": self.fill,
        }


class Doubtful(Exception):
    """The pixels cannot be called free of text: why, a sentence for staff without any value, the boxes found so far."""

    def __init__(self, why: Doubt, detail: str, boxes: Iterable[Box] = ()) -> None:
        super().__init__(why)
        self.why, self.detail, self.boxes = why, detail, tuple(boxes)


def versions(threads: int = 1) -> list[str]:
    """Name, version and digest of the models of every engine."""
    return [engine.version for engine in text.engines(threads)]


def redact_text(
    pixels: px.Pixels, identity: Identity, *, max_share: float, inverted: bool = False, threads: int = 1
) -> Redaction:
    """Fill every text but markers; raises Doubtful, also when an engine fails: that proves nothing.

    `inverted` is MONOCHROME1; `max_share` is the part of the image beyond which text is no annotation.
    """
    try:
        return _text_gone(pixels, identity, max_share, inverted, threads)
    except Doubtful:
        raise
    except Exception as error:  # noqa: BLE001 - fail closed; the text of an exception may quote a value
        raise Doubtful("engine-failed", f"{type(error).__name__} was raised") from None


def covered(pixels: px.Pixels, boxes: Sequence[Box]) -> float:
    """The part of an image that boxes cover, 0..1."""
    return float(px.mask(pixels, boxes).mean())


def _text_gone(pixels: px.Pixels, identity: Identity, max_share: float, inverted: bool, threads: int) -> Redaction:
    shape = (pixels.shape[0], pixels.shape[1])
    v6, v4 = text.engines(threads)
    plain = text.plain_view(pixels)
    lines = text.read_lines(plain, v6) + text.read_lines(plain, v4) + text.read_lines(text.flat_view(pixels), v6)
    chosen = text.to_redact(lines, shape, is_known=identity.resembles)
    boxes: list[Box] = _boxes(chosen, shape)
    if _disagree(chosen, lines, identity):
        raise Doubtful("engines-disagree", "the engines read a value of the patient differently", boxes)
    for round_ in range(1, ROUNDS + 1):
        boxes = sorted({*boxes, *_boxes(chosen, shape)})
        if covered(pixels, boxes) > max_share:
            raise Doubtful("too-much-text", f"text covers more than {max_share:.0%} of the image", boxes)
        redacted, fill = px.redact(pixels, boxes, inverted=inverted)
        remaining = text.read_lines(text.flat_view(redacted), v4)
        again = text.plain_view(redacted)
        for region in neighbourhoods(boxes, _REACH):
            remaining += text.read_lines(again, v6, region=region.clipped(*shape))
        chosen = text.to_redact(remaining, shape, is_known=identity.resembles)
        if chosen:
            continue
        if any(line.score >= _READABLE and identity.resembles(line.text) for line in remaining):
            raise Doubtful("still-read", "one of the patient's values can still be read", boxes)
        return Redaction(redacted, tuple(boxes), fill, round_)
    raise Doubtful("still-read", f"text is still read after {ROUNDS} rounds", boxes)


def _boxes(lines: Iterable[text.Line], shape: tuple[int, int]) -> list[Box]:
    return [line.box.grown(text.PADDING).clipped(*shape) for line in lines]


def _disagree(chosen: Sequence[text.Line], lines: Sequence[text.Line], identity: Identity) -> bool:
    """Whether at one place one engine surely reads a value of the patient and another surely reads something else."""
    for line in chosen:
        if line.score < text.MIN_SCORE or not identity.resembles(line.text):
            continue
        for other in lines:
            same_place = other.engine != line.engine and line.box.iou(other.box) > 0.7
            sure = other.score >= text.MIN_SCORE and text.alphanumerics(other.text) >= text.MIN_ALPHANUMERICS
            if same_place and sure and not identity.resembles(other.text):
                return True
    return False
