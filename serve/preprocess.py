"""Turn decoded grey pixels into the model's input: one function for training and for serving.

Every path (JPEG, PNG, DICOM; 8 to 16 bit) is first squashed to one grid by area averaging, then stretched between
robust percentiles there, then reduced to the input size. Source resolution, bit depth, exposure and window thus change
little, and the training images, which exist only at 224 x 224, go through the same steps as a full radiograph.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from imaging.resample import AREA_TYPES, Plane

PREPROCESSING_VERSION = "grid224-area-p0.5-99.5/1"
GRID = 224  # pixels a side; the size at which the training images were published
INPUT_SIZE = 160
LOW_PERCENTILE = 0.5
HIGH_PERCENTILE = 99.5

Input = npt.NDArray[np.uint8]


def preprocess(pixels: Plane, input_size: int = INPUT_SIZE) -> Input:
    """Return the model's input, uint8 [input_size, input_size, 1], of grey pixels [rows, columns], bright = dense.

    Raises ValueError for anything but one grey plane.
    """
    return to_input(to_grid(pixels), input_size)


def to_grid(pixels: Plane) -> npt.NDArray[np.float32]:
    """Squash grey pixels [rows, columns] of any depth to float32 [GRID, GRID] by area averaging (anti-aliased)."""
    if pixels.ndim != 2 or pixels.size == 0:
        raise ValueError(f"preprocessing takes one grey plane [rows, columns], not shape {pixels.shape}")
    if pixels.shape == (GRID, GRID):
        return pixels.astype(np.float32)
    if min(pixels.shape) < GRID:  # OpenCV's area kernel degenerates to nearest neighbour when it enlarges
        enlarged = cv2.resize(pixels.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_LINEAR)
        return enlarged.astype(np.float32, copy=False)
    known = pixels if pixels.dtype in AREA_TYPES else pixels.astype(np.float64)
    return cv2.resize(known, (GRID, GRID), interpolation=cv2.INTER_AREA).astype(np.float32)


def to_input(grid: npt.NDArray[np.float32], input_size: int = INPUT_SIZE, *, kernel: int = cv2.INTER_AREA) -> Input:
    """Stretch a grid to 0..255 and reduce it to uint8 [input_size, input_size, 1]; training varies `kernel`."""
    return shrink(stretch(grid), input_size, kernel=kernel)


def shrink(stretched: npt.NDArray[np.float32], input_size: int, *, kernel: int = cv2.INTER_AREA) -> Input:
    """Reduce a stretched grid to uint8 [input_size, input_size, 1]."""
    resized = cv2.resize(stretched, (input_size, input_size), interpolation=kernel)
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8)[:, :, np.newaxis]


def stretch(grid: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Map the 0.5th to 99.5th percentile linearly to 0..255 and clip; a constant image becomes 0."""
    low, high = between(grid, LOW_PERCENTILE, HIGH_PERCENTILE)
    if high <= low:
        return np.zeros_like(grid)
    scaled: npt.NDArray[np.float32] = np.clip((grid - low) * np.float32(255 / (high - low)), 0, 255)
    return scaled


def between(values: npt.NDArray[np.float32], low: float, high: float) -> tuple[np.float32, np.float32]:
    """Return two percentiles of values of any shape, by the nearest rank: a third of `np.percentile`'s time."""
    ranks = [round((values.size - 1) * percentile / 100) for percentile in (low, high)]
    first, last = np.partition(values, ranks, axis=None)[ranks]
    return first, last
