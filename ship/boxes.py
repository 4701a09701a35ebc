"""A rectangle of pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


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
    def slices(self) -> tuple[slice, slice]:
        """The index of this rectangle in an array of rows and columns."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def overlaps(self, other: Self) -> bool:
        """Whether the two share a pixel."""
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1

    def grown(self, pixels: int) -> Box:
        """The rectangle with `pixels` more on every side; it may leave the image."""
        return Box(self.x0 - pixels, self.y0 - pixels, self.x1 + pixels, self.y1 + pixels)

    def clipped(self, rows: int, columns: int) -> Box:
        """The part of the rectangle inside an image of that size."""
        return Box(max(self.x0, 0), max(self.y0, 0), min(self.x1, columns), min(self.y1, rows))

    def as_list(self) -> list[int]:
        """The four numbers x0, y0, x1, y1, for JSON."""
        return [self.x0, self.y0, self.x1, self.y1]
