"""A first, simple check that pixels can be a radiograph at all: not blank, not noise, not a colour picture.

It catches gross mistakes only. Limits were set on phantoms and checked on real radiographs, with wide margins.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from imaging.refusal import Unreadable
from imaging.resample import Plane
from serve.preprocess import between, to_grid

MIN_CONTRAST = 0.02  # spread of the 1st..99th percentile against the largest value that the pixels could hold
MIN_NEIGHBOUR_CORRELATION = 0.5  # radiographs lie above 0.95 on the grid, white noise near 0
MAX_CHROMA = 6.0  # mean distance from grey in Cb, Cr levels; scanned film has a faint tint


def check_pixels(pixels: Plane, colour: float = 0.0, grid: npt.NDArray[np.float32] | None = None) -> None:
    """Raise Unreadable for a blank, structureless or coloured picture; `colour` is what `chroma` measured.

    `grid` is what `to_grid` made of the pixels, where that is known.
    """
    if colour > MAX_CHROMA:
        raise Unreadable("colour", f"mean chroma {colour:.0f} of 128, radiographs stay under {MAX_CHROMA:g}")
    grid = to_grid(pixels) if grid is None else grid
    low, high = between(grid[::2, ::2], 1, 99)  # of a quarter: a fifth of the time
    scale = 255.0 if pixels.dtype == np.uint8 else 65535.0
    if high - low < MIN_CONTRAST * scale:
        raise Unreadable("blank", "all pixels are nearly alike")
    correlation = neighbour_correlation(grid)
    if correlation < MIN_NEIGHBOUR_CORRELATION:
        raise Unreadable("noise", f"neighbouring pixels correlate by {correlation:.2f} only")


def neighbour_correlation(grid: npt.NDArray[np.float32]) -> float:
    """Return the smaller of the correlations between horizontal and between vertical neighbours, in -1..1."""
    centred = grid - grid.mean()  # once for both: neighbours have nearly the same mean
    return min(_cosine(centred[:, :-1], centred[:, 1:]), _cosine(centred[:-1], centred[1:]))


def _cosine(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
    spread = float(np.sqrt(np.vdot(first, first) * np.vdot(second, second)))
    return float(np.vdot(first, second)) / spread if spread > 0 else 0.0
