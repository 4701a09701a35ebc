"""Real X-rays the wrong way are refused, as they are they pass; a calibration refitted on few of them does no harm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imaging.refusal import Unreadable
from serve.calibrate import calibration_error, fit_platt, log_losses
from serve.decode import decode
from serve.preprocess import stretch, to_grid
from serve.score import Scorer
from serve.view import THRESHOLD, TURNS, view_check
from tests.model.conftest import Answers


@pytest.fixture(scope="module")
def grids(shared: Path) -> list[np.ndarray]:
    """Every third of the development images, stretched."""
    files = sorted((shared / "data" / "xraylab-dev").glob("*/*.jpeg"))[::3]
    return [stretch(to_grid(decode(file.read_bytes()).pixels)) for file in files]


@pytest.mark.parametrize("way", list(TURNS))
def test_a_real_x_ray_the_wrong_way_is_refused(grids: list[np.ndarray], way: str) -> None:
    check, named = view_check(), 0
    for grid in grids:
        turned = np.ascontiguousarray(TURNS[way](grid))
        assert check.value(turned) < THRESHOLD
        try:
            check.check(turned)
        except Unreadable as refusal:
            named += refusal.reason == ("inverted" if way == "inverted" else "turned")
    assert named >= 0.95 * len(grids)


def test_a_real_x_ray_as_it_is_passes_with_room(grids: list[np.ndarray]) -> None:
    values = [view_check().value(grid) for grid in grids]
    assert min(values) > THRESHOLD + 0.1


def test_real_x_rays_of_the_training_hospital_show_no_drift(development: Answers) -> None:
    from edgerad.drift import measure

    drift = measure([score.novelty for score in development.scores])
    assert not drift.is_flagged
    assert drift.score is not None
    assert drift.score < 0.15


def test_a_refit_on_a_hundred_readings_does_no_harm(development: Answers, scorer: Scorer) -> None:
    """Over the held-out predictions of 100 random splits; docs/model.md says how far a single split can tell."""
    logits, labels = development.logits, development.labels.astype(float)
    bundled = scorer.bundle.calibration
    predicted, truth, change = [], [], []
    for seed in range(100):
        order = np.random.default_rng(seed).permutation(len(labels))
        fitted, held = order[:100], order[100:]
        refit = fit_platt(logits[fitted], labels[fitted], "refit", bundled)
        predicted.append(refit.apply(logits[held]))
        truth.append(labels[held])
        before, after = (log_losses(made, logits[held], labels[held]).mean() for made in (bundled, refit))
        change.append(after - before)
    assert calibration_error(np.concatenate(predicted), np.concatenate(truth)) <= 0.045
    assert np.mean(change) < 0.01
