"""Which of the text that was read on an image must go, and which is a marker that stays."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ship.boxes import Box
from ship.ocr import Line

MIN_SCORE = 0.5
MIN_ALPHANUMERICS = 3
MAX_SHORT_SIDE = 0.18
"""Of the image's shorter side: anything higher is anatomy that was taken for a letter."""
PADDING = 6
"""Pixels around a detected line: the union of both engines misses stroke ends without it."""
ENDS = 0.3
"""Line heights by which a line is lengthened at both ends: of faint ones the first or last character is missed."""
NEIGHBOURHOOD = 1.5
"""Line heights around redacted text within which a token of one or two characters is part of that text."""

MARKERS = frozenset({
    "R", "L", "RT", "LT", "LEFT", "RIGHT", "AP", "PA", "AP/PA", "LAT", "LATERAL", "LL", "RL", "RLD", "LLD", "DECUB",
    "DECUBITUS", "SUPINE", "PRONE", "ERECT", "UPRIGHT", "SITTING", "SEMIERECT", "SEMI-ERECT", "STANDING", "PORTABLE",
    "MOBILE", "INSP", "EXP", "INSPIRATION", "EXPIRATION", "FRONTAL", "OBLIQUE", "CHEST",
})  # fmt: skip
"""Laterality and positioning words that a radiographer puts on the image: clinical content, never identity."""


def area(line: Line, shape: tuple[int, int]) -> Box:
    """What is filled of an image of that shape (rows, columns) for the line's sake."""
    return line.box.lengthened(round(ENDS * line.box.short_side)).grown(PADDING).clipped(*shape)


def alphanumerics(text: str) -> int:
    """How many letters or digits of any script a text has."""
    return sum(ch.isalnum() for ch in text)


def is_marker(line: Line) -> bool:
    """Whether the whole line is a word of laterality or positioning, surely read."""
    return line.score >= MIN_SCORE and re.sub(r"[^A-Z/-]", "", line.text.upper()) in MARKERS and line.text.isascii()


def to_redact(
    lines: Sequence[Line], shape: tuple[int, int], *, is_known: Callable[[str], bool] = lambda _: False
) -> list[Line]:
    """The lines to fill, of all that every engine found in an image of `shape` (rows, columns).

    A line goes when it reads like text (score, number of characters, height), or when `is_known` says that it resembles
    one of the patient's own values; a short token goes only beside text that goes. Markers stay.
    """
    limit = MAX_SHORT_SIDE * min(shape)
    chosen, short = [], []
    for line in lines:
        count = alphanumerics(line.text)
        if is_known(line.text):
            chosen.append(line)
        elif line.score < MIN_SCORE or line.box.short_side > limit or is_marker(line):
            continue
        elif count >= MIN_ALPHANUMERICS:
            chosen.append(line)
        elif count > 0:
            short.append(line)
    grown = [line.box.grown(round(NEIGHBOURHOOD * line.box.short_side)) for line in chosen]
    return chosen + [line for line in short if any(line.box.overlaps(box) for box in grown)]
