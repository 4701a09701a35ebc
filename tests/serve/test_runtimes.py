"""Runtimes: made by name, proven on the golden cases, and as good as the same."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerad.phantom import random_spec, render
from serve.bundle import BundleError, bundled_keys, bundled_model, load_bundle
from serve.preprocess import preprocess
from serve.runtimes import RUNTIMES, RuntimeOptions, make_runtime
from serve.score import Scorer


def inputs(count: int) -> np.ndarray:
    """Model inputs of phantoms, uint8 [count, size, size, 1]."""
    return np.stack([preprocess(render(random_spec((41, number), size=256)).pixels) for number in range(count)])


def test_a_batch_gives_what_single_images_give(scorer: Scorer) -> None:
    batch = inputs(3)
    whole = scorer.runtime.predict(batch)
    single = [float(scorer.runtime.predict(batch[i : i + 1])[0]) for i in range(3)]
    np.testing.assert_allclose(whole, single, atol=1e-5)
    assert len(set(single)) == 3
    assert scorer.runtime.predict(batch[:0]).shape == (0,)
    np.testing.assert_allclose(scorer.runtime.predict(batch.astype(np.float32)), whole, atol=1e-5)


def test_calls_at_a_time_do_not_mix_their_images(scorer: Scorer) -> None:
    runtime = make_runtime("litert", scorer.bundle, RuntimeOptions(parallel=2))
    batches = [inputs(3)[i : i + 1] for i in range(3)] * 8
    with ThreadPoolExecutor(4) as pool:
        got = [float(logits[0]) for logits in pool.map(runtime.predict, batches)]
    np.testing.assert_allclose(got, [float(scorer.runtime.predict(batch)[0]) for batch in batches], atol=1e-5)


def test_the_map_comes_with_the_same_pass_and_its_mean_is_the_logit(scorer: Scorer) -> None:
    batch = inputs(3)
    logits, maps = scorer.runtime.explain(batch)
    np.testing.assert_array_equal(logits, scorer.runtime.predict(batch))
    np.testing.assert_allclose(maps.mean(axis=(1, 2)), logits, atol=0.02)
    assert np.ptp(maps[0] - maps[1]) > 0.5, "each image has its own"
    assert scorer.runtime.explain(batch[:0])[1].shape == (0, *maps.shape[1:])


@pytest.mark.parametrize("shape", [(160, 160, 1), (1, 100, 160, 1), (1, 160, 160, 3)])
def test_another_shape_is_refused(scorer: Scorer, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="the model takes"):
        scorer.runtime.predict(np.zeros(shape, np.uint8))


def test_an_unknown_runtime_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="litert, tensorflow"):
        make_runtime("abacus", load_bundle(bundled_model(), bundled_keys()))


def test_golden_cases_are_proven_before_a_runtime_is_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Drifted:
        name = "drifted"

        def explain(self, batch: Any) -> Any:
            return np.zeros(len(batch), np.float32), np.zeros((len(batch), 5, 5), np.float32)

    monkeypatch.setitem(RUNTIMES, "drifted", lambda bundle, options: Drifted())
    with pytest.raises(BundleError, match="fails its golden cases on drifted"):
        make_runtime("drifted", load_bundle(bundled_model(), bundled_keys()))


def test_a_model_file_that_litert_cannot_load_is_a_bundle_error(bundle: Callable[..., Path]) -> None:
    import hashlib

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"]["model.tflite"] = {"sha256": hashlib.sha256(b"junk" * 100).hexdigest(), "bytes": 400}

    path = bundle(change, signed=False)
    (path / "model.tflite").write_bytes(b"junk" * 100)
    with pytest.raises(BundleError, match="LiteRT cannot load"):
        make_runtime("litert", load_bundle(path, {}, verify=False))


@pytest.mark.tf
def test_tensorflow_gives_what_litert_gives(scorer: Scorer) -> None:
    """Parity on images that the bundle's own report has not seen: probabilities, and with them the triage."""
    bundle = load_bundle(bundled_model(), bundled_keys())
    tensorflow = make_runtime("tensorflow", bundle, RuntimeOptions(warm_batches=(1,)))
    batch = inputs(24)
    ours, theirs = (bundle.calibration.apply(runtime.predict(batch)) for runtime in (scorer.runtime, tensorflow))
    apart = np.abs(ours - theirs)
    assert apart.max() <= 0.03, "LiteRT computes in eight bits"
    assert np.median(apart) <= 0.005
    limits = np.array([bundle.thresholds.low, bundle.thresholds.high])
    clear = np.abs(ours[:, np.newaxis] - limits).min(axis=1) > 0.02
    classify = bundle.thresholds.classify
    assert [classify(p) for p in ours[clear]] == [classify(p) for p in theirs[clear]]
    assert np.ptp(ours) > 0.5, "not all the same, or parity says little"
    np.testing.assert_allclose(tensorflow.predict(batch[:1]), tensorflow.predict(batch)[:1], atol=2e-3)
    assert tensorflow.predict(batch[:0]).shape == (0,)
    assert tensorflow.explain(batch[:0])[1].shape == (0, *bundle.golden_maps().shape[1:])
    shown, drawn = (runtime.explain(batch)[1] for runtime in (scorer.runtime, tensorflow))
    assert np.abs(shown - drawn).max() <= 0.05 * np.ptp(drawn)


@pytest.mark.tf
def test_a_replica_with_a_gpu_does_not_do_without_in_silence(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: [])
    with pytest.raises(BundleError, match=r"TensorFlow sees none.*tensorflow\[and-cuda\].*serve.num_gpus"):
        make_runtime("tensorflow", scorer.bundle, RuntimeOptions(gpu=True))
