"""A network of a few thousand weights that ends as every architecture here does, and a lesion that it can learn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from edgerad.phantom import random_spec, render
from serve.preprocess import GRID
from train.dataset import LESION_SIDE, Cases, grid_of

if TYPE_CHECKING:
    import keras

SIDE = 160
FILTERS = (6, 8, 12, 16, 16)


def build_tiny(seed: int = 0) -> keras.Model:
    """Build float32 [n, 160, 160, 1] to one logit, by a map of 5 x 5 cells; no dropout, so that runs repeat exactly."""
    import keras

    keras.utils.set_random_seed(seed)
    inputs = keras.Input((SIDE, SIDE, 1), name="image")
    x = keras.layers.Rescaling(1 / 64, offset=-2.0)(inputs)
    for index, filters in enumerate(FILTERS):
        x = keras.layers.Conv2D(filters, 3, 2, padding="same", use_bias=False, name=f"block{index}_conv")(x)
        x = keras.layers.BatchNormalization(momentum=0.8, name=f"block{index}_norm")(x)
        x = keras.layers.ReLU(6.0, name="head_relu" if index == len(FILTERS) - 1 else f"block{index}_relu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(1, name="logit", dtype="float32")(x), name="tiny")


def planted(count: int, seed: int) -> Cases:
    """Normal phantoms; in every other one a bright disc is planted, and it is known where."""
    rng = np.random.default_rng(seed)
    base = [grid_of(render(random_spec((seed, index), finding="normal", size=256)).pixels) for index in range(6)]
    grids, lesions = [], np.zeros((count, LESION_SIDE, LESION_SIDE), np.uint8)
    for index in range(count):
        grid = base[index % len(base)].copy()
        if index % 2:
            x, y = (int(value) for value in rng.integers(60, GRID - 60, 2))
            cv2.circle(grid, (x, y), 26, 255, -1)
            cv2.circle(lesions[index], (x // 4, y // 4), 6, 255, -1)
        grids.append(grid)
    labels = (np.arange(count) % 2).astype(np.int8)
    return Cases(np.stack(grids), labels, tuple(f"p{index}" for index in range(count)), ("planted",) * count, lesions)
