"""Labelled synthetic radiographs as training and test cases, drawn by a process on every core."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import cv2
import numpy as np
import numpy.typing as npt

from edgerad.phantom import PhantomSpec, random_spec, render
from train.dataset import LABELS, LESION_SIDE, Cases, grid_of

TRAIN_SEED, TEST_SEED, GOLDEN_SEED = 7_001, 7_002, 7_003
BURNED_IN_SHARE = 0.3


def phantom_specs(
    count: int, seed: int, *, scanners: Sequence[str] = ("standard",), sizes: Sequence[int] = (512,)
) -> list[PhantomSpec]:
    """Return `count` specs, half of them abnormal; the same arguments always give the same ones."""
    specs = []
    for index in range(count):
        rng = np.random.default_rng([seed, index, 1])
        specs.append(
            random_spec(
                [seed, index],
                positive=index % 2 == 1,
                scanner=scanners[int(rng.integers(len(scanners)))],
                burned_in=bool(rng.random() < BURNED_IN_SHARE),
                size=int(rng.choice(np.asarray(sizes))),
            )
        )
    return specs


def phantom_cases(specs: Sequence[PhantomSpec]) -> Cases:
    """Draw the specs; the source of a case is `phantom/<scanner>`, its group the fake patient; lesions are known."""
    # Most of the drawing is Python, so threads would wait for each other; spawned, for TensorFlow may be loaded here.
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(specs)), mp_context=get_context("spawn")) as pool:
        drawn = list(pool.map(_draw, specs, chunksize=4))
    return Cases(
        np.stack([grid for grid, _ in drawn]),
        np.array([LABELS[spec.label] for spec in specs], np.int8),
        tuple(f"phantom-{spec.patient}" for spec in specs),
        tuple(f"phantom/{spec.scanner}" for spec in specs),
        np.stack([lesion for _, lesion in drawn]),
    )


def _draw(spec: PhantomSpec) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    phantom = render(spec)
    lesion = phantom.mask.astype(np.uint8) * 255
    small = cv2.resize(lesion, (LESION_SIDE, LESION_SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8)
    return grid_of(phantom.pixels), small
