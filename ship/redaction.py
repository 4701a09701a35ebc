"""Text found, filled with a constant and looked for again, until nothing is read that would have to go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ship import ocr, text, views
from ship import pixels as px
from ship.boxes import Box, merged, neighbourhoods
from ship.identity import Identity
from ship.ocr import Line

ROUNDS = 3
_REACH = 64
"""Pixels around a filled box in which the detector's answer can differ from its first one."""
_READABLE = 0.3
"""A reading with less confidence is noise, even where it resembles a value."""

_OUTLINE = 8
"""Pixels by which detectors draw a line larger than a filled box; the smallest letters are 12 high."""
_CLOSE = 48
"""Pixels to which a line's box is enlarged for the close look: twice the least that the detectors are sure of."""
_MAX_ZOOM = 3.0
_CLOSE_AREA = 1_500_000
"""Pixels of the enlarged region, at most."""

Doubt = Literal["engine-failed", "too-much-text", "engines-disagree", "still-read", "text-left", "oblique-text"]


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
    return [engine.version for engine in ocr.engines(threads)]


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


def is_outline(filled: Iterable[Box]) -> Callable[[Box], bool]:
    """Whether a line is a filled box that itself looks like one: too little is beside the constant to hold a letter."""
    return _within([box.grown(_OUTLINE) for box in filled])


def find_lines(pixels: px.Pixels, identity: Identity, threads: int = 1) -> list[Line]:
    """Every line that any engine finds on any view, first of the whole image, then closely around what must go."""
    shape = (pixels.shape[0], pixels.shape[1])
    v6, v4 = ocr.engines(threads)
    plain, even = views.plain_view(pixels), views.even_view(pixels)
    lines = ocr.read_lines(plain, v4) + ocr.read_lines(even, v6)
    known = _boxes(_chosen(lines, shape, identity), shape)
    lines += ocr.read_lines(even, v6, turned=True, skip=_within(known))
    chosen = _chosen(lines, shape, identity)
    return lines + _closely(plain, even, chosen, shape, threads)


def _closely(
    plain: ocr.Grey, even: ocr.Grey, chosen: Sequence[Line], shape: tuple[int, int], threads: int
) -> list[Line]:
    """Look again, enlarged, where text was found: faint lines are found in part, and seldom stand alone."""
    v6, v4 = ocr.engines(threads)
    known = _boxes(chosen, shape)
    lines: list[Line] = []
    scale = ocr.enlargement(*shape)
    for region in neighbourhoods((line.box.grown(3 * line.box.short_side) for line in chosen), 0):
        place = region.clipped(*shape)
        here = [line.box for line in chosen if line.box.overlaps(place)]
        size = float(np.median([box.short_side for box in here])) * scale
        zoom = min(max(_CLOSE / size, 1.0), _MAX_ZOOM, max((_CLOSE_AREA / place.area) ** 0.5 / scale, 1.0))
        upright = sum(box.y1 - box.y0 > 1.5 * (box.x1 - box.x0) for box in here)
        for turned in sorted({upright > 0, upright == len(here)}):
            for engine, view in ((v6, even), (v4, plain)):
                lines += ocr.read_lines(view, engine, region=place, zoom=zoom, turned=turned, skip=_within(known))
    return lines


def _text_gone(pixels: px.Pixels, identity: Identity, max_share: float, inverted: bool, threads: int) -> Redaction:
    shape = (pixels.shape[0], pixels.shape[1])
    v6, v4 = ocr.engines(threads)
    lines = find_lines(pixels, identity, threads)
    chosen = _chosen(lines, shape, identity)
    markers = [line.box for line in lines if text.is_marker(line) and not identity.resembles(line.text)]
    boxes: list[Box] = _boxes(chosen, shape) + text.starts(chosen, shape, markers)
    if _disagree(chosen, lines, identity):
        raise Doubtful("engines-disagree", "the engines read a value of the patient differently", merged(boxes))
    for round_ in range(1, ROUNDS + 1):
        boxes = merged((*boxes, *_boxes(chosen, shape)))
        if any(text.is_oblique(line) for line in chosen):
            raise Doubtful("oblique-text", "text runs obliquely, and of such text a part may be missed", boxes)
        if covered(pixels, boxes) > max_share:
            raise Doubtful("too-much-text", f"text covers more than {max_share:.0%} of the image", boxes)
        redacted, fill = px.redact(pixels, boxes, inverted=inverted)
        outline = is_outline(boxes)
        remaining = ocr.read_lines(views.even_view(redacted), v4, skip=outline)
        again = views.plain_view(redacted)
        for region in neighbourhoods(boxes, _REACH):
            remaining += ocr.read_lines(again, v6, region=region.clipped(*shape), skip=outline)
        chosen = _chosen(remaining, shape, identity)
        if chosen:
            continue
        if any(line.score >= _READABLE and identity.resembles(line.text) for line in remaining):
            raise Doubtful("still-read", "one of the patient's values can still be read", boxes)
        return Redaction(redacted, tuple(boxes), fill, round_)
    raise Doubtful("still-read", f"text is still read after {ROUNDS} rounds", boxes)


def _chosen(lines: Sequence[Line], shape: tuple[int, int], identity: Identity) -> list[Line]:
    return text.to_redact(lines, shape, is_known=identity.resembles)


def _within(boxes: Sequence[Box]) -> Callable[[Box], bool]:
    return lambda box: any(box.inside(other) for other in boxes)


def _boxes(lines: Iterable[Line], shape: tuple[int, int]) -> list[Box]:
    lines = list(lines)
    return [text.area(line, shape) for line in lines] + text.gaps(lines)


def _disagree(chosen: Sequence[Line], lines: Sequence[Line], identity: Identity) -> bool:
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
