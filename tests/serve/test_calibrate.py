"""Platt scaling: what was put in is found again, and what would mislead is refused."""

import numpy as np
import pytest

from serve.calibrate import SPREAD, Calibration, fit_platt, fit_slope, sigmoid


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
    """No neighbour in (ln a, b) has a smaller loss, with what is thought of sites in general counted in."""
    logits, labels = drawn(1.4, 0.7, 300)
    prior = Calibration("bundle", 1.2, 0.1)
    fitted = fit_platt(logits, labels, "x", prior)

    def loss(slope: float, b: float) -> float:
        z = np.exp(slope) * logits + b
        apart = (np.array([slope, b]) - [np.log(prior.a), prior.b]) / SPREAD
        return float(np.sum(np.logaddexp(0, z) - labels * z) + 0.5 * np.sum(apart**2))

    slope = float(np.log(fitted.a))
    best = loss(slope, fitted.b)
    for da, db in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)):
        assert loss(slope + da, fitted.b + db) > best


def test_few_cases_stay_near_the_bundles_calibration_and_many_do_not() -> None:
    prior = Calibration("bundle", 1.0, 0.0)
    few, many = (fit_platt(*drawn(2.5, 0.0, count), "x", prior) for count in (30, 20_000))
    assert 1.0 < few.a < 2.2
    assert many.a == pytest.approx(2.5, abs=0.1)


def test_perfectly_separated_cases_do_not_run_away() -> None:
    logits = np.concatenate([np.linspace(-4, -1, 50), np.linspace(1, 4, 50)])
    fitted = fit_platt(logits, np.repeat([0, 1], 50), "x")
    assert 1 < fitted.a < 3
    assert fitted.apply(4.0) < 1
    assert fitted.apply(0.0) == pytest.approx(0.5, abs=1e-6)


def test_labels_that_contradict_the_scores_are_refused() -> None:
    logits, labels = drawn(1.0, 0.0, 500)
    with pytest.raises(ValueError, match="contradict"):
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


@pytest.mark.parametrize("b", [0.0, -3.0, 3.0])
def test_a_slope_is_found_again_however_often_a_label_comes(b: float) -> None:
    """Logits of a spread of 1 in either class, 2a apart, are calibrated at a slope of 2a between equal shares."""
    rng = np.random.default_rng(3)
    for a in (0.4, 1.0):
        labels = (rng.random(40_000) < sigmoid(b)).astype(int)
        logits = rng.normal(0, 1, len(labels)) + a * (2 * labels - 1)
        fitted = fit_slope(logits, labels, "slope/1")
        assert (fitted.version, fitted.b) == ("slope/1", 0.0)
        assert fitted.a == pytest.approx(2 * a, rel=0.08)


def test_a_slope_stays_within_reach_of_cases_that_are_told_apart_perfectly_or_not_at_all() -> None:
    assert fit_slope([-1, 1], [0, 1], "s").a == pytest.approx(4)
    assert fit_slope([-1, 1], [1, 0], "s").a == pytest.approx(0.25)


@pytest.mark.parametrize(("logits", "labels"), [([1.0, 2.0], [1, 1]), ([1.0, 2.0], [0, 0]), ([1.0], [0, 1]), ([], [])])
def test_a_slope_needs_both_labels(logits: list[float], labels: list[int]) -> None:
    with pytest.raises(ValueError, match="both labels"):
        fit_slope(logits, labels, "s")
