"""What could run the network on a CPU: each contender turns model inputs into logits, with one thread.

OpenVINO and tf2onnx are no dependencies of edgerad: install them into an environment of their own to compare them.
Artifacts that edgerad does not ship are converted by `convert`, which needs TensorFlow and runs in its own process.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from serve.bundle import Bundle

Inputs = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]
SAVED, FLOAT, INT8, DYNAMIC, ONNX = "saved", "float.tflite", "int8.tflite", "dynamic.tflite", "model.onnx"


class Contender(Protocol):
    """Returns logits [n] and computes the activation maps with them, as serving does."""

    def __call__(self, batch: Inputs) -> Logits:
        """Score model inputs uint8 [n, size, size, 1]."""
        ...


Maker = Callable[[Bundle, Path], Contender]


def registered(name: str) -> Maker:
    """Return the maker of one of edgerad's own runtimes."""

    def make(bundle: Bundle, _: Path) -> Contender:
        from serve.runtimes import RuntimeOptions, make_runtime

        runtime = make_runtime(name, bundle, RuntimeOptions(threads=1, warm_batches=(1, 8, 32)))
        return lambda batch: runtime.explain(batch)[0]

    return make


def litert(file: str) -> Maker:
    """Return the maker of LiteRT on a converted file of one image."""

    def make(_: Bundle, folder: Path) -> Contender:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(folder / file), num_threads=1)
        interpreter.allocate_tensors()
        source = interpreter.get_input_details()[0]["index"]
        outputs = {len(output["shape"]): output["index"] for output in interpreter.get_output_details()}

        def score(batch: Inputs) -> Logits:
            logits = np.empty(len(batch), np.float32)
            for index, image in enumerate(batch):
                interpreter.set_tensor(source, image[np.newaxis].astype(np.float32))
                interpreter.invoke()
                logits[index] = interpreter.get_tensor(outputs[2])[0, 0]
                interpreter.get_tensor(outputs[3])
            return logits

        return score

    return make


def openvino(precision: str) -> Maker:
    """Return the maker of OpenVINO in a precision (f32, bf16), on the SavedModel, for any batch."""

    def make(_: Bundle, folder: Path) -> Contender:
        from openvino import Core, convert_model

        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
        compiled = Core().compile_model(convert_model(str(folder / SAVED)), "CPU", options)
        given = str(compiled.get_property("INFERENCE_PRECISION_HINT"))
        if precision not in given.replace("float", "f").replace("bfloat", "bf").replace("bff", "bf"):
            raise RuntimeError(f"this processor computes in {given}")
        logit = next(output for output in compiled.outputs if len(output.partial_shape) == 2)
        request = compiled.create_infer_request()

        def score(batch: Inputs) -> Logits:
            return np.array(request.infer({0: batch.astype(np.float32)})[logit][:, 0], np.float32)

        return score

    return make


def onnx(_: Bundle, folder: Path) -> Contender:
    """Make ONNX Runtime, for any batch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / ONNX), options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]
    place = next(index for index, output in enumerate(session.get_outputs()) if len(output.shape) == 2)

    def score(batch: Inputs) -> Logits:
        return np.asarray(session.run(names, {source: batch.astype(np.float32)})[place][:, 0], np.float32)

    return score


CONTENDERS: dict[str, Maker] = {
    "litert": registered("litert"),
    "litert-float": litert(FLOAT),
    "litert-int8-after-training": litert(INT8),
    "litert-dynamic-int8": litert(DYNAMIC),
    "openvino-f32": openvino("f32"),
    "openvino-bf16": openvino("bf16"),
    "onnxruntime": onnx,
    "tensorflow": registered("tensorflow"),
}


def convert(bundle: Bundle, calibration: Inputs, folder: Path) -> list[str]:
    """Write what the contenders need into a folder; return what could not be made and why.

    `calibration` are training images, by which int8 activations get their ranges.
    """
    import tensorflow as tf

    from serve.runtimes import load_keras, with_map
    from train.export import convert_litert, save

    model = load_keras(bundle)
    (folder / FLOAT).write_bytes(convert_litert(model))
    view, size = with_map(model), bundle.manifest.input_size

    save(model, str(folder / SAVED), None)
    save(model, str(folder / "one"), 1)
    for file, full in ((DYNAMIC, False), (INT8, True)):
        converter: Any = tf.lite.TFLiteConverter.from_saved_model(str(folder / "one"))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if full:
            converter.representative_dataset = lambda: ([image[np.newaxis].astype(np.float32)] for image in calibration)
        (folder / file).write_bytes(converter.convert())
    try:
        import tf2onnx
    except ImportError:
        return ["onnxruntime: tf2onnx is not installed"]
    signature = [tf.TensorSpec((None, size, size, 1), tf.float32, name="image")]
    function = tf.function(lambda images: view(images, training=False), input_signature=signature)
    try:
        tf2onnx.convert.from_function(function, signature, opset=17, output_path=str(folder / ONNX))
    except Exception as error:  # noqa: BLE001 - a converter for older versions fails in many ways
        return [f"onnxruntime: tf2onnx failed ({type(error).__name__}: {str(error)[:120]})"]
    return []
