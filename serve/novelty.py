"""How unlike the images a model was trained on an image is: what the drift of a site is measured by.

Scores are only as good as the likeness of today's images to those of the training. An image's distance (Mahalanobis)
from each training source, in the space of the view check, is ranked among held-out images of that source: 0.3 is nearer
than 70 % of them, 1 is farther than all. The least over the sources is the novelty. Images like those of the training
have novelties spread evenly over 0..1; `edgerad.drift` looks at that.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serve.view import ViewCheck, pinned

Floats = npt.NDArray[np.float32]
FILE = "usual-chests.npz"
SHA256 = "ee134b02f06b45d50c2d81bb7337ddd38fb12ba0c734d3a2d7e3e75375aed556"
DIMENSIONS = 48
PARTS = ("mean", "whitening", "distances")


@dataclass(frozen=True)
class Source:
    """Where a source's images lie: mean [d], whitening [d, d], and the sorted distances of held-out ones."""

    mean: Floats
    whitening: Floats
    distances: Floats

    def rank(self, place: Floats) -> float:
        """Return which share of the source's own images lies nearer than a place [d]."""
        distance = np.square((place - self.mean) @ self.whitening).sum()
        return float(np.searchsorted(self.distances, distance) / len(self.distances))


@dataclass(frozen=True)
class Usual:
    """The sources that the shipped model was trained on, by name."""

    sources: dict[str, Source]

    def novelty(self, place: Floats) -> float:
        """Return the novelty, 0..1, of a place of `place_of`."""
        return min(source.rank(place) for source in self.sources.values())

    def save(self, path: Path) -> str:
        """Write to a file; return its SHA-256."""
        arrays = {f"{name}.{part}": getattr(source, part) for name, source in self.sources.items() for part in PARTS}
        buffer = BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        path.write_bytes(buffer.getvalue())
        return hashlib.sha256(buffer.getvalue()).hexdigest()


def place_of(check: ViewCheck, row: Floats) -> Floats:
    """Return where features (of `serve.view.features`) lie: their first DIMENSIONS in the check's basis."""
    return np.asarray((row - check.mean) @ check.basis[:, :DIMENSIONS], np.float32)


def describe(places: Floats, held_out: Floats) -> Source:
    """Return a source of places [n, d], ranked by held-out places of the same source."""
    mean = places.mean(axis=0)
    covariance = np.cov(places.T)
    covariance += 1e-4 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    distances = np.sort(np.square((held_out - mean) @ whitening).sum(axis=1))
    return Source(*(np.asarray(array, np.float32) for array in (mean, whitening, distances)))


@cache
def usual() -> Usual:
    """Return what ships with edgerad; BundleError when its file is not the one of this release."""
    return load(pinned(FILE, SHA256))


def load(data: bytes) -> Usual:
    """Return what a file's bytes hold."""
    with np.load(BytesIO(data), allow_pickle=False) as archive:
        names = sorted({name.rpartition(".")[0] for name in archive.files})
        return Usual({name: Source(*(archive[f"{name}.{part}"] for part in PARTS)) for name in names})
