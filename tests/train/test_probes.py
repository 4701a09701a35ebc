"""The probes tell a model that lives on a shortcut from one that does not: each is tried on both."""

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd
import pytest

from edgerad.phantom import random_spec, render
from imaging.resample import Plane
from serve.preprocess import preprocess
from serve.triage import Thresholds
from train.probes import (
    CHANGES,
    SQUASHED,
    WIDE,
    Floats,
    Grey,
    at_width,
    frame_only,
    invariances,
    probe,
    rank_correlation,
    sharpness,
    shift,
    width_alone,
    within_class,
)

THRESHOLDS = Thresholds("t/1", 0.8, 0.2)


@pytest.fixture(scope="module")
def images() -> list[Grey]:
    """Eight phantoms as 8-bit pixels of several sizes."""
    found = []
    for number in range(8):
        phantom = render(random_spec((77, number), positive=number % 2 == 1, size=448 + 32 * number))
        found.append(np.asarray(phantom.pixels >> (phantom.spec.bits - 8), np.uint8))
    return found


def centre(images: Sequence[Plane]) -> Floats:
    """A model that looks at the brightness of the middle, as the real input shows it."""
    return np.array([preprocess(image)[60:100, 60:100].mean() / 255 for image in images])


def edge(images: Sequence[Plane]) -> Floats:
    """A model that looks at the frame alone."""
    return np.array([preprocess(image)[:, :12].mean() / 255 for image in images])


def fine(images: Sequence[Plane]) -> Floats:
    """A model that looks at sharpness alone."""
    return 1 / (1 + np.exp(-4 * (np.array([sharpness(image) for image in images]) + 2.5)))


def test_every_change_changes_pixels_and_keeps_a_plane(images: list[Grey]) -> None:
    for name, change in CHANGES.items():
        before = images[0].copy()
        changed = change(images[0])
        assert changed.ndim == 2, name
        assert np.array_equal(images[0], before), f"{name} writes to what it is given"
        assert changed.shape != before.shape or changed.dtype != before.dtype or (changed != before).any(), name
        assert np.abs(preprocess(changed).astype(int) - preprocess(before)).mean() < 40, f"{name}: another picture"


@pytest.mark.parametrize("degrees", [5, -5])
def test_what_was_squashed_is_turned_as_it_would_have_been_before(images: list[Grey], degrees: int) -> None:
    wide = cv2.resize(images[0], (round(448 * WIDE), 448), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    squashed = cv2.resize(wide, (448, 448), interpolation=cv2.INTER_AREA).astype(np.uint8)
    turned = CHANGES[f"turned by {degrees} degrees"]
    expected = preprocess(turned(wide)).astype(int)
    found = preprocess(SQUASHED[f"turned by {degrees} degrees, of {WIDE} to 1"](squashed))
    assert np.abs(found - expected).mean() < 1
    assert np.abs(preprocess(turned(squashed)) - expected).mean() > 5, "on the grid alone it is another change"


def test_a_model_that_looks_at_sharpness_is_found_out_by_resampling(images: list[Grey]) -> None:
    changes = {name: CHANGES[name] for name in ("half the resolution", "16 bits")}
    sharp = invariances(fine, images, THRESHOLDS, changes)
    steady = invariances(centre, images, THRESHOLDS, changes)
    assert sharp["half the resolution"].median > 0.05
    assert steady["half the resolution"].median < 0.02
    assert sharp["16 bits"].median == pytest.approx(0, abs=1e-6)


def test_a_model_that_looks_at_the_frame_is_found_out_by_frames_alone(images: list[Grey]) -> None:
    labels = (edge(images) > np.median(edge(images))).astype(int)
    lives_on_it = probe(edge, images, labels, THRESHOLDS, changes={})
    assert lives_on_it["frame_only"]["auroc"] == 1.0
    labels = np.arange(len(images)) % 2
    constant = probe(lambda given: np.full(len(given), 0.4), images, labels, THRESHOLDS, changes={})
    assert constant["frame_only"]["auroc"] == 0.5


def test_a_frame_alone_keeps_the_frame_and_nothing_else(images: list[Grey]) -> None:
    framed = frame_only(images[2], 0.1)
    rows, columns = (round(length * 0.1) for length in images[2].shape)
    assert np.array_equal(framed[:rows], images[2][:rows])
    assert np.array_equal(framed[:, -columns:], images[2][:, -columns:])
    assert np.ptp(framed[rows:-rows, columns:-columns]) == 0


def test_a_shift_counts_moves_and_flips() -> None:
    found = shift(np.array([0.1, 0.5, 0.79, 0.9]), np.array([0.1, 0.52, 0.81, 0.8]), THRESHOLDS)
    assert found.median == pytest.approx(0.02)
    assert found.flips == 0.5, "0.79 to 0.81, and 0.9 to 0.8, which is no longer above it"
    assert found.p95 == pytest.approx(0.1, abs=0.02)


def test_the_rank_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        first, second = rng.integers(0, 9, 40), rng.standard_normal(40)
        second += 0.4 * first
        ranks = [pd.Series(values).rank() for values in (first, second)]
        assert rank_correlation(first, second) == pytest.approx(ranks[0].corr(ranks[1]))
    # Four ranks, one swap: 1 - 6 * 2 / (4 * 15).
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == 0


def test_a_correlation_that_only_the_classes_make_is_none_within_them() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 300)
    widths = 1000 - 300 * labels + rng.standard_normal(600) * 20
    honest = within_class(labels, 5 * labels + rng.standard_normal(600), widths)
    cheating = within_class(labels, -widths / 100 + rng.standard_normal(600) * 0.1, widths)
    assert abs(honest["normal"]) < 0.15 > abs(honest["abnormal"])
    assert cheating["normal"] < -0.7
    assert cheating["abnormal"] < -0.7


def test_an_image_is_made_narrower_and_never_wider(images: list[Grey]) -> None:
    rows, columns = images[0].shape
    narrow = at_width(images[0], columns // 4)
    assert narrow.shape == (round(rows / 4), columns // 4)
    assert at_width(images[0], columns) is images[0]
    assert at_width(images[0], 3 * columns) is images[0]


def test_what_follows_resolution_is_told_from_what_follows_content() -> None:
    """Two models whose scores follow the width of the originals: one by their sharpness, one by what they show."""
    rng = np.random.default_rng(8)
    labels, widths = np.arange(40) % 2, rng.permutation(np.linspace(120, 220, 40).astype(int))
    shown = []
    for width in widths:
        noise = rng.integers(0, 120, (224, width)).astype(np.uint8)
        noise[:, : width // 4] = 130 + width // 2  # what is to be seen on wide images only
        shown.append(np.asarray(cv2.resize(noise, (224, 224), interpolation=cv2.INTER_CUBIC), np.uint8))

    def content(images: Sequence[Plane]) -> Floats:
        return np.array([image[:, : image.shape[1] // 4].mean() / 256 for image in images])

    def resolution(images: Sequence[Plane]) -> Floats:
        return np.array([image.shape[1] / 300 for image in images])

    seen = width_alone(content, shown, labels, [int(width) for width in widths], THRESHOLDS)
    read = width_alone(resolution, shown, labels, [int(width) for width in widths], THRESHOLDS)
    for label in ("normal", "abnormal"):
        assert seen["equal"][label] > 0.9
        assert abs(seen["drawn"][label]) < 0.6
        assert read["equal"][label] == 0
        assert read["drawn"][label] == pytest.approx(1)
    assert seen["drawn"]["shift"]["median"] < 0.02 < read["drawn"]["shift"]["median"]
    assert seen["widths"] == [int(value) for value in np.percentile(widths, [5, 95])]


def test_sharpness_falls_with_blur_and_ignores_exposure(images: list[Grey]) -> None:
    image = images[1]
    blurred = np.asarray(cv2.GaussianBlur(image, (0, 0), 4), np.uint8)
    assert sharpness(blurred) < sharpness(image) - 0.2
    assert sharpness((image // 2).astype(np.uint8)) == pytest.approx(sharpness(image), abs=0.05)


def test_figures_are_plain_values_that_json_takes(images: list[Grey]) -> None:
    import json

    widths = [image.shape[1] for image in images]
    found = probe(
        centre, images, np.arange(8) % 2, THRESHOLDS, widths=widths, changes={"text": CHANGES["text burned in"]}
    )
    assert json.loads(json.dumps(found)) == found
    assert set(found["correlations"]) == {"sharpness", "width"}
    assert set(found["invariances"]["text"]) == {"median", "p95", "flips"}
    assert set(found["width_alone"]) == {"equal", "drawn", "columns", "widths"}
    assert found["thresholds"][0]["high"] == 0.8
