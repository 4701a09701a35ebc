"""Figures and their intervals, checked against counts by hand and against slower ways to the same number."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from train.evaluate import Comparison, auroc, compare_auroc, compare_brier, evaluate, wilson

Compare = Callable[..., Comparison]


def pairs_won(labels: list[int], scores: list[float]) -> float:
    """The AUROC by its meaning: the share of (positive, negative) pairs in the right order, ties half."""
    positive = [score for label, score in zip(labels, scores, strict=True) if label]
    negative = [score for label, score in zip(labels, scores, strict=True) if not label]
    return float(np.mean([(a > b) + 0.5 * (a == b) for a, b in product(positive, negative)]))


def test_the_auroc_is_the_share_of_pairs_in_order_ties_half() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = [0, 1, *rng.integers(0, 2, 18).tolist()]
        scores = rng.integers(0, 6, 20).astype(float).tolist()
        assert auroc(labels, scores).value == pytest.approx(pairs_won(labels, scores))


def test_the_auroc_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    labels = np.array([0] * 60 + [1] * 60)
    # Normal scores one standard deviation apart: AUROC = Phi(1 / sqrt 2) = 0.7602.
    held = 0
    for _ in range(300):
        found = auroc(labels, rng.standard_normal(120) + labels)
        held += found.low <= 0.7602 <= found.high
    assert 0.90 <= held / 300 <= 0.99


def test_a_perfect_separation_still_has_an_interval_as_wide_as_its_cases_allow() -> None:
    few, many = auroc([0, 0, 1, 1], [1, 2, 3, 4]), auroc([0] * 50 + [1] * 50, list(range(100)))
    assert (few.value, few.high) == (1, 1)
    assert few.low < 0.5
    assert 0.9 < many.low < 1
    reversed_ = auroc([1, 1, 0, 0], [1, 2, 3, 4])
    assert (reversed_.value, reversed_.low) == (0, 0)
    assert reversed_.high > 0.5


def test_wilson_is_the_published_interval() -> None:
    # R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872, table I: 81 of 263, and 0 of 20.
    assert (wilson(81, 263).low, wilson(81, 263).high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert (wilson(0, 20).low, wilson(0, 20).high) == pytest.approx((0.0, 0.1611), abs=5e-5)
    nothing = wilson(0, 0)
    assert (nothing.low, nothing.high) == (0, 1)
    assert np.isnan(nothing.value)


def test_an_evaluation_counts_what_it_says() -> None:
    labels = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    scores = [0.9, 0.8, 0.5, 0.1, 0.9, 0.4, 0.3, 0.2, 0.1, 0.0]
    found = evaluate(labels, scores)
    assert (found.cases, found.positives, found.threshold) == (10, 4, 0.5)
    assert found.accuracy.value == 0.8
    assert found.sensitivity.value == 0.75, "0.5 counts as positive"
    assert found.specificity.value == pytest.approx(5 / 6)
    stricter = evaluate(labels, scores, threshold=0.85)
    assert stricter.sensitivity.value == 0.25
    assert stricter.specificity.value == pytest.approx(5 / 6)
    assert found.as_dict()["specificity"] == {
        "value": 0.8333, "low": round(wilson(5, 6).low, 4), "high": round(wilson(5, 6).high, 4),
    }  # fmt: skip


def test_the_calibration_error_is_the_weighted_gap_of_the_bins() -> None:
    labels = np.array([1, 1, 0, 0, 0, 1.0])
    scores = np.array([0.95, 0.95, 0.95, 0.05, 0.05, 0.05])
    # Both bins hold half of the cases: |2/3 - 0.95| and |1/3 - 0.05|.
    assert evaluate(labels, scores).ece.value == pytest.approx((0.95 - 2 / 3 + 1 / 3 - 0.05) / 2)


@pytest.mark.parametrize("compare", [compare_auroc, compare_brier])
def test_a_comparison_of_a_model_with_itself_is_no_difference(compare: Compare) -> None:
    rng = np.random.default_rng(2)
    labels = np.arange(80) % 2
    scores = rng.uniform(0, 1, 80)
    same = compare(labels, scores, scores)
    assert (same.gain, same.confidence, same.low(0.95)) == (0, 0.5, 0)


@pytest.mark.parametrize("compare", [compare_auroc, compare_brier])
def test_a_paired_comparison_sees_what_two_single_intervals_cannot(compare: Compare) -> None:
    rng = np.random.default_rng(3)
    labels = np.array([0, 1] * 150)
    noise = rng.standard_normal(300)
    weak, better = (1 / (1 + np.exp(-(noise + signal * (labels - 0.5)))) for signal in (1.2, 1.55))
    found = compare(labels, weak, better)
    assert auroc(labels, weak).high > auroc(labels, better).low
    assert found.confidence > 0.99
    assert found.low(0.95) > 0
    assert found.gain == pytest.approx(abs(found.candidate - found.current))
    worse = compare(labels, better, weak)
    assert worse.gain == pytest.approx(-found.gain)
    assert worse.confidence == pytest.approx(1 - found.confidence)
    assert -0.2 < worse.low(0.95) < worse.gain < 0


def test_the_brier_score_sees_what_ranks_do_not() -> None:
    labels = np.array([0, 0, 1, 1])
    timid, sure = np.array([0.4, 0.45, 0.55, 0.6]), np.array([0.1, 0.2, 0.8, 0.9])
    assert compare_auroc(labels, timid, sure).gain == 0
    found = compare_brier(labels, timid, sure)
    assert found.current == pytest.approx((0.4**2 + 0.45**2) / 2)
    assert found.candidate == pytest.approx((0.1**2 + 0.2**2) / 2)
    assert found.confidence > 0.99
    assert compare_brier(labels, [0.4] * 2 + [0.6] * 2, [0.2] * 2 + [0.8] * 2).confidence == 1, "no error, a gain"


def test_the_paired_interval_agrees_with_a_bootstrap() -> None:
    rng = np.random.default_rng(4)
    labels = np.array([0, 1] * 100)
    first = rng.standard_normal(200) + 1.5 * labels
    second = 0.7 * first + 0.7 * rng.standard_normal(200) + 0.3 * labels
    found = compare_auroc(labels, first, second)
    differences = []
    for _ in range(400):
        chosen = np.concatenate([rng.choice(np.flatnonzero(labels == value), 100) for value in (0, 1)])
        differences.append(auroc(labels[chosen], second[chosen]).value - auroc(labels[chosen], first[chosen]).value)
    low, high = np.percentile(differences, [2.5, 97.5])
    width = high - low
    assert abs(found.low(0.975) - low) < 0.25 * width
    assert abs(found.low(0.025) - high) < 0.25 * width


@pytest.mark.parametrize(
    ("labels", "scores", "said"),
    [
        ([0, 0], [0.1, 0.2], "both labels"),
        ([0, 1, 2], [0.1, 0.2, 0.3], "both labels"),
        ([0, 1], [0.1], "one length"),
        ([0, 1], [0.1, float("nan")], "finite"),
        ([[0, 1]], [[0.1, 0.2]], "two lists"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(labels: list[float], scores: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        evaluate(labels, scores)
