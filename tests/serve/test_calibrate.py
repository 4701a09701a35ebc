"""Platt scaling: what was put in is found again, and what would mislead is refused."""

import numpy as np
import pytest

from serve.calibrate import Calibration, fit_platt, sigmoid


def drawn(a: float, b: float, cases: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Draw logits, and labels that are positive with probability sigmoid(a * logit + b)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.5, 2.5, cases)
    return logits, (rng.random(cases) < sigmoid(a * logits + b)).astype(int)


def test_a_known_calibration_is_found_again() -> None:
    fitted = fit_platt(*drawn(0.6, -1.1, 40_000), "site/1")
    assert fitted.a == pytest.approx(0.6, abs=0.02)
    assert fitted.b == pytest.approx(-1.1, abs=0.06)
    assert fitted.version == "site/1"


def test_the_fit_is_the_best_there_is() -> None:
    """No neighbour in (a, b) has a smaller loss against Platt's targets."""
    logits, labels = drawn(1.4, 0.7, 300)
    fitted = fit_platt(logits, labels, "x")
    positives = int(labels.sum())
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2))

    def loss(a: float, b: float) -> float:
        z = a * logits + b
        return float(np.sum(np.logaddexp(0, z) - targets * z))

    best = loss(fitted.a, fitted.b)
    for da, db in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)):
        assert loss(fitted.a + da, fitted.b + db) > best


def test_perfectly_separated_cases_do_not_run_away() -> None:
    logits = np.concatenate([np.linspace(-4, -1, 50), np.linspace(1, 4, 50)])
    fitted = fit_platt(logits, np.repeat([0, 1], 50), "x")
    assert np.isfinite([fitted.a, fitted.b]).all()
    assert fitted.apply(4.0) < 1
    assert fitted.apply(0.0) == pytest.approx(0.5, abs=1e-6)


def test_labels_that_contradict_the_scores_are_refused() -> None:
    logits, labels = drawn(1.0, 0.0, 500)
    with pytest.raises(ValueError, match="turn the order"):
        fit_platt(logits, 1 - labels, "x")


@pytest.mark.parametrize("labels", [[1] * 50, [0] * 50, [0, 1] * 5])
def test_too_few_cases_or_one_label_only_are_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="needs 20 cases and both labels"):
        fit_platt(np.arange(float(len(labels))), labels, "x")


def test_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        fit_platt([0.1] * 30, [1] * 29, "x")


def test_probabilities_never_overflow() -> None:
    assert sigmoid([-1e4, 0, 1e4]).tolist() == [0.0, 0.5, 1.0]
    assert Calibration("x", 2.0, 1.0).apply([[0.0], [-0.5]]).tolist() == [[sigmoid(1.0)], [0.5]]
