"""Only an upright frontal chest, bright where dense, is let through to the model; all else is said to be what it is."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pydicom.data
import pytest
from pydicom import dcmread

from edgerad.phantom import Phantom, random_spec, render, to_dicom, to_jpeg
from edgerad.phantom.bad import render_hand
from imaging.refusal import Unreadable
from serve import view
from serve.bundle import BundleError
from serve.preprocess import GRID, stretch, to_grid
from serve.score import ImageScore, Scorer
from serve.view import SHA256, features, view_check
from train.other_pictures import OTHERS, TURNED

SEED = 77_001


def reason_of(pixels: np.ndarray) -> str | None:
    """Return the reason of the refusal, or None."""
    try:
        view_check().check(stretch(to_grid(pixels)))
    except Unreadable as refusal:
        return refusal.reason
    return None


@pytest.fixture(scope="module")
def chests() -> list[np.ndarray]:
    """Phantoms of all devices, ill and well, children and adults, in 8 bits."""
    scanners = ("standard", "portable", "legacy_cr")
    drawn = [
        render(random_spec((SEED, number), size=320, scanner=scanners[number % 3], burned_in=number % 4 == 0))
        for number in range(24)
    ]
    return [np.asarray(phantom.pixels >> (phantom.spec.bits - 8), np.uint8) for phantom in drawn]


def test_chests_are_let_through(chests: list[np.ndarray]) -> None:
    assert [reason_of(chest) for chest in chests] == [None] * len(chests)


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (lambda image: 255 - image, "inverted"),
        (lambda image: image[::-1, ::-1], "turned"),
        (lambda image: image[::-1], "turned"),
        (np.rot90, "turned"),
        (lambda image: np.rot90(image, 3), "turned"),
    ],
    ids=["inverted", "upside down", "flipped", "on its side", "on its other side"],
)
def test_a_chest_the_wrong_way_is_refused_and_the_way_is_named(chests: list[np.ndarray], turn, reason: str) -> None:  # type: ignore[no-untyped-def]
    said = [reason_of(np.ascontiguousarray(turn(chest))) for chest in chests]
    assert None not in said
    assert said.count(reason) >= 0.9 * len(said)


def test_a_chest_both_inverted_and_turned_is_refused(chests: list[np.ndarray]) -> None:
    assert None not in [reason_of(np.ascontiguousarray(np.rot90(255 - chest))) for chest in chests]


@pytest.mark.parametrize("kind", ["a part", "a sheet"])
def test_parts_and_sheets_of_chests_are_refused(chests: list[np.ndarray], kind: str) -> None:
    rng = np.random.default_rng(SEED)
    made = [TURNED[kind](stretch(to_grid(chest)), rng) for chest in chests]
    assert [reason_of(image) for image in made].count(None) <= 1


@pytest.mark.parametrize("kind", list(OTHERS))
def test_other_pictures_are_refused(kind: str) -> None:
    drawn = [OTHERS[kind](np.random.default_rng([SEED, number])) for number in range(40)]
    assert [reason_of(picture) for picture in drawn].count(None) == 0


def test_a_hand_drawn_by_other_code_is_refused() -> None:
    """The phantom's hand, which the check was not fitted to."""
    assert {reason_of(render_hand(seed).pixels) for seed in range(8)} == {"other-view"}


def test_other_modalities_are_refused_by_their_pixels_alone() -> None:
    """CT, MR, ultrasound and nuclear images that ship with pydicom; none of them was fitted to."""
    said = {}
    for path in sorted((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm")):
        try:
            pixels = dcmread(path).pixel_array
        except Exception:  # noqa: BLE001, S112 - no pixels, or a file that is wrong on purpose
            continue
        if pixels.ndim == 2 and min(pixels.shape) >= 60:
            said[path.name] = reason_of(pixels.astype(np.float64))
    assert len(said) >= 10
    assert [name for name, reason in said.items() if reason is None] == []


def test_a_real_lateral_and_a_real_leg_are_refused(shared: Path) -> None:
    lateral = cv2.imread(str(shared / "data" / "dicom" / "1_ORIGINAL.png"), cv2.IMREAD_GRAYSCALE)
    leg = dcmread(shared / "data" / "dicom" / "RG3_J2KI.dcm").pixel_array
    assert reason_of(np.asarray(lateral)) == "other-view"
    assert reason_of(leg.max() - leg) == "other-view"
    assert reason_of(leg) == "other-view"


def test_brightness_and_contrast_do_not_matter(chests: list[np.ndarray]) -> None:
    plain = view_check().value(stretch(to_grid(chests[0])))
    other = view_check().value(stretch(to_grid(chests[0].astype(np.float32) * 0.3 + 80)))
    assert other == pytest.approx(plain, abs=1e-3)


def test_features_take_a_grid_only() -> None:
    assert features(np.zeros((GRID, GRID), np.float32)).shape == (912,)
    assert np.isfinite(features(np.zeros((GRID, GRID), np.float32))).all()
    with pytest.raises(ValueError, match="grid of 224"):
        features(np.zeros((100, GRID), np.float32))


def test_the_refusal_keeps_whose_image_it_is_and_says_it_in_no_text(scorer: Scorer) -> None:
    hand = render_hand(3)
    (refusal,) = scorer.score_bytes([to_dicom(hand)])
    assert isinstance(refusal, Unreadable)
    assert refusal.reason == "other-view"
    name = refusal.header["PatientName"]
    assert name
    for text in (str(refusal), repr(refusal), refusal.detail):
        assert name.split("^")[0] not in text
    copy = pickle.loads(pickle.dumps(refusal))  # noqa: S301 - as Ray does
    assert (copy.reason, copy.detail, copy.header) == (refusal.reason, refusal.detail, refusal.header)


def test_a_site_can_move_the_threshold(scorer: Scorer, phantom: Phantom) -> None:
    hand = to_jpeg(render_hand(3))
    lax = Scorer(scorer.bundle, scorer.runtime, view_threshold=-9.0)
    assert isinstance(lax.score_bytes([hand])[0], ImageScore)
    strict = Scorer(scorer.bundle, scorer.runtime, view_threshold=9.0)
    assert isinstance(strict.score_bytes([to_jpeg(phantom)])[0], Unreadable)


def test_a_changed_file_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Path(view.__file__).parents[1] / "models" / view.FILE
    assert shipped.stat().st_size < 1_000_000
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "serve").mkdir()
    monkeypatch.setattr(view, "__file__", str(tmp_path / "serve" / "view.py"))
    view_check.cache_clear()
    try:
        with pytest.raises(BundleError, match="cannot be read"):
            view_check()
        (folder / view.FILE).write_bytes(shipped.read_bytes()[:-1])
        with pytest.raises(BundleError, match="SHA-256 differs"):
            view_check()
    finally:
        monkeypatch.undo()
        view_check.cache_clear()
    assert view_check().save(tmp_path / "again.npz")
    assert view.load((tmp_path / "again.npz").read_bytes()).weights.shape == view_check().weights.shape
    assert len(SHA256) == 64
