"""From a probability to high, unknown or low; the limits themselves are unknown."""

import math

import pytest

from serve.triage import Thresholds

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
