"""Whether pixels show one upright, frontal chest radiograph, bright where dense: asked before the model is.

A network scores whatever it is given: a hand or an inverted chest gets a number too. This check knows only what a
frontal chest looks like. Signed gradients (N. Dalal, B. Triggs, CVPR 2005) and coarse brightness go through a Gaussian
kernel, by random Fourier features (A. Rahimi, B. Recht, NIPS 2007), into one value fitted to +1 for chests and -1 for
other pictures. Far from all that was fitted the kernel is near 0: what it has never seen is refused, not guessed.

`train.view` fits it; NumPy runs it, in a fraction of the model's time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from imaging.refusal import Unreadable
from serve.bundle import BundleError
from serve.preprocess import GRID

Floats = npt.NDArray[np.float32]
FILE = "view-check.npz"
SHA256 = "d7cea86f9cd4b37de197a4bb438f4b52900a226fd38295c9f8df05c31ee7801c"
THRESHOLD = 0.25
"""Least value of a frontal chest; what it refuses and lets pass is in docs/model.md."""

WINDOW, CELLS, BINS, COARSE = 64, 8, 12, 12
COARSE_WEIGHT = 0.35
TURNS: Final[dict[str, Callable[[Floats], Floats]]] = {
    "inverted": lambda image: 255 - image,
    "upside down": lambda image: image[::-1, ::-1],
    "upside down and mirrored": lambda image: image[::-1],
    "on its side": np.rot90,
    "on its other side": lambda image: np.rot90(image, 3),
}


@dataclass(frozen=True)
class ViewCheck:
    """A fitted check: value = cos((features - mean) @ basis @ frequencies + phases) @ weights."""

    mean: Floats
    basis: Floats
    frequencies: Floats
    phases: Floats
    weights: Floats

    def value(self, stretched: Floats) -> float:
        """Return about 1 for a frontal chest, -1 for another picture; `stretched` is [GRID, GRID] in 0..255."""
        return float(self.values(features(stretched)[np.newaxis])[0])

    def values(self, rows: Floats) -> Floats:
        """Return the values of features [n, FEATURES]."""
        return np.asarray(np.cos((rows - self.mean) @ self.basis @ self.frequencies + self.phases) @ self.weights)

    def check(self, stretched: Floats, threshold: float = THRESHOLD) -> Floats:
        """Return the features of a frontal chest; raise Unreadable for another picture, saying how it is turned."""
        row = features(stretched)
        value = float(self.values(row[np.newaxis])[0])
        if value >= threshold:
            return row
        turned = {name: self.value(np.ascontiguousarray(turn(stretched))) for name, turn in TURNS.items()}
        best = max(turned, key=lambda name: turned[name])
        if turned[best] >= max(threshold, value + 0.5):
            reason = "inverted" if best == "inverted" else "turned"
            raise Unreadable(reason, f"it looks like a frontal chest {best} (view {turned[best]:.2f})")
        raise Unreadable(
            "other-view", f"it does not look like a frontal chest (view {value:.2f}, {threshold:g} needed)"
        )

    def save(self, path: Path) -> str:
        """Write the check to a file in 16 bits; return its SHA-256."""
        buffer = BytesIO()
        np.savez_compressed(buffer, **{name: value.astype(np.float16) for name, value in vars(self).items()})
        path.write_bytes(buffer.getvalue())
        return hashlib.sha256(buffer.getvalue()).hexdigest()


def pinned(name: str, sha256: str) -> bytes:
    """Return a file of models/ that belongs to this release; BundleError when it is another, or is not there."""
    path = Path(__file__).resolve().parent.parent / "models" / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{name} cannot be read ({error.strerror}); install edgerad again") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BundleError(f"{name} is not the file of this release (its SHA-256 differs); install edgerad again")
    return data


@cache
def view_check() -> ViewCheck:
    """Return the check that ships with edgerad; BundleError when its file is not the one of this release."""
    return load(pinned(FILE, SHA256))


def load(data: bytes) -> ViewCheck:
    """Return the check in a file's bytes."""
    with np.load(BytesIO(data), allow_pickle=False) as archive:
        return ViewCheck(**{name: archive[name].astype(np.float32) for name in archive.files})


def features(stretched: Floats) -> Floats:
    """Return what the check sees of a stretched grid [GRID, GRID] in 0..255: [BINS * CELLS^2 + COARSE^2]."""
    if stretched.shape != (GRID, GRID):
        raise ValueError(f"the view check takes a grid of {GRID} x {GRID}, not {stretched.shape}")
    small = cv2.resize(stretched, (WINDOW, WINDOW), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    across, down = cv2.Sobel(small, cv2.CV_32F, 1, 0, ksize=3), cv2.Sobel(small, cv2.CV_32F, 0, 1, ksize=3)
    length, angle = cv2.cartToPolar(across, down)
    strength = np.sqrt(length)  # so that a marker's or a lead's edge does not outweigh the ribs
    place = angle * (BINS / (2 * np.pi))
    low = np.minimum(place.astype(np.intp), BINS - 1)
    share = place - low
    rows, columns = np.ogrid[:WINDOW, :WINDOW]
    planes = np.zeros((BINS + 1, WINDOW, WINDOW), np.float32)
    planes[low, rows, columns] = strength * (1 - share)
    planes[low + 1, rows, columns] += strength * share
    planes[0] += planes[BINS]
    pool = _pool(CELLS)
    pooled = pool @ planes[:BINS] @ pool.T
    energy = np.square(pooled).sum(axis=0)
    gradients = pooled / np.sqrt(BINS * (energy + 0.02 * energy.mean() + 1e-6))
    pool = _pool(COARSE)
    coarse = pool @ small @ pool.T
    coarse = (coarse - coarse.mean()) * (COARSE_WEIGHT / (coarse.std() + 0.02) / np.sqrt(COARSE))
    return np.concatenate([gradients.ravel(), coarse.ravel()]).astype(np.float32)


@cache
def _pool(cells: int) -> Floats:
    """Return [cells, WINDOW]: Gaussian averages around the centre of each cell."""
    step = WINDOW / cells
    centres = (np.arange(cells) + 0.5) * step - 0.5
    near = np.exp(-0.5 * ((np.arange(WINDOW) - centres[:, np.newaxis]) / (0.45 * step)) ** 2)
    return np.asarray(near / near.sum(axis=1, keepdims=True), np.float32)
