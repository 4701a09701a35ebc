"""The network on a GPU, and Serve replicas that share it: rates by batch, what could be faster, what limits a replica.

`python -m benchmarks.gpu` prints JSON. A model part and a Serve part run one after the other, each in a process of its
own, so that the first has given its GPU memory back. In every repeat each contender has its turn; figures are medians.

- model: the `tensorflow` runtime as it serves, and variants, from inputs in host memory to results in host memory:
  half precision, XLA, and `bytes`, which copies the inputs to the GPU as bytes and makes floats of them there
- serve: sets of 1, 2, 4 replicas on one GPU, all of them up at once, called through the handle: with inputs that are
  prepared already, and with JPEG files that the replicas decode
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.contenders import Inputs
from benchmarks.gpu_replicas import gpus, serve_part
from benchmarks.runtimes import parity
from benchmarks.serving import machine
from serve.bundle import Bundle, bundled_keys, bundled_model, load_bundle
from serve.runtimes import LOGIT_LAYER, Logits, Maps, RuntimeOptions, load_keras, make_runtime, with_map

KNEE = 0.9
"""Share of the best rate that is as good as it: the smallest batch that reaches it is the one to serve with."""
MODEL_SHARE, RACE_SHARE = 0.55, 0.35
"""Of the seconds, for the model part; and of its own, for its repeats."""
GRACE = 120.0
"""Seconds after its end when a part is given up."""
IN_A_TURN = 512
"""Images that a variant scores in one turn at least; and not fewer than four calls."""
PARITY_SEED = 7_311
Explain = Callable[[Inputs], tuple[Logits, Maps]]


@dataclass(frozen=True)
class Variant:
    """How the network is run."""

    mixed: bool = False
    xla: bool = False
    as_bytes: bool = False


BASE = "float32"
VARIANTS = {
    BASE: Variant(),
    "mixed": Variant(mixed=True),
    "bytes": Variant(as_bytes=True),
    "mixed+bytes": Variant(mixed=True, as_bytes=True),
    "mixed+xla": Variant(mixed=True, xla=True),
    "xla": Variant(xla=True),
    "mixed+xla+bytes": Variant(mixed=True, xla=True, as_bytes=True),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=150.0, help="repeats end, and variants are left out, after it")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16, 32, 64, 128, 256])
    parser.add_argument("--xla-batches", type=int, nargs="+", default=[16, 64, 256], help="each is compiled, slowly")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--parity", type=int, default=256, help="phantoms to compare probabilities on")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--turn", type=float, default=2.0, help="seconds of a turn of a set of replicas")
    parser.add_argument("--batch", type=int, help="images of a call to a replica; by default the knee")
    parser.add_argument("--folder", type=Path, help="JPEG files for the replicas; by default real ones, or phantoms")
    parser.add_argument("--files", type=int, default=64)
    parser.add_argument("--allow-cpu", action="store_true", help="run without a GPU too, to try the program")
    parser.add_argument("--part", choices=list(PARTS), help="(inner use) only this part, in this process")
    options = parser.parse_args()
    options.until = time.monotonic() + options.seconds
    if options.part:
        print(json.dumps(PARTS[options.part](options)))
        return
    model = in_a_process("model", options.seconds * MODEL_SHARE)
    batch = options.batch or model.get("runtimes", {}).get(BASE, {}).get("knee", 64)
    replicas = in_a_process("serve", options.until - time.monotonic(), "--batch", str(batch))
    print(json.dumps({"machine": {**machine(), "gpus": gpus()}, "model": model, "serve": replicas}, indent=1))


def in_a_process(part: str, seconds: float, *more: str) -> dict[str, Any]:
    """Run a part in a process of its own; if it fails, return why: the other part's figures are kept."""
    own = ["--part", part, "--seconds", str(max(seconds, 1.0)), *more]
    started = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.gpu", *sys.argv[1:], *own]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + GRACE)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        return {"failed": f"{type(error).__name__}: {str(error.stderr)[-3000:]}"}
    return {**json.loads(done.stdout.splitlines()[-1]), "part_seconds": round(time.monotonic() - started, 1)}


def knee(rates: Mapping[int, float], share: float = KNEE) -> int:
    """Return the smallest batch whose rate is at least `share` of the best one."""
    enough = share * max(rates.values())
    return min(batch for batch, rate in rates.items() if rate >= enough)


def model_part(options: argparse.Namespace) -> dict[str, Any]:
    """Return the runtime's and the variants' rates, parity, memory and time to be ready."""
    import tensorflow as tf

    from train.phantoms import phantom_cases, phantom_specs

    devices = tf.config.list_physical_devices("GPU")
    if not devices and not options.allow_cpu:
        raise SystemExit("TensorFlow sees no GPU here; --allow-cpu runs without one")
    for device in devices:  # before the first look at its memory, which takes the device into use
        tf.config.experimental.set_memory_growth(device, True)
    bundle = load_bundle(bundled_model(), bundled_keys())
    cases = phantom_cases(phantom_specs(options.parity, PARITY_SEED))
    inputs = cases.inputs(bundle.manifest.input_size)
    made: dict[str, Explain] = {}
    ready: dict[tuple[str, int], list[float]] = {}
    about: dict[str, dict[str, Any]] = {}
    left_out: list[str] = []
    warm_until = options.until - RACE_SHARE * options.seconds
    for name in dict.fromkeys([BASE, *options.variants]):
        if name != BASE and time.monotonic() > warm_until:
            left_out.append(f"{name}: no time left to make it")
            continue
        started, before, mine = time.perf_counter(), memory(tf, bool(devices)), list[int]()
        try:
            made[name] = make(bundle, VARIANTS[name])
            seconds = {"build": time.perf_counter() - started}
            for batch in options.xla_batches if VARIANTS[name].xla else options.batches:
                if mine and name != BASE and time.monotonic() > warm_until:
                    left_out.append(f"{name}, batch {batch}: no time left to make it ready")
                    continue
                started = time.perf_counter()
                made[name](filled(inputs, batch))
                seconds[str(batch)] = time.perf_counter() - started
                ready[name, batch] = []
                mine.append(batch)
            about[name] = {
                "ready_seconds": {step: round(value, 2) for step, value in seconds.items()},
                "peak_gpu_mb": before and round((memory(tf, True)["peak"] - before["current"]) / 1e6),
                "parity": parity(
                    bundle, logits(made[BASE], inputs, mine[0]), logits(made[name], inputs, mine[0]), cases.labels
                ),
            }
        except Exception as error:  # noqa: BLE001 - a variant may be none for this GPU
            for batch in mine:
                del ready[name, batch]
            left_out.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
    done = race(made, ready, inputs, options)
    for name, told in about.items():
        rates = {batch: batch / median(times) for (other, batch), times in ready.items() if other == name and times}
        if rates:
            told.update(images_per_second={str(batch): round(rate, 1) for batch, rate in rates.items()})
            told["knee"] = knee(rates)
            told["at_the_knee"] = split(tf, made[name], filled(inputs, told["knee"]))
    return {
        "tensorflow": tf.__version__,
        "devices": [tf.config.experimental.get_device_details(device) for device in devices],
        "repeats": done,
        "left_out": left_out,
        "runtimes": about,
    }


def filled(inputs: Inputs, batch: int) -> Inputs:
    """Return a batch of inputs, the same again if there are not enough."""
    return inputs[np.arange(batch) % len(inputs)]


def memory(tf: Any, there: bool) -> Any:
    """Return the GPU memory in use, and start to look for its peak anew when asked before the next variant."""
    if not there:
        return None
    info = tf.config.experimental.get_memory_info("GPU:0")
    tf.config.experimental.reset_memory_stats("GPU:0")
    return info


def make(bundle: Bundle, variant: Variant) -> Explain:
    """Return the runtime as it serves, or a variant of it."""
    if variant == Variant():
        return make_runtime("tensorflow", bundle, RuntimeOptions(warm_batches=())).explain
    import tensorflow as tf

    model, size = with_map(half(bundle) if variant.mixed else load_keras(bundle)), bundle.manifest.input_size
    kind = np.uint8 if variant.as_bytes else np.float32

    def forward(batch: Any) -> Any:
        values, maps = model(tf.cast(batch, tf.float32), training=False)
        return tf.cast(values[:, 0], tf.float32), tf.cast(maps, tf.float32)

    signature = [tf.TensorSpec((None, size, size, 1), kind)]
    call = tf.function(forward, input_signature=signature, jit_compile=variant.xla or None)

    def explain(batch: Inputs) -> tuple[Logits, Maps]:
        values, maps = call(tf.constant(batch.astype(kind, copy=False)))
        return values.numpy(), maps.numpy()

    return explain


def half(bundle: Bundle) -> Any:
    """Return the bundle's model with layers that compute in half precision, but the last."""
    import keras

    structure = json.loads(bundle.read("keras.json"))
    for layer in structure["config"]["layers"]:
        kind = layer["config"].get("dtype")
        if isinstance(kind, dict) and layer["config"]["name"] != LOGIT_LAYER:
            kind["config"]["name"] = "mixed_float16"
    model = keras.models.model_from_json(json.dumps(structure))
    model.set_weights(load_keras(bundle).get_weights())
    return model


def logits(explain: Explain, inputs: Inputs, batch: int) -> Logits:
    """Return the logits of all inputs, in batches that are ready."""
    parts = [inputs[at : at + batch] for at in range(0, len(inputs), batch)]
    return np.concatenate([explain(filled(own, batch))[0][: len(own)] for own in parts])


def race(
    made: Mapping[str, Explain],
    times: Mapping[tuple[str, int], list[float]],
    inputs: Inputs,
    options: argparse.Namespace,
) -> int:
    """Append the seconds of a call to every list of `times`, once a repeat; return the repeats, one at least."""
    longest = 0.0
    for repeat in range(options.repeats):
        begun = time.monotonic()
        if repeat and begun + longest > options.until:
            return repeat
        for (name, batch), own in times.items():
            part, calls = filled(inputs, batch), 2 if options.allow_cpu else max(4, IN_A_TURN // batch)
            started = time.perf_counter()
            for _ in range(calls):
                made[name](part)
            own.append((time.perf_counter() - started) / calls)
        longest = max(longest, time.monotonic() - begun)
    return int(options.repeats)


def split(tf: Any, explain: Explain, batch: Inputs) -> dict[str, float]:
    """Return milliseconds of a call, and of its copy to the GPU (as floats and as bytes), at one batch."""
    copies = {"copy_floats_ms": batch.astype(np.float32), "copy_bytes_ms": batch}
    works: dict[str, Callable[[], object]] = {"call_ms": functools.partial(explain, batch)}
    for name, array in copies.items():
        works[name] = functools.partial(copied, tf, array)
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(6):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - started)
    return {name: round(median(own[1:]) * 1000, 3) for name, own in times.items()}


def copied(tf: Any, array: Any) -> None:
    """Copy an array to where TensorFlow computes, and wait for it."""
    tf.identity(tf.constant(array))
    tf.test.experimental.sync_devices()


PARTS = {"model": model_part, "serve": serve_part}


if __name__ == "__main__":
    main()
