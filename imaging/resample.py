"""Reduce grey planes by averaging."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

AREA_TYPES = (np.uint8, np.uint16, np.int16, np.float32, np.float64)
"""Types that OpenCV averages areas of; it raises for the others."""
Plane = npt.NDArray[np.integer[Any] | np.floating[Any]]


MOST_PIXELS = 24_000_000
"""Of a reduced plane: a strip that is far longer than wide is averaged further, so that memory stays bounded."""


def reduce_pixels(pixels: Plane, reduce_to: int | None) -> Plane:
    """Average whole blocks so that the shorter side stays at or above `reduce_to`; the dtype stays."""
    if not reduce_to:
        return pixels
    factor = max(min(pixels.shape[:2]) // reduce_to, 1)
    rows, columns = (length // factor for length in pixels.shape[:2])
    whole = pixels[: rows * factor, : columns * factor]
    if rows * columns > MOST_PIXELS:
        rows, columns = (max(1, int(length * (MOST_PIXELS / (rows * columns)) ** 0.5)) for length in (rows, columns))
    elif factor == 1:
        return pixels
    if whole.dtype in AREA_TYPES:
        return cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
    # Through float64, which holds what 32 bits hold; the tables that follow are indexed by whole numbers.
    means = cv2.resize(whole.astype(np.float64), (columns, rows), interpolation=cv2.INTER_AREA)
    return np.rint(means).astype(pixels.dtype)
