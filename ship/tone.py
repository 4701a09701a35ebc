"""How the values of one image show: which of them are padding, which of two is darker, what text engines look at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from imaging.greyscale import Pipeline, Window, darkest
from imaging.tables import Table

Pixels = npt.NDArray[Any]
Shown = npt.NDArray[np.float32]
"""What each word of the pixel type shows as: 256 or 65,536 numbers; a signed value's word is its two's complement."""
SQUEEZED = 1.25
"""Padding that makes the range of values wider than this many times leaves too few grey levels for faint text."""
ROWS_AT_A_TIME = 256
NO_PIPELINE = Pipeline(None, 1.0, 0.0, None, False)


@dataclass(frozen=True)
class Tone:
    """The grey-scale pipeline of an image, and the first and last value that are padding; colours have neither."""

    pipeline: Pipeline = NO_PIPELINE
    padding: tuple[int, int] | None = None

    def real(self, pixels: Pixels) -> npt.NDArray[np.bool_]:
        """Return which pixels are no padding, as [rows, columns]."""
        if self.padding is None:
            return np.ones(pixels.shape[:2], bool)
        first, last = self.padding
        return np.asarray((pixels < first) | (pixels > last))

    def darkest(self, pixels: Pixels, among: npt.NDArray[np.bool_]) -> int:
        """Return the value that shows darkest of the pixels in `among`, padding left out; 0 where there are none."""
        ends = _ends(pixels, among & self.real(pixels)) or _ends(pixels, among)
        return 0 if ends is None else int(darkest(self.pipeline, *ends))

    def looks(self, pixels: Pixels) -> list[Shown | None]:
        """Return the ways in which text is looked for: None, the stored values as they are, and then what they show.

        The stored values hide nothing, whatever a table or padding does to them. But padding far away from the values
        takes their grey levels, and a modality LUT can bring out what is faint: then they are looked at a second time,
        as modality values, full range, with the padding filled by the darkest real value.
        """
        filled = self._filled(pixels)
        if filled is None and self.pipeline.modality is None:
            return [None]
        words = np.arange(1 << 8 * pixels.dtype.itemsize, dtype=f"u{pixels.dtype.itemsize}").view(pixels.dtype)
        return [None, np.asarray(self.pipeline.modality_values(words if filled is None else filled(words)), np.float32)]

    def _filled(self, pixels: Pixels) -> Any:
        """Return a function that fills padding, None where it would change little or nothing."""
        ends = None if self.padding is None else _ends(pixels, self.real(pixels))
        if ends is None:
            return None
        low, high = ends
        if int(pixels.max()) - int(pixels.min()) <= SQUEEZED * (int(high) - int(low)):
            return None
        fill = darkest(self.pipeline, low, high)
        return lambda words: np.where(self.real(words), words, fill)

    def is_like(self, other: Tone) -> bool:
        """Return whether two tones show all values alike; decimal numbers may differ by rounding."""
        one, two = self.pipeline, other.pipeline
        return (
            self.padding == other.padding
            and one.inverted == two.inverted
            and _alike(one.modality or _rescale(one), two.modality or _rescale(two))
            and _alike(one.declared_voi, two.declared_voi)
        )


PLAIN = Tone()
"""Pictures and colours: the lowest value is black, and none is padding."""


def shown_as(pixels: Pixels, shown: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what each pixel shows as, in the type of the table; a few rows at a time, so that memory stays flat."""
    words = pixels.view(f"u{pixels.dtype.itemsize}")
    result = np.empty(pixels.shape, shown.dtype)
    for at in range(0, len(words), ROWS_AT_A_TIME):
        result[at : at + ROWS_AT_A_TIME] = shown[words[at : at + ROWS_AT_A_TIME]]
    return result


def _ends(pixels: Pixels, among: npt.NDArray[np.bool_]) -> tuple[Any, Any] | None:
    """Return the lowest and the highest value of some pixels, None where there are none; without copying them."""
    if not among.any():
        return None
    where = among[..., None] if pixels.ndim == 3 else among
    limits = np.iinfo(pixels.dtype)
    return pixels.min(where=where, initial=limits.max), pixels.max(where=where, initial=limits.min)


def _rescale(pipeline: Pipeline) -> tuple[float, float]:
    """Return the numbers that count where no modality table does."""
    return pipeline.slope, pipeline.intercept


def _alike(one: Any, two: Any) -> bool:
    """Return whether two steps do the same, but for rounding."""
    if isinstance(one, Table) and isinstance(two, Table):
        return (one.first, one.bits) == (two.first, two.bits) and np.array_equal(one.entries, two.entries)
    if isinstance(one, Window) and isinstance(two, Window):
        return one.function == two.function and _alike((one.center, one.width), (two.center, two.width))
    if isinstance(one, tuple) and isinstance(two, tuple):
        return all(math.isclose(first, second, rel_tol=1e-9) for first, second in zip(one, two, strict=True))
    return one is None and two is None
