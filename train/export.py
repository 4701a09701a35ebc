"""From a trained Keras model to a signed bundle: rounding, LiteRT conversion, parity, golden cases."""

from __future__ import annotations

import csv
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from serve.bundle import Bundle, BundleError, write_bundle
from serve.calibrate import Calibration
from serve.preprocess import PREPROCESSING_VERSION
from serve.runtimes import with_map
from serve.triage import Thresholds
from train.architecture import ARCHITECTURE

if TYPE_CHECKING:
    import keras
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Inputs = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Maps = npt.NDArray[np.float32]
PARITY_TOLERANCE, INT8_PARITY_TOLERANCE = 0.03, 0.05
"""Of a probability, where LiteRT computes in floats (it folds normalisations into kernels and rounds those once more; a
slope of 1.4 follows) and in eight bits (.034 was seen in one of 480 cases of a core's candidate)."""
MAP_TOLERANCE, INT8_MAP_TOLERANCE = 0.02, 0.05
"""Of the range of an activation map, of golden cases."""
GOLDEN_TOLERANCE = 0.03  # of a probability, in either
FLOAT_BLOCKS = 9
FLOATS = re.compile(
    rf"/(scale|stem|{'|'.join(f'block{i}' for i in range(FLOAT_BLOCKS))}|pool|logit)_|^StatefulPartitionedCall"
)
"""Names of what LiteRT computes in floats all the same: the first blocks, with few channels, for their rounding moves
the logit more than that of all others; the last layers (outputs are named after the call), which cost nothing (ADR 22).
"""
EXAMPLES = 100
"""Cases trained on by which the ranges of activations in eight bits are chosen."""
EIGHT_BITS, SIXTEEN_BITS = f"int8 from block{FLOAT_BLOCKS}", "float16"
MAX_FLIPS = 0.005  # share of triage classes that may differ between the runtimes
DEFAULT_CALIBRATION = Calibration("identity/1")
DEFAULT_THRESHOLDS = Thresholds("0.80-0.20/1")


@dataclass(frozen=True)
class Provenance:
    """What goes into the manifest about where the weights come from and how good they are."""

    finding: str
    training: Mapping[str, Any]  # the fields of serve.bundle.Training
    metrics: Mapping[str, Mapping[str, Any]]
    parent: str | None = None
    probes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def export_bundle(
    model: keras.Model,
    path: Path,
    provenance: Provenance,
    *,
    golden: Inputs,
    parity: Inputs,
    key: Ed25519PrivateKey | None,
    calibration: Calibration = DEFAULT_CALIBRATION,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    litert: bytes | None = None,
) -> Bundle:
    """Write `model` as a bundle at `path`; `golden` and `parity` are model inputs uint8 [n, size, size, 1].

    `litert` is the model with rounded kernels as `convert_int8` gives it; without, LiteRT computes in floats.

    The kernels are rounded to half precision in `model` itself first, so that they take half the space. The Keras file
    holds the network alone; its activation map, which the LiteRT file gives besides, is made of the same weights.
    Raises BundleError if the LiteRT model's probabilities, triage classes or maps are not those of Keras.
    """
    round_kernels(model)
    size = int(model.input_shape[1])
    content, kind = (convert_litert(model), SIXTEEN_BITS) if litert is None else (litert, EIGHT_BITS)
    tolerance = PARITY_TOLERANCE if litert is None else INT8_PARITY_TOLERANCE
    reference = calibration.apply(keras_outputs(model, parity)[0])
    other = calibration.apply(litert_outputs(content, parity)[0])
    difference = float(np.max(np.abs(reference - other)))
    flips = sum(
        thresholds.classify(float(a)) != thresholds.classify(float(b)) for a, b in zip(reference, other, strict=True)
    )
    if not difference <= tolerance or flips > most_flips(len(parity)):
        raise BundleError(
            f"LiteRT differs from Keras by up to {difference:.4f} with {flips} of {len(parity)} triage classes changed;"
            " the conversion is wrong, the bundle was not written"
        )
    logits, maps = keras_outputs(model, golden)
    files = {
        "model.tflite": content,
        "keras.json": model.to_json().encode(),
        "weights.npz": weights_archive(model),
        "golden.npz": _archive({"inputs": golden, "maps": maps}),
    }
    manifest = {
        "finding": provenance.finding,
        "architecture": ARCHITECTURE,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "parent": provenance.parent,
        "preprocessing_version": PREPROCESSING_VERSION,
        "input_size": size,
        "calibration": {"version": calibration.version, "a": calibration.a, "b": calibration.b},
        "thresholds": {"version": thresholds.version, "high": thresholds.high, "low": thresholds.low},
        "metrics": provenance.metrics,
        "probes": provenance.probes,
        "training": {**provenance.training, "config": {**provenance.training["config"], "litert": kind}},
        "parity": {
            "cases": len(parity),
            "max_difference": difference,
            "triage_flips": flips,
            "tolerance": tolerance,
        },
        "golden": {
            "probabilities": [round(float(p), 6) for p in calibration.apply(logits)],
            "tolerance": GOLDEN_TOLERANCE,
            "map_tolerance": MAP_TOLERANCE if litert is None else INT8_MAP_TOLERANCE,
        },
    }
    bundle = write_bundle(path, manifest, files, key)
    bundle.check_golden(*litert_outputs(content, golden), "litert")
    return bundle


def most_flips(cases: int) -> int:
    """Return how many of so many triage classes may differ before their share is above MAX_FLIPS with 95 % confidence.

    The 95 % quantile of the binomial distribution, at least 1: some cases lie so near a threshold that any rounding
    moves them, and two of 240 would be no rare sight where the share is right.
    """
    likelihood, total, flips = (1 - MAX_FLIPS) ** cases, 0.0, 0
    while (total := total + likelihood) < 0.95:
        likelihood *= (cases - flips) / (flips + 1) * MAX_FLIPS / (1 - MAX_FLIPS)
        flips += 1
    return max(1, flips)


def round_kernels(model: keras.Model) -> None:
    """Round every kernel to half precision, in place; biases and normalisation stay in single precision."""
    model.set_weights([_round(value) for value in model.get_weights()])


def weights_archive(model: keras.Model) -> bytes:
    """Return the weights as .npz, in the order of `get_weights`; kernels as float16, which must be exact."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for index, value in enumerate(model.get_weights()):
        half = value.astype(np.float16) if value.ndim > 1 else value
        if not np.array_equal(half.astype(np.float32), value):
            raise ValueError("the kernels are not rounded to half precision; call round_kernels first")
        arrays[f"{index:04d}"] = half
    return _archive(arrays)


def convert_litert(model: keras.Model) -> bytes:
    """Return the LiteRT flatbuffer for one image: logit [1, 1] and map [1, rows, columns] of one pass.

    Kernels are stored in half precision and computed with in single precision.
    """
    import tensorflow as tf

    with _saved(model) as folder:
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
        return bytes(converter.convert())


def convert_int8(model: keras.Model, examples: Inputs) -> bytes:
    """Return the LiteRT flatbuffer that computes in eight bits, but for `FLOATS`; its kernels are int8 or float32.

    Activations get the ranges that they have on `examples`, model inputs [n, size, size, 1].
    """
    import tensorflow as tf

    def given(count: int) -> Callable[[], Iterator[list[npt.NDArray[np.float32]]]]:
        return lambda: ([image[np.newaxis].astype(np.float32)] for image in examples[:count])

    with _saved(model) as folder:

        def debugger(floats: list[str]) -> Any:
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = given(len(examples))
            options = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=floats)
            return tf.lite.experimental.QuantizationDebugger(
                converter=converter, debug_dataset=given(1), debug_options=options
            )

        with warnings.catch_warnings():
            # TensorFlow's own debugger uses the interpreter that TensorFlow calls deprecated.
            warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated", category=UserWarning)
            every, table = debugger([]), StringIO()
            every.run()
            every.layer_statistics_dump(table)
            names = [row["tensor_name"] for row in csv.DictReader(StringIO(table.getvalue()))]
            return bytes(debugger([name for name in names if FLOATS.search(name)]).get_nondebug_quantized_model())


@contextmanager
def _saved(model: keras.Model) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        save(model, folder, 1)
        yield folder


def save(model: keras.Model, folder: str, batch: int | None) -> None:
    """Write the model and its map to a folder as a SavedModel for `batch` images; None: for any number."""
    import keras
    import tensorflow as tf

    size, view = int(model.input_shape[1]), with_map(model)
    archive = keras.export.ExportArchive()
    archive.track(view)
    archive.add_endpoint(
        "serve",
        lambda images: view(images, training=False),
        input_signature=[tf.TensorSpec((batch, size, size, 1), tf.float32, name="image")],
    )
    archive.write_out(folder, verbose=False)


def keras_outputs(model: keras.Model, inputs: Inputs, batch_size: int = 8) -> tuple[Floats, Maps]:
    """Return the logits [n] and activation maps [n, rows, columns] of model inputs [n, size, size, 1].

    Keras keeps every layer's output until the pass ends: 64 images at once would take 3 GB.
    """
    view = with_map(model)
    parts = [
        view(inputs[start : start + batch_size].astype(np.float32), training=False)
        for start in range(0, len(inputs), batch_size)
    ]
    logits, maps = (np.concatenate([np.asarray(part[index]) for part in parts]) for index in (0, 1))
    return logits[:, 0].astype(np.float64), maps.astype(np.float32)


def litert_logits(content: bytes, inputs: Inputs) -> Floats:
    """Return the logits [n] that a LiteRT flatbuffer gives for model inputs."""
    return litert_outputs(content, inputs)[0]


def litert_outputs(content: bytes, inputs: Inputs) -> tuple[Floats, Maps]:
    """Return the logits [n] and maps [n, rows, columns] that a LiteRT flatbuffer gives for model inputs."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    outputs = {len(output["shape"]): output for output in interpreter.get_output_details()}
    logits = np.empty(len(inputs))
    maps = np.empty((len(inputs), *outputs[3]["shape"][1:]), np.float32)
    for index, image in enumerate(inputs):
        interpreter.set_tensor(source, image[np.newaxis].astype(np.float32))
        interpreter.invoke()
        logits[index] = interpreter.get_tensor(outputs[2]["index"])[0, 0]
        maps[index] = interpreter.get_tensor(outputs[3]["index"])[0]
    return logits, maps


def _round(value: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return value.astype(np.float16).astype(np.float32) if value.ndim > 1 else value


def _archive(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    buffer = BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **dict(arrays))
    return buffer.getvalue()
