"""Intervals for shares; the kernel's own, since the dashboard may not import train/."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Share:
    """A share with its 95 % interval; `value` is None where nothing was counted."""

    successes: int
    trials: int
    value: float | None
    low: float
    high: float


def wilson(successes: int, trials: int) -> Share:
    """Return a share with Wilson's score interval (E. B. Wilson, JASA 22 (1927) 209-212)."""
    if trials == 0:
        return Share(0, 0, None, 0.0, 1.0)
    share, square = successes / trials, Z95 * Z95
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    half = Z95 * sqrt(share * (1 - share) / trials + square / (4 * trials * trials)) / (1 + square / trials)
    low = centre - half if successes else 0.0  # exactly, where rounding would leave a trace
    high = centre + half if successes < trials else 1.0
    return Share(successes, trials, share, low, high)
