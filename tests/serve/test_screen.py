"""Blank, noise and colour are told from radiographs; radiographs pass."""

from collections.abc import Callable

import numpy as np
import pytest

from edgerad.phantom import Phantom
from edgerad.reasons import REASONS
from imaging.colour import chroma
from imaging.refusal import Unreadable
from serve.screen import MAX_CHROMA, check_pixels, neighbour_correlation

RNG = np.random.default_rng(0)


def reason_of(call: Callable[[], object]) -> str | None:
    """Return the reason code that a call refuses with, or None."""
    try:
        call()
    except Unreadable as refusal:
        return refusal.reason
    return None


def test_a_radiograph_passes(phantom: Phantom) -> None:
    check_pixels((phantom.pixels >> 4).astype(np.uint8))
    check_pixels((phantom.pixels << 4).astype(np.uint16))


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_picture_is_refused(level: int) -> None:
    blank = np.clip(RNG.normal(level, 0.6, (300, 300)), 0, 255).astype(np.uint8)
    assert reason_of(lambda: check_pixels(blank)) == "blank"


def test_noise_is_refused() -> None:
    assert reason_of(lambda: check_pixels(RNG.integers(0, 256, (224, 224), np.uint8))) == "noise"
    lines = np.repeat(RNG.integers(0, 256, (224, 1), np.uint8), 224, axis=1)
    assert reason_of(lambda: check_pixels(lines)) == "noise", "structure in one direction only"


def test_a_coloured_picture_is_refused_and_a_faint_tint_is_not(phantom: Phantom) -> None:
    grey = (phantom.pixels >> 4).astype(np.uint8)
    tinted = np.stack([grey, grey, np.clip(grey.astype(int) - 6, 0, 255)], 2).astype(np.uint8)
    assert 0 < chroma(tinted) < MAX_CHROMA
    check_pixels(grey, chroma(tinted))
    red = np.stack([grey, grey // 4, grey // 4], 2)
    assert reason_of(lambda: check_pixels(grey, chroma(red))) == "colour"


def test_colour_is_measured_alike_in_eight_and_sixteen_bits() -> None:
    eight = RNG.integers(0, 256, (64, 64, 3), np.uint8)
    assert chroma(eight) == pytest.approx(chroma(eight.astype(np.uint16) * 257), abs=0.1)
    grey = np.repeat(eight[:, :, :1], 3, axis=2)
    assert chroma(grey) == pytest.approx(0, abs=1e-4)


def test_neighbours_correlate_by_their_likeness() -> None:
    ramp = np.add.outer(np.arange(50.0), np.arange(50.0)).astype(np.float32)
    assert neighbour_correlation(ramp) > 0.99
    assert abs(neighbour_correlation(RNG.normal(size=(200, 200)).astype(np.float32))) < 0.05
    assert neighbour_correlation(np.zeros((10, 10), np.float32)) == 0


def test_every_reason_says_what_to_do() -> None:
    assert all(text.endswith(".") and len(text) > 20 for text in REASONS.values())
    with pytest.raises(ValueError, match="not a reason code"):
        Unreadable("because", "x")
