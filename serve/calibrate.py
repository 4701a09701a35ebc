"""From logits to calibrated probabilities: Platt scaling, applied and fitted.

Source: J. Platt, "Probabilistic outputs for support vector machines", 1999, solved by Newton's method as H.-T. Lin et
al., Machine Learning 68 (2007) 267-276; with a normal prior in the place of Platt's smoothed targets, since a hundred
local cases alone say less about the slope than the many cases that the model was calibrated on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MIN_CASES = 20
SPREAD = np.array([0.3, 1.0])
"""How far sites are thought to lie apart, standard deviations of ln a and b: a third in sharpness, e-fold in odds."""


@dataclass(frozen=True)
class Calibration:
    """p = sigmoid(a * logit + b), with a version that every assessment records."""

    version: str
    a: float = 1.0
    b: float = 0.0

    def apply(self, logits: npt.ArrayLike) -> Floats:
        """Return probabilities of logits of any shape."""
        return sigmoid(self.a * np.asarray(logits, np.float64) + self.b)


def sigmoid(values: npt.ArrayLike) -> Floats:
    """Return 1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * np.asarray(values, np.float64))), np.float64)


def fit_platt(
    logits: npt.ArrayLike, labels: npt.ArrayLike, version: str, prior: Calibration = Calibration("identity")
) -> Calibration:
    """Fit a Platt calibration to logits and labels 0/1, drawn towards `prior` as far as the cases leave it open.

    The slope stays positive: no calibration turns the order of the cases around. Raises ValueError for fewer than 20
    cases, for only one label, or for labels that contradict the scores.
    """
    x, truth = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    if x.shape != truth.shape or x.ndim != 1:
        raise ValueError(f"logits and labels must be two lists of one length, not {x.shape} and {truth.shape}")
    positives = int(truth.sum())
    if len(x) < MIN_CASES or not 0 < positives < len(x):
        raise ValueError(
            f"a calibration needs {MIN_CASES} cases and both labels; there are {len(x)}, {positives} positive"
        )
    if x[truth == 1].mean() <= x[truth == 0].mean():
        raise ValueError("the labels contradict the scores: positive cases have no higher scores than negative ones")
    centre = np.array([np.log(prior.a), prior.b])
    precision = 1 / np.square(SPREAD)
    theta = centre.copy()
    for _ in range(100):
        slope = np.exp(theta[0])
        p = sigmoid(slope * x + theta[1])
        design = np.stack([slope * x, np.ones_like(x)], axis=1)
        gradient = design.T @ (p - truth) + precision * (theta - centre)
        hessian = (design * (p * (1 - p))[:, np.newaxis]).T @ design + np.diag(precision)
        step, scale = np.linalg.solve(hessian, gradient), 1.0
        before = _loss(x, truth, theta, centre)
        while scale > 1e-6 and _loss(x, truth, theta - scale * step, centre) > before:
            scale /= 2
        theta = theta - scale * step
        if np.abs(scale * step).max() < 1e-9:
            break
    return Calibration(version, float(np.exp(theta[0])), float(theta[1]))


def fit_slope(logits: npt.ArrayLike, labels: npt.ArrayLike, version: str) -> Calibration:
    """Fit how steep a model's logits are, both labels counting alike; what it takes for even odds stays so.

    For a model's own calibration: how often a label comes, and so the offset, differs between where it was made and
    where it is used, how sure the model may be less so. Raises ValueError where one of the labels is missing.
    """
    x, truth = np.asarray(logits, np.float64), np.asarray(labels) == 1
    if x.shape != truth.shape or x.ndim != 1 or not 0 < truth.sum() < truth.size:
        raise ValueError(f"a slope needs cases of both labels; there are {truth.size}, {int(truth.sum())} positive")
    margin = np.where(truth, x, -x)
    weights = np.where(truth, 0.5 / truth.sum(), 0.5 / (~truth).sum())
    choices = np.exp(np.linspace(np.log(0.25), np.log(4), 1001))  # steps of 0.3 %
    losses = [float(weights @ np.logaddexp(0, -slope * margin)) for slope in choices]
    return Calibration(version, round(float(choices[int(np.argmin(losses))]), 3))


def log_losses(calibration: Calibration, logits: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """Return the negative log likelihood of each label, natural logarithm."""
    z = calibration.a * np.asarray(logits, np.float64) + calibration.b
    return np.asarray(np.logaddexp(0, z) - np.asarray(labels, np.float64) * z)


def calibration_error(probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 10) -> float:
    """Return the expected calibration error in bins of equal width (Guo et al., ICML 2017); 0 of no cases.

    It is never 0 for few cases, however good the probabilities are: see docs/model.md for how far it can fall.
    """
    p, truth = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64)
    place = np.minimum((p * bins).astype(int), bins - 1)
    gaps = [abs(float(np.sum(p[place == number] - truth[place == number]))) for number in range(bins)]
    return sum(gaps) / len(p) if len(p) else 0.0


def _loss(x: Floats, truth: Floats, theta: Floats, centre: Floats) -> float:
    z = np.exp(theta[0]) * x + theta[1]
    return float(np.sum(np.logaddexp(0, z) - truth * z) + 0.5 * np.sum(np.square((theta - centre) / SPREAD)))
