"""EfficientNet-Lite0 for grey: its size, its initial weights, what is frozen, and a map whose mean is the logit."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from train import architecture
from train.architecture import BLOCKS, STAGES, build_model, freeze, load_imagenet, low_passed, map_side

pytestmark = pytest.mark.tf
SIDE = 64
WIDENED = {"stem_conv": 32, "block1_depthwise_conv": 96, "block5_depthwise_conv": 240}
"""Layers whose kernels are 3 wide in the published network and 5 here, with their channels."""


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
        if ours in WIDENED:
            rows, columns = rows - 2, columns - 2
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
    wider = sum(WIDENED.values()) * (5 * 5 - 3 * 3)
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == features + wider + 1280 + 1
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
    grey = low_passed(colours.sum(axis=1).transpose(1, 2, 0))
    np.testing.assert_allclose(stem[:, :, 0, :], grey, rtol=1e-6, atol=1e-6)
    depthwise = model.get_layer("block1_depthwise_conv").get_weights()[0]
    np.testing.assert_array_equal(
        depthwise[:, :, 7, 0], low_passed(arrays["_blocks.1._depthwise_conv.weight"][7, 0]), strict=True
    )
    depthwise = model.get_layer("block3_depthwise_conv").get_weights()[0]
    np.testing.assert_array_equal(depthwise[:, :, 7, 0], arrays["_blocks.3._depthwise_conv.weight"][7, 0])
    project = model.get_layer("block4_project_conv").get_weights()[0]
    np.testing.assert_array_equal(project[0, 0, 5, 2], arrays["_blocks.4._project_conv.weight"][2, 5, 0, 0])
    norm = model.get_layer("head_norm").get_weights()
    for value, part in zip(norm, ("weight", "bias", "running_mean", "running_var"), strict=True):
        np.testing.assert_array_equal(value, arrays[f"_bn1.{part}"])
    for value, kept in zip(model.get_layer("logit").get_weights(), logit, strict=True):
        np.testing.assert_array_equal(value, kept)


def test_a_low_passed_kernel_does_what_low_passing_and_the_kernel_do() -> None:
    rng = np.random.default_rng(4)
    image, kernel = rng.standard_normal((20, 24)).astype(np.float32), rng.standard_normal((3, 5)).astype(np.float32)
    both = cv2.filter2D(
        cv2.sepFilter2D(image, -1, np.array([0.25, 0.5, 0.25]), np.array([0.25, 0.5, 0.25])), -1, kernel
    )
    inside = (slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(cv2.filter2D(image, -1, low_passed(kernel))[inside], both[inside], atol=1e-5)


def test_detail_that_the_next_layer_cannot_hold_is_gone_before_it(tmp_path: Path) -> None:
    """Stripes one pixel wide look the same as their mean, whichever of them the stride meets: nothing is aliased."""
    import keras

    model = build_model(256, seed=5)
    imagenet_file(tmp_path / "weights.npz", model)
    load_imagenet(model, tmp_path / "weights.npz")
    strided = [layer for layer in model.layers if getattr(layer, "strides", (1, 1)) == (2, 2)]
    assert len(strided) == 5
    inside = (slice(2, -2), slice(2, -2))
    for layer in strided:
        before = layer.input
        if layer.name.startswith(("block3_", "block11_")):
            low_pass = model.get_layer(layer.name.removesuffix("depthwise_conv") + "low_pass")
            assert not low_pass.trainable
            before = low_pass.input
        part = keras.Model(before, layer.output)
        stripes = np.zeros((3, *before.shape[1:]), np.float32)
        stripes[0, :, ::2], stripes[1, :, 1::2], stripes[2] = 1, 1, 0.5
        one, other, mean = np.asarray(part(stripes))
        assert np.abs(mean[inside]).max() > 0
        np.testing.assert_allclose(one[inside], mean[inside], atol=1e-5)
        np.testing.assert_allclose(other[inside], mean[inside], atol=1e-5)


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
    assert not model.get_layer("block3_low_pass").trainable
    assert {weight.path.split("/")[0] for weight in model.trainable_weights} >= {"stem_conv", "stem_norm"}
