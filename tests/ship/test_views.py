"""Views: nothing that can be seen on any display of the pixels may be lost in them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ship import views


def test_a_view_is_not_blinded_by_one_hot_pixel() -> None:
    """The usual scaling by minimum and maximum would leave the text one grey level."""
    pixels = np.full((200, 200), 900, np.uint16)
    pixels += np.random.default_rng(0).integers(0, 200, pixels.shape).astype(np.uint16)
    strokes = np.zeros(pixels.shape, np.uint8)
    cv2.putText(strokes, "Jane Doe", (20, 100), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 2)
    pixels[strokes > 0] = 1500
    text_before = views.plain_view(pixels)[pixels == 1500]
    pixels[0, 0] = 65535
    view = views.plain_view(pixels)
    assert text_before.min() == view[pixels == 1500].min() == 255
    assert np.median(view) < 200


def test_a_constant_image_has_views() -> None:
    for value in (0, 7, 65535):
        flat = np.full((40, 60), value, np.uint16)
        assert views.plain_view(flat).shape == views.even_view(flat).shape == (40, 60)


@pytest.mark.parametrize("polarity", [-1, 1])
def test_faint_text_beside_the_edge_of_the_field_is_nearly_as_strong_as_bold_text(polarity: int) -> None:
    """A blur as background would drown 12 grey levels in the edge's own 140."""
    noise = np.random.default_rng(1).normal(0, 1.5, (300, 500))
    page = np.where(np.arange(300)[:, None] < 150, 30.0, 170.0) + noise
    strokes = np.zeros(page.shape, np.uint8)
    cv2.putText(strokes, "Jane Doe 4711", (20, 170), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1)
    text = strokes > 200
    page[text] += polarity * 12
    view = views.even_view(np.rint(page).astype(np.uint8)).astype(float)
    around = view[155:175, 250:450]
    assert polarity * (view[text & (np.arange(300)[:, None] > 152)].mean() - around.mean()) > 40


def test_sixteen_bits_are_seen_as_eight() -> None:
    deep = np.linspace(0, 4095, 300 * 200).reshape(200, 300).astype(np.uint16)
    assert np.abs(views.plain_view(deep).astype(int) - np.linspace(0, 255, 300 * 200).reshape(200, 300)).max() < 4
