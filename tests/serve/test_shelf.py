"""The shelf finds bundles by digest: the shipped one where it lies, others pulled once and proven each time."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgerad import registry
from edgerad.s3server import S3Server
from edgerad.sections import CoreSettings, Secret, StoreSettings
from edgerad.settings import Settings, load_settings
from edgerad.store import ObjectGone, ObjectStore, config_from
from serve.bundle import BundleError, bundled_keys, bundled_model, load_bundle, public_bytes
from serve.shelf import Shelf, bundled_digest

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings of an edge whose core is an S3 server in this process."""
    with S3Server(tmp_path / "s3", "key", "secret-secret") as server:
        store = StoreSettings(
            endpoint_url=server.endpoint_url,
            bucket="core",
            access_key=Secret(value="key"),
            secret_key=Secret(value="secret-secret"),
        )
        trusted = (base64.b64encode(public_bytes(KEY)).decode(),)
        yield load_settings(data_dir=tmp_path / "data", core=CoreSettings(store=store, trusted_keys=trusted))


@pytest.fixture
def published(settings: Settings, bundle: Callable[..., Path]) -> str:
    """The digest of another model in the core's registry, signed with KEY."""
    store = ObjectStore(config_from(settings.core.store))
    store.ensure_bucket()

    def change(manifest: dict[str, Any]) -> None:
        manifest["thresholds"] = {"version": "site/2", "high": 0.7, "low": 0.3}

    path = bundle(change)
    digest = load_bundle(path, {}, verify=False).digest
    registry.publish(store, "pneumonia", digest, path)
    return digest


def test_the_shipped_model_is_scored_with_where_it_lies(settings: Settings) -> None:
    shelf = Shelf(settings)
    digest = bundled_digest("pneumonia")
    assert shelf.path(digest) == bundled_model()
    assert shelf.scorer(digest).bundle.digest == digest == load_bundle(bundled_model(), bundled_keys()).digest
    assert not (settings.data_dir / "models").exists(), "nothing was pulled"


def test_a_published_model_is_pulled_once(settings: Settings, published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(settings)
    scorer = shelf.scorer(published)
    assert scorer.bundle.digest == published
    assert scorer.bundle.thresholds.classify(0.75) == "high"
    monkeypatch.setattr(registry, "pull", lambda *_: pytest.fail("it is here already"))
    assert shelf.path(published) == settings.data_dir / "models" / published


def test_a_pulled_model_that_was_changed_on_disk_is_refused(settings: Settings, published: str) -> None:
    shelf = Shelf(settings)
    path = shelf.path(published)
    file = path / "model.tflite"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleError, match="corrupted"):
        shelf.scorer(published)


def test_a_model_signed_by_nobody_we_trust_is_refused(settings: Settings, published: str) -> None:
    careful = settings.model_copy(update={"core": settings.core.model_copy(update={"trusted_keys": ()})})
    with pytest.raises(BundleError, match="not trusted"):
        Shelf(careful).scorer(published)


def test_a_digest_that_nobody_published_leaves_nothing_behind(settings: Settings, published: str) -> None:
    with pytest.raises(ObjectGone):
        Shelf(settings).path("f" * 64)
    folder = settings.data_dir / "models"
    assert not folder.exists() or list(folder.iterdir()) == []


def test_a_bundle_under_another_name_is_not_taken_for_it(settings: Settings, published: str) -> None:
    """Whoever can write into the folder could put an old, signed model in the place of the one in service."""
    shelf = Shelf(settings)
    other = settings.data_dir / "models" / ("e" * 64)
    shutil.copytree(shelf.path(published), other)
    with pytest.raises(BundleError, match="holds another"):
        shelf.scorer("e" * 64)


def spoil(file: Path) -> None:
    """Cut a file's last byte off, as a full or failing disk does."""
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1])


def test_a_damaged_copy_is_fetched_again_where_there_is_a_core(settings: Settings, published: str) -> None:
    shelf = Shelf(settings)
    shelf.check(published)
    for name in ("model.tflite", "bundle.json"):
        spoil(shelf.path(published) / name)
        shelf.check(published)
        assert shelf.scorer(published).bundle.digest == published
    assert [path.name for path in (settings.data_dir / "models").iterdir()] == [published]
    assert (settings.data_dir / "models").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:9"])
def test_a_damaged_copy_stays_and_is_named_where_the_core_gives_no_other(
    settings: Settings, published: str, endpoint: str | None
) -> None:
    spoil(Shelf(settings).path(published) / "model.tflite")
    store = settings.core.store.model_copy(update={"endpoint_url": endpoint, "connect_timeout": 1.0})
    alone = settings.model_copy(update={"core": settings.core.model_copy(update={"store": store})})
    for _ in range(2):
        with pytest.raises(BundleError, match="corrupted"):
            Shelf(alone).check(published)
    assert [path.name for path in (settings.data_dir / "models").iterdir()] == [published]


def test_a_missing_model_without_a_core_is_gone(settings: Settings) -> None:
    alone = settings.model_copy(update={"core": CoreSettings()})
    with pytest.raises(ObjectGone, match="no core to fetch it from"):
        Shelf(alone).check("f" * 64)


def test_another_bundle_under_its_name_is_replaced_by_the_right_one(settings: Settings, published: str) -> None:
    shelf = Shelf(settings)
    copy = shelf.path(published)
    shutil.rmtree(copy)
    shutil.copytree(bundled_model(), copy)
    shelf.check(published)
    assert shelf.scorer(published).bundle.digest == published


@pytest.mark.parametrize("manifest", [None, b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_shipped_model_that_is_damaged_is_a_bundle_error(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manifest: bytes | None
) -> None:
    digest = bundled_digest("pneumonia")
    monkeypatch.setattr("serve.bundle._models", lambda: tmp_path)
    (tmp_path / "pneumonia").mkdir()
    if manifest is not None:
        (tmp_path / "pneumonia" / "bundle.json").write_bytes(manifest)
    with pytest.raises(BundleError):
        bundled_digest("pneumonia")
    alone = settings.model_copy(update={"core": CoreSettings()})
    assert Shelf(alone).shipped() is None
    with pytest.raises((BundleError, ObjectGone)):
        Shelf(alone).check(digest)
