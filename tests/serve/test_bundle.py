"""A bundle that was changed, cut, forged or made for another release is refused, and the text says what to do."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serve.bundle import (
    MANIFEST_FILE,
    BundleError,
    bundled_keys,
    bundled_model,
    key_id_of,
    load_bundle,
    parse_trusted_keys,
    public_bytes,
    read_trusted_keys,
    sign,
    write_bundle,
)

Spoil = Callable[..., Path]
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = {key_id_of(public_bytes(KEY)): public_bytes(KEY)}
FILES = ("model.tflite", "keras.json", "weights.npz", "golden.npz")


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change bundle.json without signing it anew."""
    document = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))
    change(document)
    (path / MANIFEST_FILE).write_text(json.dumps(document), encoding="utf-8")


def test_the_shipped_bundle_is_whole_and_signed() -> None:
    bundle = load_bundle(bundled_model(), bundled_keys())
    assert bundle.key_id in bundled_keys()
    assert len(bundle.digest) == 64
    assert bundle.manifest.training.attribution
    size = sum(path.stat().st_size for path in bundle.path.iterdir())
    assert size < 20 * 2**20, "it is part of the repo"
    assert bundle.golden_inputs().shape[1:] == (bundle.manifest.input_size, bundle.manifest.input_size, 1)


def test_a_copy_signed_by_a_trusted_key_is_taken(bundle: Spoil) -> None:
    path = bundle()
    assert load_bundle(path, TRUSTED).digest == load_bundle(bundled_model(), bundled_keys()).digest


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_file_that_is_not_the_signed_one_is_refused(bundle: Spoil, name: str, damage: str) -> None:
    path = bundle()
    file = path / name
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(data[:-1])
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    expected = "cannot be read" if damage == "gone" else "corrupted"
    with pytest.raises(BundleError, match=f"{name}.*{expected}.*fetch it again"):
        load_bundle(path, TRUSTED)


def test_a_file_that_changes_after_loading_is_noticed_when_it_is_read(bundle: Spoil) -> None:
    path = bundle()
    loaded = load_bundle(path, TRUSTED)
    (path / "model.tflite").write_bytes(b"another network")
    with pytest.raises(BundleError, match="corrupted"):
        loaded.read("model.tflite")


def test_a_manifest_changed_after_signing_is_refused(bundle: Spoil) -> None:
    path = bundle()
    rewrite(path, lambda document: document["manifest"]["thresholds"].update(high=0.99))
    with pytest.raises(BundleError, match="does not match its digest"):
        load_bundle(path, TRUSTED)


def test_a_digest_changed_to_fit_a_changed_manifest_is_refused_by_the_signature(bundle: Spoil) -> None:
    from serve.bundle import digest_of

    path = bundle()

    def forge(document: dict[str, Any]) -> None:
        document["manifest"]["thresholds"]["high"] = 0.99
        document["digest"] = digest_of(document["manifest"])

    rewrite(path, forge)
    with pytest.raises(BundleError, match="signature is wrong"):
        load_bundle(path, TRUSTED)


def test_an_unsigned_bundle_is_refused_unless_asked_for(bundle: Spoil) -> None:
    path = bundle(signed=False)
    with pytest.raises(BundleError, match="is not signed"):
        load_bundle(path, TRUSTED)
    assert load_bundle(path, TRUSTED, verify=False).key_id is None


def test_a_key_that_nobody_trusts_is_refused(bundle: Spoil) -> None:
    with pytest.raises(BundleError, match=r"not trusted here.*trusted keys"):
        load_bundle(bundle(), bundled_keys())


def test_a_signature_made_by_another_key_under_a_trusted_name_is_refused(bundle: Spoil) -> None:
    path = bundle()
    other = Ed25519PrivateKey.generate()

    def forge(document: dict[str, Any]) -> None:
        value = sign(document["digest"], other)["value"]
        document["signature"]["value"] = value

    rewrite(path, forge)
    with pytest.raises(BundleError, match="signature is wrong"):
        load_bundle(path, TRUSTED)


def test_a_signature_of_the_bare_digest_is_refused(bundle: Spoil) -> None:
    """The context keeps a signature of something else from being passed off as one of a bundle."""
    path = bundle()

    def forge(document: dict[str, Any]) -> None:
        document["signature"]["value"] = base64.b64encode(KEY.sign(document["digest"].encode())).decode()

    rewrite(path, forge)
    with pytest.raises(BundleError, match="signature is wrong"):
        load_bundle(path, TRUSTED)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda manifest: manifest.update(schema_version=3), "schema 3.*reads 2.*upgrade"),
        (lambda manifest: manifest.update(schema_version=1), "schema 1.*reads 2.*publish the model again"),
        (lambda manifest: manifest.update(preprocessing_version="grid299/9"), "needs preprocessing grid299/9"),
        (lambda manifest: manifest["parity"].update(max_difference=0.5), "runtimes differ by 0.5"),
        (lambda manifest: manifest["thresholds"].update(low=0.9), "0 < low <= high < 1"),
        (lambda manifest: manifest["calibration"].update(a=-1), "wrong at calibration.a"),
        (lambda manifest: manifest["golden"].update(tolerance=0.5), "wrong at golden.tolerance"),
        (lambda manifest: manifest.update(surprise=1), "wrong at surprise"),
        (lambda manifest: manifest.pop("metrics"), "wrong at metrics"),
        (lambda manifest: manifest["files"].pop("weights.npz"), "lacks weights.npz"),
        (lambda manifest: manifest["files"].update({"../../etc/passwd": {"sha256": "0" * 64, "bytes": 1}}), "wrong at"),
    ],
)
def test_a_signed_bundle_that_does_not_fit_this_release_is_refused(
    bundle: Spoil, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    with pytest.raises(BundleError, match=says):
        load_bundle(bundle(change), TRUSTED)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"manifest": 3}', '{"manifest": {}, "digest": 1}'])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST_FILE).write_text(text)
    with pytest.raises(BundleError):
        load_bundle(tmp_path, TRUSTED)


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no model bundle"):
        load_bundle(tmp_path / "nothing", TRUSTED)
    with pytest.raises(BundleError, match="no model for measles ships"):
        bundled_model("measles")


def test_golden_cases_must_be_met() -> None:
    bundle = load_bundle(bundled_model(), bundled_keys())
    probabilities = np.array(bundle.manifest.golden.probabilities)
    logits = (np.log(probabilities / (1 - probabilities)) - bundle.calibration.b) / bundle.calibration.a
    maps = bundle.golden_maps()
    bundle.check_golden(logits, maps, "test")
    off = logits.copy()
    off[3] += 4 * (1 if probabilities[3] < 0.5 else -1)
    with pytest.raises(BundleError, match="fails its golden cases on test"):
        bundle.check_golden(off, maps, "test")
    off[3] = np.nan
    with pytest.raises(BundleError, match="golden cases"):
        bundle.check_golden(off, maps, "test")
    with pytest.raises(BundleError, match="golden cases"):
        bundle.check_golden(logits[:-1], maps, "test")
    with pytest.raises(BundleError, match="a map differs"):
        bundle.check_golden(logits, maps[:, ::-1], "test")
    with pytest.raises(BundleError, match="golden maps of shape"):
        bundle.check_golden(logits, maps[:, 1:], "test")


def test_writing_makes_a_bundle_that_loads_and_never_overwrites(tmp_path: Path) -> None:
    source = load_bundle(bundled_model(), bundled_keys())
    files = {name: source.read(name) for name in source.manifest.files}
    manifest = source.manifest.model_dump(mode="json", exclude={"files", "schema_version"})
    written = write_bundle(tmp_path / "new", manifest, files, KEY)
    assert written.digest == source.digest
    assert load_bundle(tmp_path / "new", TRUSTED).digest == source.digest
    with pytest.raises(FileExistsError, match="immutable"):
        write_bundle(tmp_path / "new", manifest, files, KEY)
    with pytest.raises(BundleError, match="manifest is wrong"):
        write_bundle(tmp_path / "other", {**manifest, "input_size": 1}, files, KEY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"], "nothing half written is left"


def test_trusted_keys_must_be_keys(tmp_path: Path) -> None:
    text = base64.b64encode(public_bytes(KEY)).decode()
    assert parse_trusted_keys([text]) == TRUSTED
    for wrong in ("", "not base64!", base64.b64encode(b"short").decode()):
        with pytest.raises(BundleError, match="raw Ed25519 public key"):
            parse_trusted_keys([wrong])
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [{"id": "0" * 16, "public": text}]}))
    with pytest.raises(BundleError, match="does not fit its id"):
        read_trusted_keys(path)
    path.write_text("{}")
    with pytest.raises(BundleError, match="not a readable list"):
        read_trusted_keys(path)
