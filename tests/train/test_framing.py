"""How images are framed: maps and their inverses, what a move does to a pose, and that poses are found."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from serve.preprocess import GRID
from train.augment import AugmentConfig, draw_geometry
from train.dataset import Cases, join
from train.framing import (
    IDENTITY,
    FramingConfig,
    compose,
    evened,
    find_poses,
    invert,
    moved,
    to_pixels,
    to_square,
    unmoved,
)
from train.phantoms import phantom_cases, phantom_specs

STILL = AugmentConfig(
    flip=0, rotate=0, narrowest=1, widest=1, zoom=0, aspect=0, shift=0, shear=0, foreign_frame=0, spectrum=0,
    resample=0, exposure=0, noise=0, text=0, jpeg=0, cutout=0,
)  # fmt: skip
LOW = np.array([[0.9, 0.05, 0.1], [-0.04, 1.2, -0.2]], np.float32)


def draw(seed: int, **how: float) -> np.ndarray:
    return draw_geometry(np.random.default_rng(seed), replace(AugmentConfig(), **how)).matrix


def test_maps_of_pixels_and_of_the_square_are_one_another() -> None:
    corner = to_pixels(np.array([[1, 0, 1], [0, 1, -1]], np.float32))
    np.testing.assert_allclose(corner, [[1, 0, GRID / 2], [0, 1, -GRID / 2]], atol=1e-3)
    np.testing.assert_allclose(to_square(to_pixels(LOW)), LOW, atol=1e-5)
    np.testing.assert_allclose(compose(LOW, invert(LOW)), IDENTITY, atol=1e-6)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_moved_image_has_its_pose_moved_and_a_mirrored_chest_is_none(flip: float) -> None:
    moves = np.stack([to_square(draw(seed, flip=flip)) for seed in range(5)])
    poses = np.stack([LOW] * 5)
    after = moved(poses, moves)
    assert (np.linalg.det(after[:, :, :2]) > 0).all()
    np.testing.assert_allclose(unmoved(after, moves), poses, atol=1e-5)
    centres = moves[:, :, :2] @ poses[:, :, 2:] + moves[:, :, 2:]
    np.testing.assert_allclose(after[:, :, 2:], centres, atol=1e-5)


def test_what_all_poses_have_in_common_is_no_pose() -> None:
    even = evened(np.stack([LOW, compose(LOW, LOW)]))
    np.testing.assert_allclose(even.mean(axis=0), IDENTITY, atol=1e-6)
    np.testing.assert_allclose(even[1] - even[0], compose(LOW, LOW) - LOW, atol=1e-6)


def test_with_its_pose_an_image_is_moved_as_if_it_were_framed_as_most_are() -> None:
    pose = to_pixels(LOW)
    same = draw_geometry(np.random.default_rng(3), AugmentConfig(), pose).matrix
    np.testing.assert_allclose(compose(same, pose), draw(3), atol=1e-3)
    np.testing.assert_allclose(draw_geometry(np.random.default_rng(3), STILL, pose).matrix, invert(pose), atol=1e-3)


def test_poses_go_with_their_cases_and_are_not_joined() -> None:
    cases = phantom_cases(phantom_specs(3, 5))
    framed = replace(cases, poses=np.stack([IDENTITY, LOW, IDENTITY]))
    taken = framed.take([1])
    assert taken.poses is not None
    np.testing.assert_array_equal(taken.poses, [LOW])
    assert join([framed, framed]).poses is None
    with pytest.raises(ValueError, match="lengths"):
        replace(cases, poses=np.stack([LOW]))
    assert isinstance(framed, Cases)


def test_without_images_there_is_nothing_to_find() -> None:
    with pytest.raises(ValueError, match="no images"):
        find_poses(np.zeros((0, GRID, GRID), np.uint8))


@pytest.mark.tf
def test_how_tall_a_chest_is_in_its_picture_is_found_without_a_label() -> None:
    """Forty phantoms, each as it is and twice as cropped from above and below: the taller, the larger its pose."""
    grids = phantom_cases(phantom_specs(40, 71)).grids
    crop = GRID // 12
    tall = np.stack([cv2.resize(grid[crop:-crop], (GRID, GRID), interpolation=cv2.INTER_AREA) for grid in grids])
    said: list[str] = []
    config = FramingConfig(epochs=30, batch_size=16, augment=replace(STILL, zoom=0.2, aspect=0.12, shift=0.08))
    poses = find_poses(np.concatenate([grids, tall]), config, said.append)
    assert poses.shape == (80, 2, 3)
    assert poses.dtype == np.float32
    assert len(said) == 30
    heights = poses[:, 1, 1]
    assert (heights[40:] > heights[:40]).mean() > 0.8
    np.testing.assert_allclose(to_square(poses).mean(axis=0), IDENTITY, atol=1e-4)
