"""What runs the network: a registry from a runtime's name to how it is made from a bundle.

`litert` needs no TensorFlow and starts in a fraction of a second; `tensorflow` is for GPUs. Both give logits, and the
class activation map of the same pass to whoever asks; calibration and triage are the same code for all. To add a
runtime, write a class with `name`, `predict` and `explain`, and register its maker.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from serve.bundle import Bundle, BundleError

if TYPE_CHECKING:
    import keras

Batch = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Logits = npt.NDArray[np.float32]
Maps = npt.NDArray[np.float32]
FEATURES_LAYER, LOGIT_LAYER = "head_relu", "logit"
"""Names of the last feature layer and of the dense layer after the mean, which every architecture keeps."""


@dataclass(frozen=True)
class RuntimeOptions:
    """What a runtime may use: CPU threads of a call, calls at a time, batch sizes that a GPU runtime compiles ahead.

    With `gpu` a runtime for GPUs refuses to do without one.
    """

    threads: int = 1
    parallel: int = 1
    warm_batches: tuple[int, ...] = (1, 16)
    gpu: bool = False


class Runtime(Protocol):
    """Runs the network.

    `whole_batches` tells that a batch is faster than its images one by one; such a runtime takes one call at a time,
    another one `parallel` calls.
    """

    name: str
    whole_batches: bool

    def predict(self, batch: Batch) -> Logits:
        """Return logits [n] of model inputs [n, size, size, 1] in 0..255; n may be 0."""
        ...

    def explain(self, batch: Batch) -> tuple[Logits, Maps]:
        """Return logits [n] and activation maps [n, rows, columns], whose means are the logits, of one pass."""
        ...


class LiteRtRuntime:
    """LiteRT with its XNNPACK kernels, one image at a time: batches are no faster on a CPU.

    An interpreter takes one call at a time, so there is one for each (10 MB).
    """

    name = "litert"
    whole_batches = False

    def __init__(self, bundle: Bundle, options: RuntimeOptions) -> None:
        from ai_edge_litert.interpreter import Interpreter

        # The content is kept: the interpreters read from this buffer.
        self._content = bundle.read("model.tflite")
        self._free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(options.parallel):
            try:
                interpreter = Interpreter(model_content=self._content, num_threads=options.threads)
                interpreter.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise BundleError(f"bundle {bundle.digest[:12]}: LiteRT cannot load model.tflite ({error})") from None
            self._free.put(interpreter)
        detail = interpreter.get_input_details()[0]
        self._input = detail["index"]
        outputs = {len(output["shape"]): output for output in interpreter.get_output_details()}
        if set(outputs) != {2, 3}:
            raise BundleError(f"bundle {bundle.digest[:12]}: model.tflite has no logit or no map; export it again")
        self._logit, self._map = outputs[2]["index"], outputs[3]["index"]
        self._cells = tuple(int(side) for side in outputs[3]["shape"][1:])
        self._shape = tuple(int(side) for side in detail["shape"])
        size = bundle.manifest.input_size
        if self._shape != (1, size, size, 1):
            raise BundleError(
                f"bundle {bundle.digest[:12]}: model.tflite takes {self._shape}, not {(1, size, size, 1)}"
            )

    def predict(self, batch: Batch) -> Logits:
        """Return logits [n] of [n, size, size, 1]."""
        return self._run(batch, None)

    def explain(self, batch: Batch) -> tuple[Logits, Maps]:
        """Return logits [n] and maps [n, rows, columns] of [n, size, size, 1]."""
        maps = np.empty((len(batch), *self._cells), np.float32)
        return self._run(batch, maps), maps

    def _run(self, batch: Batch, maps: Maps | None) -> Logits:
        _check_batch(batch, self._shape[1])
        logits = np.empty(len(batch), np.float32)
        interpreter = self._free.get()
        try:
            for index, image in enumerate(batch):
                interpreter.set_tensor(self._input, image[np.newaxis].astype(np.float32))
                interpreter.invoke()
                logits[index] = interpreter.get_tensor(self._logit)[0, 0]
                if maps is not None:
                    maps[index] = interpreter.get_tensor(self._map)[0]
        finally:
            self._free.put(interpreter)
        return logits


class TensorFlowRuntime:
    """TensorFlow: whole batches, compiled and warmed up; GPU memory grows as needed, so that replicas can share one."""

    name = "tensorflow"
    whole_batches = True

    def __init__(self, bundle: Bundle, options: RuntimeOptions) -> None:
        import tensorflow as tf

        devices = tf.config.list_physical_devices("GPU")
        if options.gpu and not devices:
            raise BundleError(
                "this replica has a GPU, but TensorFlow sees none: install its CUDA libraries on this machine"
                f" (pip install 'tensorflow[and-cuda]=={tf.__version__}'), or set serve.num_gpus to 0"
            )
        for device in devices:
            try:
                tf.config.experimental.set_memory_growth(device, True)
            except RuntimeError as error:  # the device was used before, by this same process
                if not tf.config.experimental.get_memory_growth(device):
                    raise BundleError("TensorFlow took the whole GPU before; start this replica afresh") from error
        self._tf = tf
        self._size = bundle.manifest.input_size
        self._model = with_map(load_keras(bundle))
        signature = tf.TensorSpec((None, self._size, self._size, 1), tf.float32)
        self._call: Callable[[Any], Any] = tf.function(self._forward, input_signature=[signature], autograph=False)
        for size in options.warm_batches:
            self.predict(np.zeros((size, self._size, self._size, 1), np.float32))

    def _forward(self, images: Any) -> Any:
        logits, maps = self._model(images, training=False)
        return self._tf.cast(logits[:, 0], self._tf.float32), self._tf.cast(maps, self._tf.float32)

    def predict(self, batch: Batch) -> Logits:
        """Return logits [n] of [n, size, size, 1]."""
        return self.explain(batch)[0]

    def explain(self, batch: Batch) -> tuple[Logits, Maps]:
        """Return logits [n] and maps [n, rows, columns] of [n, size, size, 1]."""
        _check_batch(batch, self._size)
        if not len(batch):
            return np.empty(0, np.float32), np.empty((0, *self._model.outputs[1].shape[1:]), np.float32)
        logits, maps = self._call(self._tf.constant(batch.astype(np.float32)))
        return np.asarray(logits.numpy(), np.float32), np.asarray(maps.numpy(), np.float32)


RuntimeMaker = Callable[[Bundle, RuntimeOptions], Runtime]
RUNTIMES: dict[str, RuntimeMaker] = {"litert": LiteRtRuntime, "tensorflow": TensorFlowRuntime}
DEFAULT_OPTIONS = RuntimeOptions()


def make_runtime(name: str, bundle: Bundle, options: RuntimeOptions = DEFAULT_OPTIONS) -> Runtime:
    """Make a runtime by name and check it on the bundle's golden cases; ValueError, BundleError."""
    maker = RUNTIMES.get(name)
    if maker is None:
        raise ValueError(f"there is no runtime {name!r}; choose one of {', '.join(sorted(RUNTIMES))}")
    runtime = maker(bundle, options)
    bundle.check_golden(*runtime.explain(bundle.golden_inputs()), name)
    return runtime


def load_keras(bundle: Bundle) -> keras.Model:
    """Return the bundle's Keras model, weights as float32; imports TensorFlow. Raises BundleError."""
    import keras

    structure = json.loads(bundle.read("keras.json"))
    try:
        model = keras.models.model_from_json(json.dumps(structure))
        with np.load(BytesIO(bundle.read("weights.npz")), allow_pickle=False) as archive:
            model.set_weights([archive[name].astype(np.float32) for name in sorted(archive.files)])
    except (ValueError, TypeError) as error:
        raise BundleError(f"bundle {bundle.digest[:12]}: Keras cannot load the model ({error})") from None
    return model


def with_map(model: keras.Model) -> keras.Model:
    """Return the model with a second output, its class activation map [n, rows, columns]: the logit of every cell.

    The network ends in a mean over cells and one dense layer, so that the same layer applied to every cell gives values
    whose mean over the cells is the logit (B. Zhou et al., CVPR 2016): no second pass and no weight of its own.
    Weights are shared with `model`. ValueError if the network does not end so.
    """
    import keras

    features, logit = model.get_layer(FEATURES_LAYER).output, model.get_layer(LOGIT_LAYER)
    rows, columns = (int(side) for side in features.shape[1:3])
    cells = keras.layers.Reshape((rows, columns), name="map")(logit(features))
    return keras.Model(model.inputs[0], [model.outputs[0], cells], name=model.name)


def _check_batch(batch: Batch, size: int) -> None:
    if batch.ndim != 4 or batch.shape[1:] != (size, size, 1):
        raise ValueError(f"the model takes [n, {size}, {size}, 1], not {batch.shape}")
