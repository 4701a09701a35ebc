"""EfficientNet-Lite0 for grey: its size, its initial weights, what is frozen, and a map whose mean is the logit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from train import architecture
from train.architecture import BLOCKS, STAGES, build_model, freeze, load_imagenet, map_side

pytestmark = pytest.mark.tf
SIDE = 64


@pytest.fixture(scope="module")
def model() -> Any:
    """The network for small inputs, shared by tests that write no weights."""
    return build_model(SIDE, seed=3)


def imagenet_file(path: Path, model: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Write a weights file with the names and shapes of the published one; return its arrays."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for ours, theirs, norm in architecture._names():
        shape = tuple(model.get_layer(ours).weights[0].shape)
        rows, columns, deep, wide = shape
        outwards = (deep, 1, rows, columns) if "depthwise" in ours else (wide, deep, rows, columns)
        if ours == "stem_conv":
            outwards = (wide, 3, rows, columns)
        spread = np.sqrt(2 / np.prod(outwards[1:]))
        arrays[f"{theirs}.weight"] = (spread * rng.standard_normal(outwards)).astype(np.float32)
        for part, usual in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            length = wide if "depthwise" not in ours else deep
            arrays[f"{norm}.{part}"] = (usual + 0.1 * rng.random(length)).astype(np.float32)
    np.savez(path, allow_pickle=False, **arrays)
    return arrays


def test_it_is_the_published_network_with_one_grey_channel_and_one_logit(model: Any) -> None:
    # EfficientNet-Lite0 has 4,652,008 weights, 1,281,000 of them in its classifier of 1,000 classes.
    features = 4_652_008 - 1_281_000 - 2 * (3 * 3 * 32)  # less two of the stem's three colours
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == features + 1280 + 1
    assert BLOCKS == sum(stage.repeats for stage in STAGES) == 16
    assert model.output_shape == (None, 1)


@pytest.mark.parametrize(("size", "cells"), [(160, 5), (192, 6), (161, 6), (64, 2)])
def test_a_cell_of_the_map_is_32_pixels_a_side(size: int, cells: int) -> None:
    assert map_side(size) == cells


def test_the_mean_of_the_map_is_the_logit(model: Any) -> None:
    from train.export import keras_outputs

    images = np.random.default_rng(0).integers(0, 255, (3, SIDE, SIDE, 1)).astype(np.uint8)
    logits, maps = keras_outputs(model, images)
    assert maps.shape == (3, map_side(SIDE), map_side(SIDE))
    np.testing.assert_allclose(maps.mean(axis=(1, 2)), logits, atol=1e-4)
    assert np.ptp(maps) > 0


def test_the_same_seed_gives_the_same_weights(model: Any) -> None:
    same, other = build_model(SIDE, seed=3), build_model(SIDE, seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), same.get_weights(), strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights(), strict=True))


def test_imagenet_weights_fill_all_but_the_logit_and_a_grey_image_is_seen_as_three_equal_colours(
    tmp_path: Path,
) -> None:
    model = build_model(SIDE, seed=5)
    logit = [value.copy() for value in model.get_layer("logit").get_weights()]
    arrays = imagenet_file(tmp_path / "weights.npz", model)
    assert load_imagenet(model, tmp_path / "weights.npz") == len(arrays)
    stem = model.get_layer("stem_conv").get_weights()[0]
    colours = arrays["_conv_stem.weight"]
    np.testing.assert_allclose(stem[:, :, 0, :], colours.sum(axis=1).transpose(1, 2, 0), rtol=1e-6)
    depthwise = model.get_layer("block1_depthwise_conv").get_weights()[0]
    np.testing.assert_array_equal(depthwise[:, :, 7, 0], arrays["_blocks.1._depthwise_conv.weight"][7, 0])
    project = model.get_layer("block4_project_conv").get_weights()[0]
    np.testing.assert_array_equal(project[0, 0, 5, 2], arrays["_blocks.4._project_conv.weight"][2, 5, 0, 0])
    norm = model.get_layer("head_norm").get_weights()
    for value, part in zip(norm, ("weight", "bias", "running_mean", "running_var"), strict=True):
        np.testing.assert_array_equal(value, arrays[f"_bn1.{part}"])
    for value, kept in zip(model.get_layer("logit").get_weights(), logit, strict=True):
        np.testing.assert_array_equal(value, kept)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda arrays: arrays.pop("_conv_head.weight"), "no array _conv_head.weight"),
        (lambda arrays: arrays.update({"_fc.weight": np.zeros(3)}), "1 arrays that this architecture does not know"),
        (lambda arrays: arrays.update({"_conv_head.weight": np.zeros((2, 2, 1, 1))}), "has shape"),
    ],
)
def test_another_weights_file_is_refused(model: Any, tmp_path: Path, spoil: Any, said: str) -> None:
    arrays = imagenet_file(tmp_path / "whole.npz", model)
    spoil(arrays)
    np.savez(tmp_path / "spoilt.npz", allow_pickle=False, **arrays)
    with pytest.raises(ValueError, match=said):
        load_imagenet(build_model(SIDE), tmp_path / "spoilt.npz")


def test_freezing_leaves_what_comes_after_to_learn() -> None:
    model = build_model(SIDE)
    freeze(model, blocks=2)
    trained = {weight.path.split("/")[0] for weight in model.trainable_weights}
    assert not {name for name in trained if name.startswith(("stem_", "block0_", "block1_"))}
    assert {"block2_expand_conv", "block10_project_norm", "head_norm", "logit"} <= trained
    freeze(model, blocks=11, batch_norm=True)
    trained = {weight.path.split("/")[0] for weight in model.trainable_weights}
    assert not {name for name in trained if "_norm" in name or name.startswith(("block1_", "block10_"))}
    assert "block11_expand_conv" in trained
    freeze(model, blocks=0)
    assert {weight.path.split("/")[0] for weight in model.trainable_weights} >= {"stem_conv", "stem_norm"}
