"""Text engines: models in place, every part of a large image looked at, places right in regions and after a turn."""

from __future__ import annotations

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest

from ship import ocr
from ship.boxes import Box


def test_models_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = replace(ocr._GENERATIONS[0], detector="no.onnx")
    monkeypatch.setattr(ocr, "_GENERATIONS", (missing,))
    with pytest.raises(FileNotFoundError, match=r"no\.onnx"):
        ocr.engines.__wrapped__(1)


@pytest.mark.parametrize("length", [2049, 3000, 4300, 9000])
def test_tiles_hold_every_line_whole(length: int) -> None:
    tiles = ocr._tiles(length)
    assert tiles[0].start == 0
    assert tiles[-1].stop == length
    assert all(tile.stop - tile.start <= ocr._TILE for tile in tiles)
    assert all(b.start <= a.stop - ocr._OVERLAP for a, b in itertools.pairwise(tiles))


def test_a_region_is_read_as_the_whole_is() -> None:
    page = np.full((600, 900), 40, np.uint8)
    cv2.putText(page, "Jane Doe 4711", (300, 300), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 2, cv2.LINE_AA)
    engine = ocr.engines()[1]
    (whole,) = ocr.read_lines(page, engine)
    (part,) = ocr.read_lines(page, engine, region=Box(240, 220, 640, 360))
    assert whole.text == part.text == "Jane Doe 4711"
    assert whole.box.iou(part.box) > 0.8


def test_an_oblique_line_is_known_by_its_tilt_and_height() -> None:
    page = np.full((600, 900), 40, np.uint8)
    cv2.putText(page, "Jane Doe 4711", (250, 300), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 2, cv2.LINE_AA)
    turned = cv2.warpAffine(page, cv2.getRotationMatrix2D((450, 300), 25, 1), (900, 600), borderValue=(40,))
    (straight,), (oblique,) = (ocr.read_lines(np.asarray(view, np.uint8), ocr.engines()[0]) for view in (page, turned))
    assert (straight.text, oblique.text) == ("Jane Doe 4711", "Jane Doe 4711")
    assert oblique.tilt == pytest.approx(25, abs=2)
    assert oblique.across == pytest.approx(straight.box.short_side, rel=0.25)
    assert oblique.box.short_side > 2 * oblique.across


def test_a_line_that_runs_up_is_read_after_a_quarter_turn_at_its_place() -> None:
    page = np.full((600, 900), 40, np.uint8)
    strip = np.full((60, 320), 40, np.uint8)
    cv2.putText(strip, "Jane Doe 4711", (20, 40), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 2, cv2.LINE_AA)
    page[200:520, 700:760] = np.rot90(strip)
    engine = ocr.engines()[1]
    for region in (None, Box(600, 100, 880, 590)):
        (found,) = ocr.read_lines(page, engine, turned=True, region=region)
        assert found.text == "Jane Doe 4711"
        assert found.box.inside(Box(690, 190, 770, 530))
        assert found.box.y1 - found.box.y0 > 180  # as long as the words
    assert ocr.read_lines(page, engine, turned=True, skip=lambda box: box.inside(Box(690, 190, 770, 530))) == []
