"""The view check's fit, small: it tells chests from what it was shown, and from a kind that it was not."""

from __future__ import annotations

import numpy as np
import pytest

from serve.preprocess import GRID
from train.other_pictures import OTHERS, SIDE
from train.view import Fitting, Kind, _drawn_kinds, _features, _phantoms, _turned_kinds, move

SEED = 5


@pytest.fixture(scope="module")
def fitting() -> Fitting:
    """A fit to few pictures, without hands."""
    chests = _phantoms(60, SEED)
    moved = [move(chest, np.random.default_rng([SEED, number])) for number, chest in enumerate(chests)]
    drawn = [kind for kind in _drawn_kinds(24, SEED) if kind.name != "hand"]
    return Fitting([Kind("chest", _features([*chests, *moved])), *_turned_kinds(chests, SEED), *drawn])


def test_it_tells_chests_from_other_pictures(fitting: Fitting) -> None:
    check = fitting.check()
    chests = check.values(_features(_phantoms(16, SEED + 1)))
    assert np.mean(chests > 0.25) >= 0.9
    for kind in _drawn_kinds(8, SEED + 2):
        values = check.values(kind.rows)
        assert np.mean(values < 0.25) >= 0.8, kind.name
        assert values.mean() < chests.mean() - 0.5, kind.name


def test_a_kind_can_be_left_out(fitting: Fitting) -> None:
    whole, without = fitting.check(), fitting.check(without="screen")
    assert np.abs(whole.weights - without.weights).max() > 0
    np.testing.assert_array_equal(whole.weights, fitting.check().weights)


def test_a_saved_check_says_the_same(fitting: Fitting, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from serve.view import load

    check = fitting.check()
    digest = check.save(tmp_path / "check.npz")
    assert len(digest) == 64
    rows = _features(_phantoms(4, SEED + 3))
    np.testing.assert_array_equal(load((tmp_path / "check.npz").read_bytes()).values(rows), check.values(rows))


@pytest.mark.parametrize("kind", list(OTHERS))
def test_every_kind_is_drawn_the_same_from_a_seed_and_differs_between_seeds(kind: str) -> None:
    one, again, other = (OTHERS[kind](np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == (SIDE, SIDE) == (GRID, GRID)
    assert one.dtype == np.float32
    assert np.isfinite(one).all()
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert np.ptp(one) > 0.1
