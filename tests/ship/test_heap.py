"""Freed memory: kept while an image is worked on, given back afterwards."""

import ctypes
import platform
from pathlib import Path

import numpy as np
import pytest

from ship import heap

PAGES = 50_000
"""What is asked for, in pages: 195 MiB."""


def resident() -> int:
    """This process's memory in pages."""
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.fixture(autouse=True)
def _nothing_freed_before() -> None:
    """Give back what earlier tests freed: else a block may lie in it, and the process grows by less than the block."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def test_what_is_freed_is_kept_inside_and_given_back_afterwards() -> None:
    before = resident()
    with heap.kept():
        block = np.ones(PAGES * 4096, np.uint8)
        block = np.empty(0, np.uint8)
        assert block.size == 0
        assert resident() - before > 0.9 * PAGES
    assert resident() - before < 0.2 * PAGES


def test_one_inside_another_gives_nothing_back() -> None:
    before = resident()
    with heap.kept():
        with heap.kept():
            np.ones(PAGES * 4096, np.uint8)
        assert resident() - before > 0.9 * PAGES
    assert resident() - before < 0.2 * PAGES


def test_it_is_given_back_also_when_something_is_raised() -> None:
    before = resident()
    with pytest.raises(ValueError, match="negative"), heap.kept():
        np.empty(-int(np.ones(PAGES * 4096, np.uint8)[0]))
    assert resident() - before < 0.2 * PAGES


def test_without_glibc_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: pytest.fail("asked for a library"))
    with heap.kept():
        pass
