"""From a calibrated probability to what happens next: high, unknown or low."""

from __future__ import annotations

from dataclasses import dataclass

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
