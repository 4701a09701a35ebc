"""Text found, filled with a constant and looked for again, until nothing is read that would have to go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ship import heap, ocr, text, views
from ship import pixels as px
from ship.boxes import Box, merged, neighbourhoods
from ship.identity import Identity
from ship.ocr import Line
from ship.tone import PLAIN, Shown, Tone

ROUNDS = 3
_REACH = 64
"""Pixels around a filled box in which the detector's answer can differ from its first one."""
_READABLE = 0.3
"""A reading with less confidence is noise, even where it resembles a value."""

_OUTLINE = 8
"""Pixels by which detectors draw a line larger than a filled box; the smallest letters are 12 high."""
_CLOSE = 48
"""Pixels to which a line's box is enlarged for the close look: twice the least that the detectors are sure of."""
_DOUBTFUL_ZOOM, _LINE_ZOOM, _MAX_ZOOM = 1.5, 2.0, 3.0
"""Least zoom around lines that two looks found differently, least zoom of one such line, and most."""
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
    pixels: px.Pixels, identity: Identity, *, max_share: float, tone: Tone = PLAIN, threads: int = 1
) -> Redaction:
    """Fill every text but markers; raises Doubtful, also when an engine fails: that proves nothing.

    `tone` says how the values show; `max_share` is the part of the image beyond which text is no annotation.
    """
    try:
        with heap.kept():
            return _text_gone(pixels, identity, max_share, tone, threads)
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


def find_lines(pixels: px.Pixels, identity: Identity, threads: int = 1, tone: Tone = PLAIN) -> list[Line]:
    """Every line that any engine finds on any view, first of the whole image, then closely around what must go."""
    return [line for shown in tone.looks(pixels) for line in _lines_of(pixels, identity, threads, shown)]


def _lines_of(pixels: px.Pixels, identity: Identity, threads: int, shown: Shown | None) -> list[Line]:
    v6, v4 = ocr.engines(threads)
    sight = _Sight(views.plain_view(pixels, shown), views.even_view(pixels, shown), identity)
    sight.look(sight.plain, v4)
    sight.look(sight.even, v6)
    sight.look(sight.even, v6, known=_boxes(sight.chosen(), sight.shape), turned=True)
    _closely(sight, v6)
    _one_by_one(sight, v6)
    return sight.lines


@dataclass(slots=True)
class _Sight:
    """Two views of an image, the lines that were read on them so far, and each line's box as often as it was found."""

    plain: ocr.Grey
    even: ocr.Grey
    identity: Identity
    lines: list[Line] = field(default_factory=list)
    seen: list[Box] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int]:
        return self.plain.shape[0], self.plain.shape[1]

    def chosen(self) -> list[Line]:
        return _chosen(self.lines, self.shape, self.identity)

    def look(self, view: ocr.Grey, engine: ocr.Engine, known: Sequence[Box] = (), **how: Any) -> None:
        """What is found within `known` is not read again, only seen."""
        within = _within(known)

        def skip(box: Box) -> bool:
            self.seen.append(box)
            return within(box)

        self.lines += ocr.read_lines(view, engine, skip=skip, **how)


def _closely(sight: _Sight, v6: ocr.Engine) -> None:
    """Look again, enlarged, where text was found: faint lines are found in part, and seldom stand alone.

    Text that runs up or down is looked at apart from text that lies. Where two looks did not find the same lines even
    large letters are enlarged: beside them others are missed.
    """
    chosen = sight.chosen()
    known, scale = _boxes(chosen, sight.shape), ocr.enlargement(*sight.shape)
    seen = tuple(sight.seen)
    for turned in (False, True):
        alike = [
            line.box for line in chosen if (line.box.y1 - line.box.y0 > 1.5 * (line.box.x1 - line.box.x0)) == turned
        ]
        for region in neighbourhoods((box.grown(3 * box.short_side) for box in alike), 0):
            place = region.clipped(*sight.shape)
            here = [box for box in alike if box.overlaps(place)]
            size = float(np.median([box.short_side for box in here])) * scale
            least = 1.0 if all(text.is_agreed(box, seen) for box in here) else _DOUBTFUL_ZOOM
            most = max((_CLOSE_AREA / place.area) ** 0.5 / scale, 1.0)
            zoom = min(max(_CLOSE / size, least), _MAX_ZOOM, most)
            sight.look(sight.even, v6, known, region=place, zoom=zoom, turned=turned)


def _one_by_one(sight: _Sight, v6: ocr.Engine) -> None:
    """Look at each line alone, from before its beginning to after its end, that no two looks found equally long.

    Beside other lines the detector ends a faint one, or leaves a hole in it, where anatomy hides a few characters.
    """
    chosen = sight.chosen()
    known, seen = _boxes(chosen, sight.shape), tuple(sight.seen)
    looked_at: list[Box] = []
    for box in sorted({line.box for line in chosen}, key=lambda box: (-box.long_side, box)):
        height = box.short_side
        if box.long_side < 2 * height or text.is_agreed(box, seen) or any(box.is_centred_in(row) for row in looked_at):
            continue
        looked_at.append(box.lengthened(2 * height))
        strip = box.lengthened(3 * height).grown(height // 2).clipped(*sight.shape)
        zoom = min(max(_CLOSE / (height * ocr.enlargement(*sight.shape)), _LINE_ZOOM), _MAX_ZOOM)
        sight.look(sight.even, v6, known, region=strip, zoom=zoom, turned=box.is_upright)


def _text_gone(pixels: px.Pixels, identity: Identity, max_share: float, tone: Tone, threads: int) -> Redaction:
    shape = (pixels.shape[0], pixels.shape[1])
    lines = find_lines(pixels, identity, threads, tone)
    chosen = _chosen(lines, shape, identity)
    markers = [line for line in lines if text.is_marker(line) and not identity.resembles(line.text)]
    sure = [line.box for line in markers if line.score >= text.SURE]
    boxes = _boxes(chosen, shape, sure) + text.starts(chosen, shape, [line.box for line in markers])
    if _disagree(chosen, lines, identity):
        raise Doubtful("engines-disagree", "the engines read a value of the patient differently", merged(boxes))
    for round_ in range(1, ROUNDS + 1):
        boxes = merged((*boxes, *_boxes(chosen, shape, sure)))
        if any(text.is_oblique(line) for line in chosen):
            raise Doubtful("oblique-text", "text runs obliquely, and of such text a part may be missed", boxes)
        if covered(pixels, boxes) > max_share:
            raise Doubtful("too-much-text", f"text covers more than {max_share:.0%} of the image", boxes)
        redacted, fill = px.redact(pixels, boxes, tone)
        remaining = [line for shown in tone.looks(redacted) for line in _read_again(redacted, boxes, threads, shown)]
        chosen = _chosen(remaining, shape, identity, boxes)
        if chosen:
            continue
        if any(line.score >= _READABLE and identity.resembles(line.text) for line in remaining):
            raise Doubtful("still-read", "one of the patient's values can still be read", boxes)
        return Redaction(redacted, tuple(boxes), fill, round_)
    raise Doubtful("still-read", f"text is still read after {ROUNDS} rounds", boxes)


def _read_again(pixels: px.Pixels, boxes: Sequence[Box], threads: int, shown: Shown | None) -> list[Line]:
    """What is read after the fill, by the engine that did not look at this view before, and around the boxes."""
    v6, v4 = ocr.engines(threads)
    outline = is_outline(boxes)
    found = ocr.read_lines(views.even_view(pixels, shown), v4, skip=outline)
    plain = views.plain_view(pixels, shown)
    for region in neighbourhoods(boxes, _REACH):
        found += ocr.read_lines(plain, v6, region=region.clipped(*plain.shape[:2]), skip=outline)
    return found


def _chosen(
    lines: Sequence[Line], shape: tuple[int, int], identity: Identity, filled: Sequence[Box] = ()
) -> list[Line]:
    return text.to_redact(lines, shape, is_known=identity.resembles, filled=filled)


def _within(boxes: Sequence[Box]) -> Callable[[Box], bool]:
    return lambda box: any(box.inside(other) for other in boxes)


def _boxes(lines: Sequence[Line], shape: tuple[int, int], markers: Sequence[Box] = ()) -> list[Box]:
    return [text.area(line, shape) for line in lines] + text.gaps(lines, markers)


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
