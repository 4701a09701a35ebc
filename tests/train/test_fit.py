"""The training loop: it learns, goes on after a stop as if there had been none, and says when it diverges."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.tiny import SIDE, build_tiny, planted
from train.augment import AugmentConfig
from train.dataset import LESION_SIDE, CaseBatches, Cases
from train.evaluate import auroc
from train.fit import EpochReport, FitConfig, Progress, fit, settle

CONFIG = FitConfig(
    epochs=4, batch_size=16, learning_rate=1e-2, final_learning_rate=1e-3, ema_decay=0.8, frozen_blocks=0, seed=1
)
STEPS = 30
GENTLE = AugmentConfig(frame_only=0, zoom=0.05, rotate=3, foreign_frame=0, text=0, cutout=0, spectrum=0, exposure=0.3)


def batches(cases: Cases) -> CaseBatches:
    """Batches of cases for the tiny network."""
    return CaseBatches(cases, CONFIG.batch_size, CONFIG.seed, config=GENTLE, input_size=SIDE)


@pytest.fixture(scope="module")
def cases() -> Cases:
    """What is trained on."""
    return planted(64, 5)


@pytest.fixture(scope="module")
def trained(cases: Cases) -> tuple[Any, Progress, list[EpochReport]]:
    """The tiny network after one whole training: the model, its final state, what was reported."""
    reports: list[EpochReport] = []
    model = build_tiny()
    final = fit(model, batches(cases), steps_per_epoch=STEPS, config=CONFIG, on_epoch=reports.append)
    return model, final, reports


def test_state_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((3, 2)).astype(np.float32) for _ in range(12)]
    state = Progress(2, weights, [2 * value for value in weights], [np.array(7), np.ones(2, np.float32)], [0.5, 0.25])
    state.seconds, state.cpu_seconds = [3.0, 2.5], [5.0, 4.5]
    path = tmp_path / "state.npz"
    state.save(path)
    loaded = Progress.load(path)
    assert (loaded.epoch, loaded.losses) == (2, [0.5, 0.25])
    assert (loaded.seconds, loaded.cpu_seconds) == ([3.0, 2.5], [5.0, 4.5])
    for name in ("weights", "average", "optimizer"):
        kept, read = getattr(state, name), getattr(loaded, name)
        assert len(kept) == len(read)
        assert all(np.array_equal(a, b) for a, b in zip(kept, read, strict=True))


@pytest.mark.tf
def test_it_learns_a_planted_lesion_and_where_it_lies(trained: tuple[Any, Progress, list[EpochReport]]) -> None:
    from train.export import keras_outputs

    model, final, reports = trained
    assert [report.epoch for report in reports] == [1, 2, 3, 4]
    assert final.losses == [report.loss for report in reports]
    assert final.losses[-1] < 0.7 * final.losses[0]
    fresh = planted(40, 6)
    logits, maps = keras_outputs(model, fresh.inputs(SIDE))
    assert auroc(fresh.labels, logits).value > 0.95
    assert fresh.lesions is not None
    hits = []
    for index in np.flatnonzero(fresh.labels):
        row, column = (int(cell) * LESION_SIDE // 5 for cell in np.unravel_index(maps[index].argmax(), (5, 5)))
        hits.append(fresh.lesions[index][row : row + LESION_SIDE // 5, column : column + LESION_SIDE // 5].any())
    assert np.mean(hits) >= 0.8


@pytest.mark.tf
def test_the_averaged_weights_are_left_in_the_model(trained: tuple[Any, Progress, list[EpochReport]]) -> None:
    model, final, _ = trained
    for left, average in zip(model.get_weights(), final.average, strict=True):
        np.testing.assert_array_equal(left, average)
    assert any(not np.allclose(a, b) for a, b in zip(final.weights, final.average, strict=True))


@pytest.mark.tf
def test_a_training_that_was_cut_short_goes_on_as_if_it_never_had(
    cases: Cases, trained: tuple[Any, Progress, list[EpochReport]], tmp_path: Path
) -> None:
    class Cut(Exception):
        """The machine went away."""

    def cut(report: EpochReport) -> None:
        report.progress().save(tmp_path / "state.npz")
        if report.epoch == 2:
            raise Cut

    with pytest.raises(Cut):
        fit(build_tiny(), batches(cases), steps_per_epoch=STEPS, config=CONFIG, on_epoch=cut)
    again = build_tiny(seed=99)  # whatever it held, the state decides
    reports: list[EpochReport] = []
    start = Progress.load(tmp_path / "state.npz")
    final = fit(again, batches(cases), steps_per_epoch=STEPS, config=CONFIG, start=start, on_epoch=reports.append)
    assert [report.epoch for report in reports] == [3, 4]
    whole = trained[1]
    assert final.losses == pytest.approx(whole.losses, rel=2e-2)
    for one, other in zip(final.average, whole.average, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-2)


@pytest.mark.tf
def test_a_loss_that_is_no_number_ends_the_training(cases: Cases) -> None:
    config = replace(CONFIG, learning_rate=1e30, epochs=2)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        fit(build_tiny(), batches(cases), steps_per_epoch=4, config=config)


@pytest.mark.tf
def test_an_image_that_shows_nothing_is_drawn_to_one_half(cases: Cases) -> None:
    """A frame alone has the target 0.5: a model that only sees such images ends up undecided, whatever their labels."""
    from train.export import keras_outputs

    source = CaseBatches(cases, CONFIG.batch_size, 1, config=replace(GENTLE, frame_only=1.0), input_size=SIDE)
    model = build_tiny()
    model.get_layer("logit").bias.assign([3.0])
    fit(model, source, steps_per_epoch=STEPS, config=replace(CONFIG, epochs=2, ema_decay=0.5))
    assert np.abs(keras_outputs(model, next(iter(source(5, 1))).images)[0]).mean() < 1.0


@pytest.mark.tf
def test_the_map_loss_knows_only_lesions_and_no_level() -> None:
    from train.fit import map_losses

    cells = np.zeros((3, 2, 2), np.float32)
    cells[:, 0, 1] = 8
    lesions = np.zeros((3, 2, 2), np.float32)
    lesions[0, 0, 1] = lesions[1, 1, 0] = 1
    right, wrong, unknown = np.asarray(map_losses(cells, lesions, 2.0))
    assert right < 0.1
    assert wrong > 3
    assert unknown == 0
    np.testing.assert_allclose(map_losses(cells + 5, lesions, 2.0), [right, wrong, 0], atol=1e-5)


@pytest.mark.tf
def test_views_that_disagree_cost_more_where_a_decision_hangs_on_it() -> None:
    from train.fit import pair_losses

    first = np.array([0.7, 0.7, 0.1, 0.4], np.float32)
    one, other = np.array([0.0, 0.0, 4.0, 2.0], np.float32), np.array([0.0, 1.0, 5.0, -9.0], np.float32)
    labels = np.array([1, 1, 1, 0.5], np.float32)
    agreed, near, far, frame = np.asarray(pair_losses(first, one, other, labels, labels, 0.2))
    second = np.log1p(np.exp(-other))  # cross-entropy with the label 1
    assert agreed == pytest.approx(0.5 * (0.7 + second[0]))
    assert near == pytest.approx(0.5 * (0.7 + second[1]) + 0.2, rel=1e-5)
    assert far == pytest.approx(0.5 * (0.1 + second[2]) + 0.2 / 5, rel=1e-5)
    assert frame == pytest.approx(0.4), "of a frame alone there is no second view"


@pytest.mark.tf
def test_views_of_an_image_come_to_agree(cases: Cases) -> None:
    """With a heavy weight on agreement nothing but one logit for both views is left of what is learnt."""
    from train.export import keras_outputs

    def apart(agreement: float) -> float:
        model, config = build_tiny(), replace(CONFIG, epochs=1, agreement=agreement, map_weight=0.0)
        source = CaseBatches(cases, CONFIG.batch_size, 1, config=GENTLE, input_size=SIDE, pairs=True)
        fit(model, source, steps_per_epoch=15, config=config)
        views = next(iter(source(9, 1)))
        assert views.others is not None
        one, other = (keras_outputs(model, images)[0] for images in (views.images, views.others))
        return float(np.abs(one - other).mean())

    assert apart(30.0) < 0.5 * apart(0.0)


@pytest.mark.tf
def test_normalisations_settle_to_what_comes_through_and_nothing_else_changes(cases: Cases) -> None:
    import keras

    model = build_tiny()
    before = {weight.path: np.asarray(weight) for weight in model.weights}
    settle(model, batches(cases), 40)
    moved = {weight.path for weight in model.weights if not np.array_equal(before[weight.path], np.asarray(weight))}
    assert moved == {path for path in before if path.endswith(("moving_mean", "moving_variance"))}
    images = next(iter(batches(cases)(3, 1))).images.astype(np.float32)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            values = np.asarray(keras.Model(model.input, layer.output)(images))
            assert values.mean() == pytest.approx(0, abs=0.25)
            assert values.std() == pytest.approx(1, abs=0.25)


@pytest.mark.tf
def test_the_learning_rate_warms_up_and_decays() -> None:
    from train.fit import make_optimizer

    config = FitConfig(epochs=10, learning_rate=1e-3, final_learning_rate=1e-5, warmup=0.1)
    rate = make_optimizer(build_tiny(), config, 10)._learning_rate
    rates = [float(rate(step)) for step in (0, 5, 10, 55, 100)]
    assert rates[0] < rates[1] < rates[2]
    assert rates[2] == pytest.approx(1e-3, rel=1e-3)
    assert rates[2] > rates[3] > rates[4]
    assert rates[4] == pytest.approx(1e-5, rel=1e-2)


@pytest.mark.tf
def test_the_loss_is_of_what_is_served(cases: Cases) -> None:
    """Told that a slope of 3 and an offset of -1 follow, the same network loses what is lost by them."""
    from serve.calibrate import Calibration

    def first_loss(config: FitConfig) -> float:
        losses: list[float] = []
        fit(
            build_tiny(),
            batches(cases),
            steps_per_epoch=1,
            config=config,
            on_epoch=lambda told: losses.append(told.loss),
        )
        return losses[0]

    calibration = Calibration("slope/1", 3.0, -1.0)
    still = replace(CONFIG, epochs=1, map_weight=0.0, label_smoothing=0.0)
    served = still.served_by(calibration)
    assert (served.slope, served.offset, replace(served, slope=1.0, offset=0.0)) == (3.0, -1.0, still)
    batch = next(iter(batches(cases)(0, 1)))
    logits = np.asarray(build_tiny()(batch.images.astype(np.float32), training=True))[:, 0]
    for config, told in ((still, logits), (served, 3 * logits - 1)):
        lost = np.logaddexp(0, told) - batch.labels * told
        assert first_loss(config) == pytest.approx(float(np.mean(lost * batch.weights)), rel=0.01)
