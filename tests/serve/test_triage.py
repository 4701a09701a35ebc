"""From a probability to high, unknown or low; the limits themselves are unknown."""

import math

import pytest

from serve.triage import CHOICES, Choice, Thresholds, measure_choices

THRESHOLDS = Thresholds("test/1", high=0.80, low=0.20)


@pytest.mark.parametrize(
    ("probability", "triage"),
    [
        (0.0, "low"),
        (math.nextafter(0.20, 0), "low"),
        (0.20, "unknown"),
        (0.5, "unknown"),
        (0.80, "unknown"),
        (math.nextafter(0.80, 1), "high"),
        (1.0, "high"),
    ],
)
def test_high_is_above_the_upper_limit_and_low_below_the_lower(probability: float, triage: str) -> None:
    assert THRESHOLDS.classify(probability) == triage


@pytest.mark.parametrize("probability", [-0.01, 1.01, math.nan, math.inf])
def test_what_is_no_probability_has_no_class(probability: float) -> None:
    with pytest.raises(ValueError, match=r"lies in 0\.\.1"):
        THRESHOLDS.classify(probability)


@pytest.mark.parametrize(("low", "high"), [(0.8, 0.2), (0.0, 0.8), (0.2, 1.0), (math.nan, 0.8)])
def test_limits_that_make_no_sense_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="0 < low <= high < 1"):
        Thresholds("test/1", high, low)


def test_a_choice_counts_the_unknown_and_the_errors_among_them() -> None:
    labels = [0, 0, 0, 1, 1, 1, 1, 1]
    probabilities = [0.01, 0.55, 0.9, 0.05, 0.3, 0.7, 0.85, 0.99]
    # Errors: the normals at 0.55 and 0.9, the abnormal at 0.05 and 0.3.
    narrow, wide = measure_choices(labels, probabilities, [(0.2, 0.8), (0.04, 0.9)])
    assert narrow == Choice(0.2, 0.8, unknown=3 / 8, caught=2 / 4, low_wrong=1 / 2, high_wrong=1 / 3)
    assert wide == Choice(0.04, 0.9, unknown=6 / 8, caught=1.0, low_wrong=0.0, high_wrong=0.0)


def test_a_share_of_nothing_is_none_and_no_cases_are_refused() -> None:
    (choice,) = measure_choices([0, 1], [0.3, 0.7], [(0.2, 0.8)])
    assert (choice.unknown, choice.caught, choice.low_wrong, choice.high_wrong) == (1.0, None, None, None)
    with pytest.raises(ValueError, match="one length"):
        measure_choices([], [])


def test_a_case_on_a_limit_is_counted_as_it_is_classified() -> None:
    probabilities = [0.2, 0.8, math.nextafter(0.2, 0), math.nextafter(0.8, 1)]
    (choice,) = measure_choices([0, 1, 0, 1], probabilities, [(0.2, 0.8)])
    assert choice.unknown == sum(THRESHOLDS.classify(p) == "unknown" for p in probabilities) / 4


def test_no_choice_on_offer_calls_high_what_is_at_most_80_percent() -> None:
    assert all(0 < low < 0.8 <= high < 1 for low, high in CHOICES)
