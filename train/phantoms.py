"""Labelled synthetic radiographs as training and test cases, drawn on two threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from edgerad.phantom import PhantomSpec, random_spec, render
from train.dataset import LABELS, LESION_SIDE, Cases, make_cases

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
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        drawn = list(pool.map(_draw, specs))
    cases = make_cases(
        [
            (pixels, LABELS[spec.label], f"phantom-{spec.patient}", f"phantom/{spec.scanner}")
            for spec, (pixels, _) in zip(specs, drawn, strict=True)
        ]
    )
    return replace(cases, lesions=np.stack([lesion for _, lesion in drawn]))


def _draw(spec: PhantomSpec) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    phantom = render(spec)
    lesion = phantom.mask.astype(np.uint8) * 255
    return phantom.pixels, cv2.resize(lesion, (LESION_SIDE, LESION_SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8)
