"""The model's input: one function whatever the size, depth and exposure of the source."""

import cv2
import numpy as np
import pytest

from edgerad.phantom import Phantom
from serve.preprocess import GRID, INPUT_SIZE, preprocess, stretch, to_grid, to_input


def test_the_input_is_one_grey_plane_of_bytes(phantom: Phantom) -> None:
    made = preprocess(phantom.pixels)
    assert made.shape == (INPUT_SIZE, INPUT_SIZE, 1)
    assert made.dtype == np.uint8
    assert made.min() <= 5
    assert made.max() >= 250, "the range is used"


@pytest.mark.parametrize("shape", [(40, 50, 3), (0, 10), (100,)])
def test_anything_but_one_plane_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one grey plane"):
        preprocess(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_the_type_of_the_pixels_does_not_matter(phantom: Phantom, dtype: type) -> None:
    eight = (phantom.pixels >> 4).astype(np.uint8)
    # Whole numbers are averaged to whole numbers: a level of difference, no more.
    assert np.abs(preprocess(eight).astype(int) - preprocess(eight.astype(dtype))).max() <= 1


def test_twelve_bits_and_eight_give_the_same_input(phantom: Phantom) -> None:
    twelve, eight = preprocess(phantom.pixels), preprocess((phantom.pixels >> 4).astype(np.uint8))
    assert np.abs(twelve.astype(int) - eight).max() <= 2


def test_exposure_and_contrast_leave_the_input_alone(phantom: Phantom) -> None:
    plain = preprocess(phantom.pixels)
    other = preprocess(phantom.pixels.astype(np.float32) * 0.4 + 900)
    assert np.abs(plain.astype(int) - other).max() <= 1


def test_a_few_dead_pixels_do_not_set_the_range(phantom: Phantom) -> None:
    spoiled = to_grid(phantom.pixels)
    spoiled[:4, :4] = 65535
    assert np.abs(to_input(spoiled)[20:].astype(int) - preprocess(phantom.pixels)[20:]).max() <= 3


def test_reduction_averages_areas() -> None:
    """Each pixel of the grid is the mean of the 3 x 2 pixels below it, not one of them."""
    fine = np.random.default_rng(1).integers(0, 256, (GRID * 3, GRID * 2), np.uint8)
    means = fine.reshape(GRID, 3, GRID, 2).mean(axis=(1, 3))
    assert np.abs(to_grid(fine) - means).max() <= 0.51


def test_small_pictures_are_enlarged_smoothly() -> None:
    ramp = np.tile(np.arange(100, dtype=np.uint8), (100, 1))
    steps = np.diff(to_grid(ramp), axis=1)
    assert steps.max() < 0.6, "nearest neighbour would jump by 1"


def test_the_grid_is_the_size_of_the_training_images() -> None:
    image = np.random.default_rng(2).integers(0, 256, (GRID, GRID), np.uint8)
    np.testing.assert_array_equal(to_grid(image), image.astype(np.float32))


def test_a_constant_picture_is_black() -> None:
    assert not stretch(np.full((GRID, GRID), 77, np.float32)).any()


def test_training_may_take_another_kernel(phantom: Phantom) -> None:
    grid = to_grid(phantom.pixels)
    assert (to_input(grid) != to_input(grid, kernel=cv2.INTER_CUBIC)).any()
