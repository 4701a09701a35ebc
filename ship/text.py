"""Which of the text that was read on an image must go, and which is a marker that stays."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence

from ship.boxes import Box
from ship.ocr import Line

MIN_SCORE = 0.5
MIN_ALPHANUMERICS = 3
MAX_SHORT_SIDE = 0.18
"""Of the image's shorter side: anything higher is anatomy that was taken for a letter."""
LARGE, LARGE_SCORE = 0.1, 0.6
"""Of the image's shorter side: from that height of its box on a line needs that score, for ribs read with 0.5."""
LINE_SHAPE = 3.0
"""Length over height of what is a line of text whatever it reads like."""
MAX_UNREAD = 0.06
"""Height of such a line, of the image's shorter side."""
PADDING = 6
"""Pixels around a detected line: the union of both engines misses stroke ends without it."""
GAP = (0.6, 2.5)
"""Line heights between two lines of a block where another one may stand."""
ENDS = 0.3
"""Line heights by which a line is lengthened at both ends: of faint ones the first or last character is missed."""
RAGGED = 3.0
"""Line heights by which a line may begin after the others of its block and is still taken to begin with them."""
TILT = 5.0
"""Degrees off upright or lying from which on a line is oblique: detectors miss such lines, or find them in part."""
SURE = 0.8
"""Score of a reading that is no anatomy."""
NEIGHBOURHOOD = 1.5
"""Line heights around redacted text within which a token of one or two characters is part of that text."""
SAME_PLACE = 0.6
"""Intersection over union from which on two readings are of one token: less, and one may hold a character more."""

MARKERS = frozenset({
    "R", "L", "RT", "LT", "LEFT", "RIGHT", "AP", "PA", "AP/PA", "LAT", "LATERAL", "LL", "RL", "RLD", "LLD", "DECUB",
    "DECUBITUS", "SUPINE", "PRONE", "ERECT", "UPRIGHT", "SITTING", "SEMIERECT", "SEMI-ERECT", "STANDING", "PORTABLE",
    "MOBILE", "INSP", "EXP", "INSPIRATION", "EXPIRATION", "FRONTAL", "OBLIQUE", "CHEST",
})  # fmt: skip
"""Laterality and positioning words that a radiographer puts on the image: clinical content, never identity."""


def area(line: Line, shape: tuple[int, int]) -> Box:
    """What is filled of an image of that shape (rows, columns) for the line's sake."""
    return line.box.lengthened(round(ENDS * line.box.short_side)).grown(PADDING).clipped(*shape)


def gaps(lines: Sequence[Line], markers: Sequence[Box] = ()) -> list[Box]:
    """Where a line is missing from a block: between two parallel ones of like height that stand above each other.

    Ribs hide single lines of a block from the detectors, not its neighbours. Where a line was found there is no gap. A
    marker that stands in one is left out of it.
    """
    found = []
    for upright in (False, True):
        rows = sorted({_laid(line.box, upright) for line in lines if line.box.is_upright == upright})
        for first, second in itertools.combinations(rows, 2):
            upper, lower = sorted((first, second), key=lambda box: (box.y0, box.y1))
            height = min(upper.short_side, lower.short_side)
            gap = Box(min(upper.x0, lower.x0), upper.y1, max(upper.x1, lower.x1), lower.y0)
            left, right = max(upper.x0, lower.x0), min(upper.x1, lower.x1)
            if (
                GAP[0] * height <= gap.y1 - gap.y0 <= GAP[1] * height
                and max(upper.short_side, lower.short_side) <= 1.5 * height
                and 2 * (right - left) >= min(upper.x1 - upper.x0, lower.x1 - lower.x0)
                and not any(
                    2 * gap.y0 < row.y0 + row.y1 < 2 * gap.y1
                    and 2 * (min(row.x1, right) - max(row.x0, left)) >= right - left
                    for row in rows
                )
            ):
                stand = sorted(_laid(box, upright) for box in markers)
                found += [_laid(part, upright) for part in _without(gap, stand)]
    return found


def _without(row: Box, boxes: Sequence[Box]) -> list[Box]:
    """What of a row lies before, between and after boxes that stand in it, given from left to right."""
    inside = [box for box in boxes if box.overlaps(row)]
    starts = itertools.accumulate((row.x0, *(box.x1 for box in inside)), max)
    ends = (*(box.x0 for box in inside), row.x1)
    return [Box(start, row.y0, end, row.y1) for start, end in zip(starts, ends, strict=True) if end > start]


def starts(lines: Sequence[Line], shape: tuple[int, int], markers: Sequence[Box] = ()) -> list[Box]:
    """What a line lacks to begin where at least two others of its block do, where that is little and no marker stands.

    A bright edge hides the first characters of a line that stand on it, not those of its neighbours.
    """
    found = set()
    rows = sorted({line.box for line in lines if not line.box.is_upright})
    for line, above in itertools.permutations(rows, 2):
        if not (0 < line.x0 - above.x0 <= RAGGED * line.short_side and _are_neighbours(line, above)):
            continue
        reach = 0.5 * above.short_side
        if any(
            abs(row.x0 - above.x0) <= reach and _are_neighbours(row, above) and abs(row.y0 - above.y0) > reach
            for row in rows
        ):
            found.add(Box(above.x0, line.y0, line.x0, line.y1).grown(PADDING).clipped(*shape))
    return sorted(box for box in found if not any(box.overlaps(marker) for marker in markers))


def _are_neighbours(first: Box, second: Box) -> bool:
    """Whether two lying lines of like height stand above each other, with no room for another between them."""
    low, high = sorted((first.short_side, second.short_side))
    apart = max(first.y0, second.y0) - min(first.y1, second.y1)
    shared = min(first.x1, second.x1) - max(first.x0, second.x0)
    return (
        high <= 1.5 * low
        and -0.5 * low <= apart <= GAP[1] * low
        and 2 * shared >= min(first.x1 - first.x0, second.x1 - second.x0)
    )


def _laid(box: Box, upright: bool) -> Box:
    """The box with rows and columns exchanged, and back."""
    return Box(box.y0, box.x0, box.y1, box.x1) if upright else box


def is_agreed(box: Box, seen: Sequence[Box]) -> bool:
    """Whether at least two of the boxes that all looks saw are the line's from its beginning to its end."""
    return sum(_end_alike(box, other) for other in seen) > 1


def _end_alike(first: Box, second: Box) -> bool:
    """Whether two boxes lie in one row, with their ends less than half a line's height apart."""
    if first.is_upright != second.is_upright:
        return False
    one, two = _laid(first, first.is_upright), _laid(second, first.is_upright)
    reach = min(one.short_side, two.short_side) / 2
    return (
        abs(one.x0 - two.x0) <= reach
        and abs(one.x1 - two.x1) <= reach
        and min(one.y1, two.y1) - max(one.y0, two.y0) >= reach
    )


def alphanumerics(text: str) -> int:
    """How many letters or digits of any script a text has."""
    return sum(ch.isalnum() for ch in text)


def is_marker(line: Line) -> bool:
    """Whether the line is nothing but words of laterality or positioning, surely read."""
    words = re.split(r"[\s.,:()\[\]]+", line.text.upper().strip(" .,:()[]"))
    return line.score >= MIN_SCORE and all(word in MARKERS for word in words)


def is_oblique(line: Line) -> bool:
    """Whether the line is text, surely read, that runs neither upright nor at right angles."""
    return line.tilt >= TILT and line.score >= SURE and alphanumerics(line.text) > MIN_ALPHANUMERICS


def _height(line: Line) -> float:
    """An oblique line is as high as its letters; another as its box, or ribs a few degrees off would pass for text."""
    return line.across if line.tilt >= TILT else line.box.short_side


def _least_score(line: Line, shape: tuple[int, int]) -> float:
    return LARGE_SCORE if line.box.short_side >= LARGE * min(shape) else MIN_SCORE


def is_line_shaped(line: Line, shape: tuple[int, int]) -> bool:
    """Whether the line is long and low, as anatomy taken for a letter is not: text, even if it cannot be read."""
    return line.box.long_side >= LINE_SHAPE * line.box.short_side and line.box.short_side <= MAX_UNREAD * min(shape)


def _is_marker_misread(token: Line, markers: Sequence[Line], texts: Sequence[Box]) -> bool:
    """Whether another look read the short token as a marker, surely and more so than this one, and apart from texts."""
    return any(
        marker.score >= SURE
        and marker.score > token.score
        and marker.box.iou(token.box) >= SAME_PLACE
        and not any(_may_go_on(box, marker.box) for box in texts if box.iou(marker.box) < SAME_PLACE)
        for marker in markers
    )


def _may_go_on(box: Box, token: Box) -> bool:
    """Whether text in `box` may go on with the token: beside it in its row, or as close as lines of a block are."""
    reach, near = round(NEIGHBOURHOOD * box.short_side), round(GAP[0] * box.short_side)
    if 2 * box.long_side < 3 * box.short_side:  # three characters, which may run either way
        return box.grown(reach).overlaps(token)
    return box.lengthened(reach).overlaps(token) or box.grown(near).overlaps(token)


def to_redact(
    lines: Sequence[Line],
    shape: tuple[int, int],
    *,
    is_known: Callable[[str], bool] = lambda _: False,
    filled: Sequence[Box] = (),
) -> list[Line]:
    """The lines to fill, of all that every engine found in an image of `shape` (rows, columns).

    A line goes when it reads like text (score, number of characters, height), when it has the shape of one though it
    cannot be read (a script or a hand that no engine knows), or when `is_known` says that it resembles one of the
    patient's own values; a short token goes only beside text that goes. Markers stay, also where another look
    misread them as such a token, unless text that goes, or that went when what is `filled` was, may go on with them.
    """
    limit = MAX_SHORT_SIDE * min(shape)
    chosen, short, markers = [], [], []
    for line in lines:
        if is_known(line.text):
            chosen.append(line)
        elif is_marker(line):
            markers.append(line)
        elif is_line_shaped(line, shape):
            chosen.append(line)
        elif line.score < _least_score(line, shape) or _height(line) > limit:
            continue
        elif alphanumerics(line.text) >= MIN_ALPHANUMERICS:
            chosen.append(line)
        elif alphanumerics(line.text) > 0:
            short.append(line)
    grown = [line.box.grown(round(NEIGHBOURHOOD * line.box.short_side)) for line in chosen]
    beside = [line for line in short if any(line.box.overlaps(box) for box in grown)]
    texts = [*filled, *(line.box for line in chosen + short)]
    return chosen + [line for line in beside if not _is_marker_misread(line, markers, texts)]
