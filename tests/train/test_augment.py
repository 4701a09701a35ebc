"""What is changed at random in training keeps its shape, stays reproducible, and hides what must not be learned."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from serve.preprocess import GRID
from train import augment as changes
from train.augment import AugmentConfig, Geometry, augment, draw_geometry, frame_only, move_lesion

NOTHING = AugmentConfig(
    flip=0, rotate=0, zoom=0, aspect=0, shift=0, shear=0, foreign_frame=0, spectrum=0, resample=0, exposure=0, noise=0,
    text=0, jpeg=0, cutout=0,
)  # fmt: skip
STILL = Geometry(np.array([[1, 0, 0], [0, 1, 0]], np.float32), True)
Grey = npt.NDArray[np.uint8]


@pytest.fixture
def grid() -> Grey:
    """A grey grid with structure at every scale, from 0 to 255."""
    rng = np.random.default_rng(3)
    layers = [
        share * cv2.resize(rng.standard_normal((side, side)), (GRID, GRID), interpolation=cv2.INTER_CUBIC)
        for side, share in ((4, 1.0), (14, 0.6), (56, 0.25), (GRID, 0.12))
    ]
    total = np.sum(layers, axis=0)
    return np.asarray((total - total.min()) / np.ptp(total) * 255, np.uint8)


def test_the_same_generator_gives_the_same_variant_and_another_seed_another(grid: Grey) -> None:
    one, same, other = (augment(grid, np.random.default_rng(seed), other=grid[::-1]) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert np.abs(one.astype(int) - other).mean() > 5


def test_a_variant_has_the_input_size_that_is_asked_for(grid: Grey) -> None:
    for seed in range(40):
        image = augment(grid, np.random.default_rng(seed), other=grid, input_size=96)
        assert image.shape == (96, 96, 1)
        assert image.dtype == np.uint8
        assert np.ptp(image) > 50


def test_the_grid_itself_is_never_written_to(grid: Grey) -> None:
    before = grid.copy()
    for seed in range(40):
        augment(grid, np.random.default_rng(seed), other=grid)
        frame_only(grid, np.random.default_rng(seed))
    assert np.array_equal(grid, before)


def test_without_any_change_nothing_but_the_last_resampling_differs(grid: Grey) -> None:
    from serve.preprocess import to_grid, to_input

    expected = to_input(to_grid(grid)).astype(int)
    for seed in range(8):
        image = augment(grid, np.random.default_rng(seed), NOTHING, geometry=STILL)
        assert (
            np.abs(cv2.blur(image[:, :, 0], (9, 9)).astype(int) - cv2.blur(expected[:, :, 0] * 1.0, (9, 9))).max() < 6
        )


@pytest.mark.parametrize(
    "change", ["spectrum", "sharpness", "resample", "exposure", "noise", "text", "jpeg", "cutout", "foreign_frame"]
)
def test_each_change_can_be_switched_on_by_itself(grid: Grey, change: str) -> None:
    config = AugmentConfig(**{**vars(NOTHING), change: 1.0})
    black = np.zeros_like(grid)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        still = augment(grid, np.random.default_rng(seed), NOTHING, geometry=STILL)
        changed = augment(grid, rng, config, geometry=STILL, other=black)
        assert not np.array_equal(still, changed), change


def test_a_bright_spot_is_moved_to_where_its_lesion_is_moved_to() -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x, y = (int(value) for value in rng.integers(80, 150, 2))
        image, lesion = np.full((GRID, GRID), 40, np.uint8), np.zeros((GRID // 4, GRID // 4), np.uint8)
        cv2.circle(image, (x, y), 14, 255, -1)
        cv2.circle(lesion, (x // 4, y // 4), 3, 255, -1)
        geometry = draw_geometry(rng)
        moved = augment(image, rng, NOTHING, geometry=geometry)
        spread = move_lesion(lesion, geometry, 5)
        bright = np.argwhere(moved[:, :, 0] > 200).mean(axis=0) / moved.shape[0] * 5 - 0.5
        lesion_centre = np.array([(spread.sum(axis=1 - axis) * np.arange(5)).sum() for axis in (0, 1)])
        assert np.abs(bright - lesion_centre).max() < 0.35


def test_a_turn_is_one_of_the_image_before_it_was_squashed() -> None:
    for narrowest, widest in ((1.0, 1.0), (1.5, 1.5), (0.8, 1.7)):
        config = AugmentConfig(**{**vars(NOTHING), "rotate": 9.0, "narrowest": narrowest, "widest": widest})
        for seed in range(20):
            turn = draw_geometry(np.random.default_rng(seed), config).matrix[:, :2].astype(float)
            width = np.sqrt(-turn[1, 0] / turn[0, 1])  # of the image, over its height
            assert narrowest - 1e-3 <= width <= widest + 1e-3
            of_image = turn * [[1, width], [1 / width, 1]]
            assert of_image @ of_image.T == pytest.approx(np.eye(2), abs=1e-5)


def test_the_spread_of_a_lesion_sums_to_one_and_of_none_to_nothing() -> None:
    lesion = np.zeros((GRID // 4, GRID // 4), np.uint8)
    assert move_lesion(lesion, STILL, 5).sum() == 0
    lesion[:11, -11:] = 255
    spread = move_lesion(lesion, STILL, 5)
    assert spread.sum() == pytest.approx(1)
    assert spread[0, 4] > 0.9


def test_the_energy_of_fine_bands_no_longer_tells_sharp_images_from_soft_ones(grid: Grey) -> None:
    sharp, soft = (np.asarray(cv2.GaussianBlur(grid, (0, 0), sigma), np.uint8) for sigma in (0.5, 0.8))

    def energy(image: Grey) -> float:
        return float(np.std(image - cv2.GaussianBlur(image.astype(np.float32), (0, 0), changes.BANDS[0])))

    before = energy(sharp) / energy(soft)
    rng = np.random.default_rng(0)
    drawn = np.array([[energy(changes._spectrum(image, rng)) for _ in range(80)] for image in (sharp, soft)])
    assert before > 1.8
    assert np.median(drawn[0]) / np.median(drawn[1]) < before**0.85
    assert np.mean(drawn[0] < drawn[1]) > 0.03, "either may come out as the softer one"


def test_exposure_loses_black_and_white_only_where_it_may() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (8, 1))

    def ends(saturate: float) -> tuple[list[int], list[int]]:
        rng = np.random.default_rng(0)
        drawn = [changes._exposure(ramp, rng, saturate) for _ in range(60)]
        return [int((image[0] == 0).sum()) for image in drawn], [int((image[0] == 255).sum()) for image in drawn]

    black, white = ends(0.0)
    assert max(white) <= 3
    assert np.median(black) <= 5
    black, white = ends(0.2)
    assert np.mean(np.array(black) > 12) > 0.2
    assert np.mean(np.array(white) > 12) > 0.2


def test_sharpness_is_varied_both_ways(grid: Grey) -> None:
    rng = np.random.default_rng(1)
    fine = [float(np.std(cv2.Laplacian(changes._sharpness(grid, rng), cv2.CV_32F))) for _ in range(40)]
    own = float(np.std(cv2.Laplacian(grid, cv2.CV_32F)))
    assert min(fine) < 0.7 * own
    assert max(fine) > 1.5 * own


def test_a_foreign_frame_keeps_the_middle_and_replaces_the_edges(grid: Grey) -> None:
    rng = np.random.default_rng(5)
    white = np.full_like(grid, 255)
    edges = 0
    for _ in range(30):
        framed = changes._foreign_frame(grid, white, rng)
        middle = slice(GRID // 4, -GRID // 4)
        assert np.array_equal(framed[middle, middle], grid[middle, middle])
        edges += int(framed[GRID // 2, 0] > 200) + int(framed[GRID // 2, -1] > 200)
    assert edges > 15


def test_a_frame_alone_keeps_nothing_of_the_middle() -> None:
    rng = np.random.default_rng(0)
    first = np.tile(np.linspace(0, 255, GRID).astype(np.uint8), (GRID, 1))
    second = first.copy()
    second[60:-60, 60:-60] = 255 - second[60:-60, 60:-60]
    for _ in range(20):
        seed = int(rng.integers(2**32))
        one = frame_only(first, np.random.default_rng(seed))
        two = frame_only(second, np.random.default_rng(seed))
        assert one.shape == (160, 160, 1)
        middle = one[48:-48, 48:-48].astype(int)
        assert middle.std() < 12
        # What differed lay in the middle: only its mean may still show, as the fill.
        assert np.array_equal(np.argsort(one[2, :, 0], kind="stable"), np.argsort(two[2, :, 0], kind="stable"))


def test_text_is_drawn_only_where_it_is_asked_for(grid: Grey) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        written = changes._text(grid, rng)
        assert 0 < (written != grid).mean() < 0.35
