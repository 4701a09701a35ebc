"""From a calibrated probability to what happens next: high, unknown or low."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgerad.scoring import Triage


@dataclass(frozen=True)
class Thresholds:
    """Above `high` is high, below `low` is low, the rest unknown; the version goes into every assessment."""

    version: str
    high: float = 0.80
    low: float = 0.20

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < 1:
            raise ValueError(f"thresholds need 0 < low <= high < 1, not low {self.low} and high {self.high}")

    def classify(self, probability: float) -> Triage:
        """Return the triage class of a calibrated probability in 0..1; ValueError outside (or for NaN)."""
        if not 0 <= probability <= 1:
            raise ValueError(f"a probability lies in 0..1, not {probability}")
        if probability > self.high:
            return "high"
        return "low" if probability < self.low else "unknown"


CHOICES = (
    *((low, 0.80) for low in (0.05, 0.10, 0.15, 0.20, 0.25, 0.30, 0.40, 0.50)),
    *((low, 0.90) for low in (0.05, 0.10, 0.20, 0.30)),
    *((low, 0.95) for low in (0.05, 0.10, 0.20)),
)
"""Pairs of thresholds (low, high) that are measured for whoever must choose; none calls high what is at most 80 %."""


@dataclass(frozen=True)
class Choice:
    """What a pair of thresholds does on labelled cases. An error is a call at 0.5 that the label contradicts.

    Shares: of the cases that are unknown; of the errors that are among these, so that a person is asked; of the low
    cases that are positive, and of the high ones that are negative. A share of nothing is None.
    """

    low: float
    high: float
    unknown: float
    caught: float | None
    low_wrong: float | None
    high_wrong: float | None


def measure_choices(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, choices: Sequence[tuple[float, float]] = CHOICES
) -> list[Choice]:
    """Measure pairs of thresholds on labels 0 or 1 and calibrated probabilities [n]; ValueError if there are none."""
    truth, p = np.asarray(labels) == 1, np.asarray(probabilities, np.float64)
    if truth.shape != p.shape or not p.size:
        raise ValueError(f"labels and probabilities must be two lists of one length, not {truth.shape} and {p.shape}")
    errors = (p >= 0.5) != truth
    rows = []
    for low, high in choices:
        unknown = (p >= low) & (p <= high)
        rows.append(
            Choice(
                low,
                high,
                float(unknown.mean()),
                _share(unknown[errors]),
                _share(truth[p < low]),
                _share(~truth[p > high]),
            )
        )
    return rows


def _share(hits: npt.NDArray[np.bool_]) -> float | None:
    return float(hits.mean()) if hits.size else None
