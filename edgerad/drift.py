"""Whether today's images are like those that the model was trained on, by how their novelties are spread.

A novelty (`serve.novelty`) is a rank among the training images: those of an unchanged source are spread evenly over
0..1. The drift score is the largest distance between the spread seen and the even one (Kolmogorov, Smirnov), 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

WINDOW = 200
"""Newest images that are looked at."""
LEAST = 50
"""Fewer say nothing."""
NOTABLE = 0.2
"""Less is no matter, however sure: the training hospital's own test images have 0.04."""
CRITICAL = 1.63
"""Over the square root of the number of images: exceeded by chance once in a hundred (Smirnov, 1948)."""


@dataclass(frozen=True)
class Drift:
    """The drift of some images; `score` is None for fewer than LEAST."""

    images: int
    score: float | None

    @property
    def is_flagged(self) -> bool:
        """Whether the images are notably, and surely, unlike the training images."""
        return self.score is not None and self.score > max(NOTABLE, CRITICAL / sqrt(self.images))


def measure(novelties: Sequence[float]) -> Drift:
    """Return the drift of images with these novelties, 0..1."""
    count = len(novelties)
    if count < LEAST:
        return Drift(count, None)
    ranked = sorted(novelties)
    above = max((number + 1) / count - value for number, value in enumerate(ranked))
    below = max(value - number / count for number, value in enumerate(ranked))
    return Drift(count, max(above, below))
