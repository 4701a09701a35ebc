"""How good a model is, with intervals, and whether another is better: pure NumPy on labels and probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from serve.calibrate import calibration_error

Floats = npt.NDArray[np.float64]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Evaluation:
    """One model on one labelled set."""

    cases: int
    positives: int
    auroc: Estimate
    accuracy: Estimate
    sensitivity: Estimate
    specificity: Estimate
    ece: Estimate
    threshold: float

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON, rounded to four decimals."""
        return {
            key: {name: round(part, 4) for name, part in value.items()} if isinstance(value, dict) else value
            for key, value in asdict(self).items()
        }


@dataclass(frozen=True)
class Comparison:
    """Candidate against current on the same cases: a figure of both, by how much the candidate is better, its error.

    `error` is the gain's standard error; a gain is normally distributed around the true one.
    """

    current: float
    candidate: float
    gain: float
    error: float

    @property
    def confidence(self) -> float:
        """One-sided confidence that the candidate is better; 0.5 of two that differ in nothing."""
        if self.error > 0:
            return NormalDist().cdf(self.gain / self.error)
        return 0.5 if self.gain == 0 else float(self.gain > 0)

    def low(self, confidence: float) -> float:
        """One-sided lower bound of the gain."""
        return self.gain - NormalDist().inv_cdf(confidence) * self.error


def evaluate(labels: npt.ArrayLike, probabilities: npt.ArrayLike, *, threshold: float = 0.5) -> Evaluation:
    """Evaluate calibrated probabilities against labels 0/1; both classes must be present."""
    truth, scores = _checked(labels, probabilities)
    predicted = scores >= threshold
    positive = truth == 1
    return Evaluation(
        len(truth),
        int(positive.sum()),
        auroc(truth, scores),
        wilson(int((predicted == positive).sum()), len(truth)),
        wilson(int((predicted & positive).sum()), int(positive.sum())),
        wilson(int((~predicted & ~positive).sum()), int((~positive).sum())),
        _bootstrap(truth, scores, lambda labels, given: calibration_error(given, labels)),
        threshold,
    )


def auroc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> Estimate:
    """Area under the ROC curve; interval by DeLong on the logit scale, which keeps it within 0..1."""
    truth, values = _checked(labels, scores)
    areas, covariance = _delong(truth, values[np.newaxis])
    area, error = float(areas[0]), sqrt(max(float(covariance[0, 0]), 0.0))
    if not 0 < area < 1 or error == 0:
        return Estimate(area, *_perfect(area, truth))
    centre, spread = np.log(area / (1 - area)), NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * error / (area * (1 - area))
    low, high = (float(1 / (1 + np.exp(-(centre + sign * spread)))) for sign in (-1, 1))
    return Estimate(area, low, high)


def compare_auroc(labels: npt.ArrayLike, current: npt.ArrayLike, candidate: npt.ArrayLike) -> Comparison:
    """Compare how two models rank the same cases by DeLong's paired test.

    Source: E. R. DeLong et al., Biometrics 44 (1988) 837-845; computed as X. Sun, W. Xu, IEEE SPL 21 (2014) 1389-1393.
    """
    truth, first = _checked(labels, current)
    _, second = _checked(labels, candidate)
    areas, covariance = _delong(truth, np.stack([first, second]))
    error = sqrt(max(float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]), 0.0))
    return Comparison(float(areas[0]), float(areas[1]), float(areas[1] - areas[0]), error)


def compare_brier(labels: npt.ArrayLike, current: npt.ArrayLike, candidate: npt.ArrayLike) -> Comparison:
    """Compare two models' Brier scores on the same cases: mean squared differences of probability and label, 0 is best.

    It falls with a better ranking and with truer probabilities, and nothing but saying what one believes makes it least
    (G. W. Brier, Monthly Weather Review 78 (1950) 1-3; T. Gneiting, A. E. Raftery, JASA 102 (2007) 359-378). The gain's
    error is that of a mean of paired differences (F. X. Diebold, R. S. Mariano, JBES 13 (1995) 253-263).
    """
    truth, first = _checked(labels, current)
    _, second = _checked(labels, candidate)
    old, new = (first - truth) ** 2, (second - truth) ** 2
    gains = old - new
    return Comparison(
        float(old.mean()), float(new.mean()), float(gains.mean()), float(gains.std(ddof=1)) / sqrt(len(gains))
    )


def wilson(successes: int, trials: int) -> Estimate:
    """A proportion with Wilson's score interval (JASA 22 (1927) 209-212); no trials give the interval 0..1."""
    if trials == 0:
        return Estimate(float("nan"), 0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    share, square = successes / trials, z * z
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    half = z * sqrt(share * (1 - share) / trials + square / (4 * trials * trials)) / (1 + square / trials)
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half))


def _bootstrap(labels: Floats, scores: Floats, statistic: Callable[[Floats, Floats], float]) -> Estimate:
    rng = np.random.default_rng(0)
    values = []
    for _ in range(500):
        chosen = rng.integers(len(labels), size=len(labels))
        values.append(statistic(labels[chosen], scores[chosen]))
    low, high = np.percentile(values, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Estimate(statistic(labels, scores), float(low), float(high))


def _checked(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Floats, Floats]:
    truth, values = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise ValueError(f"labels and scores must be two lists of one length, not {truth.shape} and {values.shape}")
    if set(np.unique(truth)) != {0.0, 1.0}:
        raise ValueError("an evaluation needs cases of both labels, 0 and 1")
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite")
    return truth, values


def _perfect(area: float, truth: Floats) -> tuple[float, float]:
    """Interval where the variance is 0: Wilson's on the smaller class, the honest width of a perfect separation."""
    bound = wilson(int(min(truth.sum(), len(truth) - truth.sum())), int(min(truth.sum(), len(truth) - truth.sum())))
    return (bound.low, 1.0) if area == 1 else (0.0, 1 - bound.low) if area == 0 else (area, area)


def _delong(truth: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """AUROCs [models] and their covariance [models, models] of scores [models, cases]."""
    positive, negative = scores[:, truth == 1], scores[:, truth == 0]
    m, n = positive.shape[1], negative.shape[1]
    together = np.concatenate([positive, negative], axis=1)
    rank_positive = np.stack([_midranks(row) for row in positive])
    rank_negative = np.stack([_midranks(row) for row in negative])
    rank_all = np.stack([_midranks(row) for row in together])
    areas = (rank_all[:, :m].sum(axis=1) - m * (m + 1) / 2) / (m * n)
    v01 = (rank_all[:, :m] - rank_positive) / n
    v10 = 1 - (rank_all[:, m:] - rank_negative) / m
    covariance = np.zeros((len(scores), len(scores)))
    if m > 1:
        covariance += np.atleast_2d(np.cov(v01)) / m
    if n > 1:
        covariance += np.atleast_2d(np.cov(v10)) / n
    return areas, covariance


def _midranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64)
