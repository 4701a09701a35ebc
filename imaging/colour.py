"""How coloured a picture is."""

from __future__ import annotations

import cv2
import numpy as np

from imaging.resample import Plane


def chroma(rgb: Plane) -> float:
    """Return the mean distance of an RGB picture [rows, columns, 3] from grey, in 8-bit levels of Cb and Cr."""
    scale = 1.0 if rgb.dtype == np.uint8 else 255 / 65535
    small = cv2.resize(rgb, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32) * scale
    red, green, blue = small[:, :, 0], small[:, :, 1], small[:, :, 2]
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return float(np.mean(np.hypot(0.564 * (blue - luma), 0.713 * (red - luma))))
