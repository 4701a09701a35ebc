"""The watermark: whatever order records end in, an offset never passes one that is not done."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from ingest.offsets import Watermark


def test_nothing_received_commits_nothing() -> None:
    mark = Watermark()
    assert (mark.position(), mark.to_commit(), mark.open) == (None, None, 0)
    mark.done(7)
    assert mark.to_commit() is None


def test_a_slow_record_holds_the_offset_and_not_the_others() -> None:
    mark = Watermark()
    for offset in range(10, 15):
        mark.received(offset)
    for offset in (11, 12, 14):
        mark.done(offset)
    assert (mark.to_commit(), mark.open) == (10, 2)
    mark.done(10)
    assert mark.to_commit() == 13
    mark.done(13)
    assert (mark.to_commit(), mark.open) == (15, 0)


def test_what_is_committed_is_not_committed_again() -> None:
    mark = Watermark()
    mark.received(0)
    mark.done(0)
    assert mark.to_commit() == 1
    mark.committed(1)
    assert mark.to_commit() is None
    mark.received(5)  # a hole: transaction markers, compaction
    assert mark.to_commit() == 5
    mark.done(5)
    assert mark.to_commit() == 6


def test_a_record_handed_out_once_more_takes_nothing_back() -> None:
    mark = Watermark()
    for offset in range(3):
        mark.received(offset)
    mark.done(2)
    mark.received(0)
    assert (mark.position(), mark.open) == (0, 2)
    mark.done(0)
    mark.done(1)
    assert mark.to_commit() == 3


@given(
    holes=st.lists(st.integers(1, 3), min_size=1, max_size=30),
    order=st.randoms(use_true_random=False),
    start=st.integers(0),
)
def test_the_position_is_always_the_first_record_that_is_not_done(
    holes: list[int], order: random.Random, start: int
) -> None:
    offsets = [start + sum(holes[:number]) for number in range(len(holes))]
    todo, mark = list(offsets), Watermark()
    under_way: list[int] = []
    while todo or under_way:
        if todo and (not under_way or order.random() < 0.5):
            under_way.append(todo.pop(0))
            mark.received(under_way[-1])
        else:
            mark.done(under_way.pop(order.randrange(len(under_way))))
        received = offsets[: len(offsets) - len(todo)]
        assert mark.position() == (min(under_way) if under_way else received[-1] + 1)
        assert mark.open == len(under_way)
        if (position := mark.to_commit()) is not None:
            mark.committed(position)
    assert mark.position() == offsets[-1] + 1
