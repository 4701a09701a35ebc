"""The drift score: small for what is spread evenly, flagged only where it is both large and sure."""

import random

import pytest

from edgerad.drift import LEAST, measure


def test_even_novelties_have_no_drift() -> None:
    drift = measure([(number + 0.5) / 200 for number in range(200)])
    assert drift.score == pytest.approx(0.0025)
    assert not drift.is_flagged


@pytest.mark.parametrize("novelties", [[1.0] * 200, [0.0] * 200, [0.5] * 200, [0.9 + i / 4000 for i in range(200)]])
def test_novelties_that_crowd_are_flagged(novelties: list[float]) -> None:
    drift = measure(novelties)
    assert drift.score is not None
    assert drift.score >= 0.5
    assert drift.is_flagged


def test_too_few_say_nothing() -> None:
    drift = measure([1.0] * (LEAST - 1))
    assert (drift.images, drift.score, drift.is_flagged) == (LEAST - 1, None, False)
    assert measure([]).score is None
    assert measure([1.0] * LEAST).is_flagged


def test_chance_seldom_raises_a_flag() -> None:
    source = random.Random(1)
    flagged = sum(measure([source.random() for _ in range(60)]).is_flagged for _ in range(200))
    assert flagged <= 6
