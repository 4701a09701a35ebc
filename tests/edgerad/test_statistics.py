"""Intervals agree with published values and with their definition."""

from math import sqrt

import pytest

from edgerad.statistics import Z95, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3 (score without correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_intervals(successes: int, trials: int, low: float, high: float) -> None:
    share = wilson(successes, trials)
    assert share.value == successes / trials
    assert (round(share.low, 4), round(share.high, 4)) == (low, high)


@pytest.mark.parametrize("trials", [1, 7, 100])
def test_the_bounds_are_where_the_score_test_just_rejects(trials: int) -> None:
    for successes in range(trials + 1):
        share = wilson(successes, trials)
        for bound in (share.low, share.high):
            if 0 < bound < 1:
                distance = abs(successes / trials - bound)
                assert distance == pytest.approx(Z95 * sqrt(bound * (1 - bound) / trials), abs=1e-12)


def test_nothing_counted_tells_nothing() -> None:
    assert (wilson(0, 0).value, wilson(0, 0).low, wilson(0, 0).high) == (None, 0.0, 1.0)
