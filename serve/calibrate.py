"""From logits to calibrated probabilities: Platt scaling, applied and fitted.

Source: J. Platt, "Probabilistic outputs for support vector machines", 1999, with the smoothed targets given there;
solved by Newton's method as H.-T. Lin et al., Machine Learning 68 (2007) 267-276.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MIN_CASES = 20


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


def fit_platt(logits: npt.ArrayLike, labels: npt.ArrayLike, version: str) -> Calibration:
    """Fit a Platt calibration to logits and labels 0/1.

    Raises ValueError for fewer than 20 cases, for only one label, or if the fit would turn the order around (a <= 0).
    """
    x, truth = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    if x.shape != truth.shape or x.ndim != 1:
        raise ValueError(f"logits and labels must be two lists of one length, not {x.shape} and {truth.shape}")
    positives, negatives = int(truth.sum()), int((1 - truth).sum())
    if len(x) < MIN_CASES or not positives or not negatives:
        raise ValueError(
            f"a calibration needs {MIN_CASES} cases and both labels; there are {len(x)}, {positives} positive"
        )
    targets = np.where(truth == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design = np.stack([x, np.ones_like(x)], axis=1)
    theta = np.array([1.0, 0.0])
    for _ in range(100):
        p = sigmoid(design @ theta)
        gradient = design.T @ (p - targets)
        hessian = (design * (p * (1 - p))[:, np.newaxis]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        scale = 1.0
        while scale > 1e-6 and _loss(design, targets, theta - scale * step) > _loss(design, targets, theta):
            scale /= 2
        theta = theta - scale * step
        if np.abs(scale * step).max() < 1e-9:
            break
    if theta[0] <= 0:
        raise ValueError("the labels contradict the scores: the calibration would turn the order of the cases around")
    return Calibration(version, float(theta[0]), float(theta[1]))


def _loss(design: Floats, targets: Floats, theta: Floats) -> float:
    z = design @ theta
    return float(np.sum(np.logaddexp(0, z) - targets * z))
