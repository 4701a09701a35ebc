"""A rectangle of pixels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

ALIKE = 0.8
"""Intersection over union from which on two boxes are two engines' of one line."""


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """Columns x0 to x1 and rows y0 to y1 of an image, the ends excluded."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def short_side(self) -> int:
        """The smaller of width and height, in pixels."""
        return min(self.x1 - self.x0, self.y1 - self.y0)

    @property
    def long_side(self) -> int:
        """The larger of width and height, in pixels."""
        return max(self.x1 - self.x0, self.y1 - self.y0)

    @property
    def is_upright(self) -> bool:
        """Whether it is higher than wide."""
        return self.y1 - self.y0 > self.x1 - self.x0

    @property
    def area(self) -> int:
        """Width times height, in pixels."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    @property
    def slices(self) -> tuple[slice, slice]:
        """The index of this rectangle in an array of rows and columns."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def overlaps(self, other: Self) -> bool:
        """Whether the two share a pixel."""
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1

    def grown(self, pixels: int) -> Box:
        """The rectangle with `pixels` more on every side; it may leave the image."""
        return Box(self.x0 - pixels, self.y0 - pixels, self.x1 + pixels, self.y1 + pixels)

    def lengthened(self, pixels: int) -> Box:
        """The rectangle with `pixels` more at both ends of its longer side; it may leave the image."""
        if self.x1 - self.x0 >= self.y1 - self.y0:
            return Box(self.x0 - pixels, self.y0, self.x1 + pixels, self.y1)
        return Box(self.x0, self.y0 - pixels, self.x1, self.y1 + pixels)

    def clipped(self, rows: int, columns: int) -> Box:
        """The part of the rectangle inside an image of that size."""
        return Box(max(self.x0, 0), max(self.y0, 0), min(self.x1, columns), min(self.y1, rows))

    def moved(self, columns: int, rows: int) -> Box:
        """The rectangle that much further right and down."""
        return Box(self.x0 + columns, self.y0 + rows, self.x1 + columns, self.y1 + rows)

    def turned_back(self, rows: int) -> Box:
        """Where the rectangle was before a quarter turn to the left made the image `rows` pixels high (`np.rot90`)."""
        return Box(rows - self.y1, self.x0, rows - self.y0, self.x1)

    def is_centred_in(self, other: Self) -> bool:
        """Whether the other rectangle holds the middle of this one."""
        return 2 * other.x0 <= self.x0 + self.x1 < 2 * other.x1 and 2 * other.y0 <= self.y0 + self.y1 < 2 * other.y1

    def inside(self, other: Self) -> bool:
        """Whether the other rectangle holds this one whole."""
        return other.x0 <= self.x0 and other.y0 <= self.y0 and self.x1 <= other.x1 and self.y1 <= other.y1

    def around(self, other: Self) -> Box:
        """The smallest rectangle that holds both."""
        return Box(min(self.x0, other.x0), min(self.y0, other.y0), max(self.x1, other.x1), max(self.y1, other.y1))

    def iou(self, other: Self) -> float:
        """Intersection over union, 0..1."""
        width, height = min(self.x1, other.x1) - max(self.x0, other.x0), min(self.y1, other.y1) - max(self.y0, other.y0)
        if width <= 0 or height <= 0:
            return 0.0
        inner = width * height
        return inner / (self.area + other.area - inner)

    def as_list(self) -> list[int]:
        """The four numbers x0, y0, x1, y1, for JSON."""
        return [self.x0, self.y0, self.x1, self.y1]


def neighbourhoods(boxes: Iterable[Box], reach: int) -> list[Box]:
    """Rectangles that hold every box with `reach` pixels around it, none overlapping another."""
    found: list[Box] = []
    for box in boxes:
        grown = box.grown(reach)
        while touching := [other for other in found if other.overlaps(grown)]:
            found = [other for other in found if other not in touching]
            for other in touching:
                grown = grown.around(other)
        found.append(grown)
    return found


def merged(boxes: Iterable[Box]) -> list[Box]:
    """The boxes in order, one for those that are nearly the same or lie within another: together they cover no less."""
    found: list[Box] = []
    for box in boxes:
        whole = box
        while alike := [other for other in found if _are_one(whole, other)]:
            found = [other for other in found if other not in alike]
            for other in alike:
                whole = whole.around(other)
        found.append(whole)
    return sorted(found)


def _are_one(first: Box, second: Box) -> bool:
    return first.inside(second) or second.inside(first) or first.iou(second) >= ALIKE
