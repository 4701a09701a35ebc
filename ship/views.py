"""What the text engines look at: 8-bit views of pixels of any depth."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ship.ocr import Grey

_BACKGROUND = 33
"""Pixels of the median filter that stands for what is behind text: strokes vanish in it, edges of the field stay."""
_SURROUNDINGS = 24.0
"""Standard deviation in pixels of the blur within which the contrast is made the same."""
_GAIN = 40.0
_FLOOR = 3.0
"""Grey levels that are added to the local contrast: noise below is not amplified to the strength of text."""


def plain_view(pixels: npt.NDArray[Any]) -> Grey:
    """Pixels of any depth as 8 bits, deeper ones scaled by the 0.5 to 99.5 percentiles, which no hot pixel moves."""
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    return np.asarray(np.clip(_scaled(pixels), 0, 255), dtype=np.uint8)


def even_view(pixels: npt.NDArray[Any]) -> Grey:
    """The background subtracted and the contrast made the same everywhere: faint text is as strong as bold text."""
    values = pixels.astype(np.float32) if pixels.dtype == np.uint8 else _scaled(pixels)
    detail = values - cv2.medianBlur(plain_view(pixels), _BACKGROUND)
    spread = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), _SURROUNDINGS))
    return np.asarray(np.clip(128 + _GAIN * detail / (spread + _FLOOR), 0, 255), dtype=np.uint8)


def _scaled(pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    low, high = np.percentile(pixels[::2, ::2], (0.5, 99.5))
    if high <= low:
        low, high = float(pixels.min()), float(pixels.max())
    return ((pixels.astype(np.float32) - np.float32(low)) * np.float32(255 / max(high - low, 1))).astype(np.float32)
