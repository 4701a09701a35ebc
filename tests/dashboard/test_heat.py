"""The tint over an image: it lies where the map is highest, follows the zoom, and stretches nothing faint."""

import numpy as np
import pytest

from dashboard.heat import FAINTEST_FULL, heat, peak, tint
from edgerad.scoring import ActivationMap


def one_cell(row: int, column: int, value: float = 9.0) -> ActivationMap:
    """A map of 5 x 5 cells with evidence in one."""
    cells = np.full((5, 5), -2.0)
    cells[row, column] = value
    return [[float(cell) for cell in line] for line in cells]


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 3), (4, 2)])
def test_the_peak_lies_in_the_cell_with_the_evidence(row: int, column: int) -> None:
    x, y = peak(one_cell(row, column))
    assert column / 5 < x < (column + 1) / 5
    assert row / 5 < y < (row + 1) / 5


def test_between_two_equal_cells_the_peak_lies_between_their_centres() -> None:
    cells = one_cell(2, 1)
    cells[2][2] = 9.0
    x, _ = peak(cells)
    assert 0.3 < x < 0.5


def test_strong_evidence_is_tinted_fully_and_faint_evidence_faintly() -> None:
    assert heat(one_cell(1, 1, 40.0)).values.max() == pytest.approx(1.0)
    assert heat(one_cell(1, 1, 1.0)).values.max() < 1.01 / FAINTEST_FULL
    assert heat([[-3.0] * 5] * 5).values.max() == 0


def test_the_tint_colours_where_the_evidence_is_and_leaves_all_else_grey() -> None:
    grey = np.full((100, 150), 90, np.uint8)
    coloured = tint(grey, heat(one_cell(2, 4)), 1.0)
    assert coloured.shape == (100, 150, 3)
    assert coloured[50, 135, 2] > 200 > coloured[50, 135, 0], "orange: red is the last channel"
    assert coloured[5, 5].tolist() == [90, 90, 90]
    assert np.array_equal(tint(grey, heat(one_cell(2, 4)), 0.0)[:, :, 0], grey)


def test_the_tint_follows_the_zoom() -> None:
    warmth = heat(one_cell(0, 0))
    corner, opposite = warmth.part(2.0, 0.0, 0.0, 1400), warmth.part(2.0, 1.0, 1.0, 1400)
    assert corner.values.max() == pytest.approx(1.0)
    assert opposite.values.max() == 0
