"""The class activation map as a tint over the image: where the model's evidence lies, never why it is evidence."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from edgerad.scoring import ActivationMap
from imaging.display import Grey, Picture

CELL = 32  # pixels a cell is drawn with before it is smoothed
SMOOTHING = 0.4  # standard deviation of the smoothing, in cells
FAINTEST_FULL = 4.0
"""Logits that a cell needs for the full tint: an image with no evidence anywhere stays untinted, not stretched."""
TINT = (40, 120, 255)  # orange, as blue, green, red


def heat(activation: ActivationMap) -> Picture:
    """Return a map as values from 0 to 1 over the whole image, smooth between cells; evidence for, never against."""
    smooth = np.maximum(_smooth(activation), 0)
    return Picture(np.asarray(smooth / max(float(smooth.max()), FAINTEST_FULL), np.float32), 0.0, 1.0)


def peak(activation: ActivationMap) -> tuple[float, float]:
    """Return where the evidence is strongest, (x, y) as shares of the image's width and height."""
    values = _smooth(activation)
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return (float(column) + 0.5) / values.shape[1], (float(row) + 0.5) / values.shape[0]


def tint(grey: Grey, warmth: Picture, opacity: float) -> npt.NDArray[np.uint8]:
    """Return grey [rows, columns] tinted as `warmth` and opacity say, [rows, columns, 3], blue first."""
    rows, columns = grey.shape
    share = cv2.resize(warmth.values, (columns, rows), interpolation=cv2.INTER_LINEAR)[:, :, np.newaxis] * opacity
    mixed = grey[:, :, np.newaxis] * (1 - share) + np.array(TINT, np.float32) * share
    return np.asarray(np.clip(np.rint(mixed), 0, 255), np.uint8)


def _smooth(activation: ActivationMap) -> npt.NDArray[np.float32]:
    cells = np.asarray(activation, np.float32)
    rows, columns = cells.shape
    blocks = cv2.resize(cells, (columns * CELL, rows * CELL), interpolation=cv2.INTER_NEAREST)
    return np.asarray(cv2.GaussianBlur(blocks, (0, 0), SMOOTHING * CELL), np.float32)
