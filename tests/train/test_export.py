"""From a Keras model to a signed bundle: two runtimes that agree, or no bundle."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serve.bundle import Bundle, BundleError, bundled_keys, bundled_model, key_id_of, load_bundle, public_bytes
from serve.runtimes import RuntimeOptions, load_keras, make_runtime
from serve.triage import Thresholds
from tests.train.tiny import SIDE, build_tiny, planted
from train import export
from train.export import Provenance, export_bundle, keras_outputs, litert_outputs, round_kernels, weights_archive
from train.job import in_eight_bits
from train.phantoms import phantom_cases, phantom_specs

pytestmark = pytest.mark.tf
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = {key_id_of(public_bytes(KEY)): public_bytes(KEY)}
TRAINING = {"manifest_digest": "d" * 64, "cases": 3, "sources": {"planted": 3}, "config": {}, "seconds": 1.0}


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    """Model inputs with and without a lesion."""
    return planted(12, 8).inputs(SIDE)


@pytest.fixture(scope="module")
def model() -> Any:
    """A network with running statistics that are not those of a new one."""
    made = build_tiny(seed=2)
    rng = np.random.default_rng(0)
    made.set_weights([value + 0.03 * rng.random(value.shape).astype(np.float32) for value in made.get_weights()])
    return made


@pytest.fixture(scope="module")
def bundle(model: Any, inputs: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The network as a bundle."""
    path = tmp_path_factory.mktemp("export") / "bundle"
    provenance = Provenance("pneumonia", TRAINING, {"test": {"auroc": 0.5}}, parent="p" * 64)
    return export_bundle(model, path, provenance, golden=inputs[:4], parity=inputs, key=KEY)


def test_the_bundle_is_signed_and_says_what_it_was_made_of(bundle: Bundle) -> None:
    loaded = load_bundle(bundle.path, TRUSTED)
    assert loaded.digest == bundle.digest
    manifest = loaded.manifest
    assert (manifest.finding, manifest.parent, manifest.input_size) == ("pneumonia", "p" * 64, SIDE)
    assert manifest.training.cases == 3
    assert manifest.metrics == {"test": {"auroc": 0.5}}
    assert manifest.parity.cases == 12
    with pytest.raises(BundleError, match="not trusted"):
        load_bundle(bundle.path, {"0" * 16: b"0" * 32})


def test_both_runtimes_give_the_logits_and_the_maps_of_keras(bundle: Bundle, model: Any, inputs: np.ndarray) -> None:
    logits, maps = keras_outputs(model, inputs)
    assert np.ptp(logits) > 0.01
    for name in ("litert", "tensorflow"):
        runtime = make_runtime(name, bundle, RuntimeOptions(warm_batches=(1,)))
        got, shown = runtime.explain(inputs)
        np.testing.assert_allclose(got, logits, atol=5e-3, err_msg=name)
        np.testing.assert_allclose(shown, maps, atol=2e-2, err_msg=name)
        np.testing.assert_allclose(shown.mean(axis=(1, 2)), got, atol=1e-2, err_msg=name)
        np.testing.assert_array_equal(runtime.predict(inputs), got, err_msg=name)


def test_no_images_give_no_answers_and_no_failure(bundle: Bundle, inputs: np.ndarray) -> None:
    content = bundle.read("model.tflite")
    logits, maps = litert_outputs(content, inputs[:0])  # no labelled case is kept out of the training
    assert logits.shape == (0,)
    assert maps.shape == (0, *litert_outputs(content, inputs[:1])[1].shape[1:])


def test_a_map_that_is_off_fails_the_golden_cases(bundle: Bundle) -> None:
    runtime = make_runtime("litert", bundle)
    logits, maps = runtime.explain(bundle.golden_inputs())
    bundle.check_golden(logits, maps, "litert")
    with pytest.raises(BundleError, match="a map differs"):
        bundle.check_golden(logits, maps[:, ::-1], "upside-down")
    with pytest.raises(BundleError, match="golden maps of shape"):
        bundle.check_golden(logits, maps[:, :2], "short")
    with pytest.raises(BundleError, match="a map differs"):
        bundle.check_golden(logits, np.full_like(maps, np.nan), "no number")


def test_both_artifacts_hold_kernels_in_half_precision(bundle: Bundle, model: Any) -> None:
    for value in model.get_weights():
        if value.ndim > 1:
            np.testing.assert_array_equal(value.astype(np.float16).astype(np.float32), value)


def test_weights_that_were_not_rounded_are_not_stored_as_if_they_were() -> None:
    fresh = build_tiny(seed=4)
    with pytest.raises(ValueError, match="round_kernels"):
        weights_archive(fresh)
    round_kernels(fresh)
    assert len(weights_archive(fresh)) > 1000


def test_a_conversion_that_changes_the_answers_gives_no_bundle(
    inputs: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = build_tiny(seed=2), build_tiny(seed=2)
    weights = right.get_weights()
    weights[-1] = weights[-1] + 0.2  # the logit's bias: probabilities move by 5 %
    wrong.set_weights(weights)
    content = export.convert_litert(wrong)
    monkeypatch.setattr(export, "convert_litert", lambda _: content)
    provenance = Provenance("pneumonia", TRAINING, {})
    with pytest.raises(BundleError, match="LiteRT differs from Keras"):
        export_bundle(right, tmp_path / "bundle", provenance, golden=inputs[:2], parity=inputs, key=None)
    assert not (tmp_path / "bundle").exists()


def test_eight_bits_begin_where_they_cost_little_and_answers_stay(tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    network = load_keras(load_bundle(bundled_model(), bundled_keys()))
    images = phantom_cases(phantom_specs(16, 77)).inputs(SIDE)
    content = export.convert_int8(network, images)
    interpreter = Interpreter(model_content=content)
    kinds = {detail["name"]: np.dtype(detail["dtype"]) for detail in interpreter.get_tensor_details()}

    def kinds_of(layer: str) -> set[Any]:
        return {kind for name, kind in kinds.items() if f"{layer}_relu" in name and "Relu6" in name}

    for index in range(16):
        expected = np.float32 if index <= 8 else np.int8
        assert np.dtype(expected) in kinds_of(f"block{index}_depthwise"), index
    assert np.dtype(np.int8) in kinds_of("head")
    assert np.dtype(np.float32) in kinds_of("stem")

    exact, exact_maps = keras_outputs(network, images)
    logits, maps = litert_outputs(content, images)
    spread = float(np.ptp(exact))
    assert spread > 4
    assert 1e-3 < np.abs(logits - exact).max() < 0.04 * spread, "rounded, and not by much"
    np.testing.assert_allclose(maps.mean(axis=(1, 2)), logits, atol=0.01 * spread)
    assert np.corrcoef(maps.ravel(), exact_maps.ravel())[0, 1] > 0.99
    assert len(content) < 0.8 * len(export.convert_litert(network)), "kernels of 8 bits, not 16"

    made = export_bundle(
        network, tmp_path / "bundle", Provenance("pneumonia", TRAINING, {}), golden=images[:4], parity=images, key=None,
        litert=content,
    )  # fmt: skip
    assert made.manifest.training.config["litert"] == export.EIGHT_BITS
    assert made.read("model.tflite") == content


@pytest.mark.parametrize(("cases", "most"), [(0, 1), (12, 1), (100, 2), (240, 3), (761, 7), (10_000, 62)])
def test_more_flips_are_allowed_only_where_chance_explains_them(cases: int, most: int) -> None:
    assert export.most_flips(cases) == most


def test_triage_classes_that_flip_give_no_bundle_however_small_the_difference(
    inputs: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_tiny(seed=2)
    weights = model.get_weights()
    weights[-2] = weights[-2] * 0  # the logit is its bias, 0: every probability is 0.5
    model.set_weights(weights)
    content = export.convert_litert(model)
    logits, maps = litert_outputs(content, inputs)
    monkeypatch.setattr(export, "litert_outputs", lambda *_: (logits + 0.01, maps))
    with pytest.raises(BundleError, match="12 of 12 triage classes"):
        export_bundle(
            model, tmp_path / "bundle", Provenance("pneumonia", TRAINING, {}), golden=inputs[:2], parity=inputs,
            key=None, thresholds=Thresholds("narrow/1", 0.501, 0.2),
        )  # fmt: skip


def test_a_candidate_that_eight_bits_change_is_exported_in_floats(capsys: pytest.CaptureFixture[str]) -> None:
    tries: list[bytes | None] = []
    made: Any = object()

    def make(litert: bytes | None) -> Any:
        tries.append(litert)
        if litert == b"coarse":
            raise BundleError("LiteRT differs from Keras by up to 0.2000")
        return made

    assert in_eight_bits(make, b"coarse") is made
    assert tries == [b"coarse", None]
    assert "differs from Keras by up to 0.2000" in capsys.readouterr().out
    assert in_eight_bits(make, b"fine") is made
    assert tries[2:] == [b"fine"]
