"""Novelty: even for images like those of the training, high for others; the file is the release's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgerad.drift import measure
from edgerad.phantom import random_spec, render
from serve import novelty, view
from serve.bundle import BundleError
from serve.novelty import DIMENSIONS, Usual, describe, load, place_of, usual
from serve.preprocess import stretch, to_grid
from serve.view import features, view_check

RNG = np.random.default_rng(0)


def cloud(count: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """Draw places around `shift`."""
    stretched = np.linspace(0.2, 3, 6)
    return np.asarray(RNG.normal(size=(count, 6)) * stretched * scale + shift, np.float32)


def test_images_of_a_source_have_even_novelties_and_others_high_ones() -> None:
    known = Usual({"a": describe(cloud(2000), cloud(1000))})
    assert measure([known.novelty(place) for place in cloud(400)]).score == pytest.approx(0, abs=0.08)
    assert not measure([known.novelty(place) for place in cloud(400)]).is_flagged
    for other in (cloud(200, shift=3.0), cloud(200, scale=1.8), cloud(200, scale=0.4)):
        drift = measure([known.novelty(place) for place in other])
        assert drift.is_flagged, "farther, wider, or narrower than the training"


def test_the_nearest_source_counts() -> None:
    both = Usual({"a": describe(cloud(2000), cloud(500)), "b": describe(cloud(2000, 20.0), cloud(500, 20.0))})
    for shift in (0.0, 20.0):
        drift = measure([both.novelty(place) for place in cloud(400, shift)])
        assert drift.score is not None
        assert drift.score < 0.1
    assert measure([both.novelty(place) for place in cloud(100, 10.0)]).score == 1.0


def phantom_novelties(count: int, seed: int, scanner: str, exposure: float = 1.0) -> list[float]:
    """Novelties of phantoms under the description that ships."""
    check = view_check()
    found = []
    for number in range(count):
        grid = to_grid(render(random_spec((seed, number), size=512, scanner=scanner)).pixels)
        found.append(usual().novelty(place_of(check, features(stretch(grid**exposure)))))
    return found


def test_the_shipped_description_knows_phantoms_of_the_trained_devices_and_not_others() -> None:
    assert set(usual().sources) == {"kermany", "phantoms"}
    known = measure(phantom_novelties(60, 61, "standard"))
    assert not known.is_flagged, known
    assert measure(phantom_novelties(60, 62, "standard", exposure=2.5)).is_flagged, "another film"


def test_a_place_has_the_dimensions_of_the_description() -> None:
    place = place_of(view_check(), features(np.zeros((224, 224), np.float32)))
    assert place.shape == (DIMENSIONS,)
    assert usual().novelty(place) == 1.0, "black is like nothing"


def test_a_saved_description_says_the_same(tmp_path: Path) -> None:
    known = Usual({"a": describe(cloud(200), cloud(100)), "b": describe(cloud(200, 5.0), cloud(100, 5.0))})
    known.save(tmp_path / "usual.npz")
    again = load((tmp_path / "usual.npz").read_bytes())
    places = cloud(50, 2.0)
    assert [known.novelty(place) for place in places] == [again.novelty(place) for place in places]


def test_a_changed_file_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Path(novelty.__file__).parents[1] / "models" / novelty.FILE
    (tmp_path / "serve").mkdir()
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(view, "__file__", str(tmp_path / "serve" / "view.py"))
    usual.cache_clear()
    try:
        with pytest.raises(BundleError, match="cannot be read"):
            usual()
        (tmp_path / "models" / novelty.FILE).write_bytes(shipped.read_bytes() + b"x")
        with pytest.raises(BundleError, match="SHA-256 differs"):
            usual()
    finally:
        monkeypatch.undo()
        usual.cache_clear()
