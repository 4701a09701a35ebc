"""The scaling policy: up at once by what waits, down only after a while."""

from typing import Any

import pytest

from edgerad import lag
from serve.policy import decide


def run(
    waiting: float, current: int, at: float = 0.0, state: dict[str, Any] | None = None
) -> tuple[int, dict[str, Any]]:
    """Decide with 1 to 8 replicas, 64 images each, 30 s of delay before going down."""
    return decide(waiting, current, (1, 8), 64, 30.0, at, state or {})


@pytest.mark.parametrize(("waiting", "target"), [(0, 1), (1, 1), (64, 1), (65, 2), (128, 2), (500, 8), (10_000, 8)])
def test_a_spike_is_answered_at_once(waiting: float, target: int) -> None:
    assert run(waiting, 1) == (target, {})


def test_it_goes_down_only_after_the_load_stayed_low() -> None:
    target, state = run(0, 4, at=100.0)
    assert target == 4
    target, state = run(0, 4, at=129.0, state=state)
    assert target == 4
    assert run(0, 4, at=130.0, state=state) == (1, {})


def test_a_new_spike_forgets_that_it_was_quiet() -> None:
    _, state = run(0, 4, at=100.0)
    target, state = run(256, 4, at=120.0, state=state)
    assert (target, state) == (4, {})
    assert run(0, 4, at=140.0, state=state)[0] == 4


def test_the_warm_minimum_stays() -> None:
    assert decide(0, 3, (2, 8), 64, 0.0, 0.0, {}) == (2, {})


def test_old_readings_of_the_lag_do_not_count() -> None:
    readings = [b'{"lag": 5, "at": 100.0}', b'{"lag": 7, "at": 108.0}', b'{"lag": 1000, "at": 10.0}']
    assert lag.total(readings, 110.0) == 12
    assert lag.total(readings, 1000.0) is None
    assert lag.total([], 0.0) is None
