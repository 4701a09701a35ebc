"""The bundles on this machine: the shipped one, and those pulled from the core's registry, each proven before use."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from edgerad import private
from edgerad.store import ObjectGone, StoreError
from edgerad.telemetry import get_logger
from imaging.limits import Limits
from serve.bundle import MANIFEST_FILE, BundleError, bundled_keys, bundled_model, key_id_of, load_bundle
from serve.runtimes import RuntimeOptions
from serve.score import Scorer, open_scorer

if TYPE_CHECKING:
    from edgerad.settings import Settings
    from serve.bundle import TrustedKeys
    from serve.calibrate import Calibration


class Shelf:
    """Finds a bundle by its digest, pulls it when it is not here, and opens it for scoring."""

    def __init__(self, settings: Settings) -> None:
        """Keep the settings; nothing is read yet."""
        self._settings = settings
        self._folder = settings.data_dir / "models"

    def trusted_keys(self) -> TrustedKeys:
        """Return the public keys whose bundles may be served: of the shipped models and of `core.trusted_keys`."""
        configured = [base64.b64decode(key) for key in self._settings.core.trusted_keys]
        return {**bundled_keys(), **{key_id_of(key): key for key in configured}}

    def path(self, digest: str) -> Path:
        """Return the folder of a bundle, pulled if need be. Raises StoreUnavailable or ObjectGone."""
        if self.shipped() == digest:
            return bundled_model(self._settings.finding)
        path = self._folder / digest
        if not path.exists():
            self._pull(digest)
        return path

    def shipped(self) -> str | None:
        """Return the digest of the bundle that ships with edgerad, None where its manifest cannot be read."""
        try:
            return bundled_digest(self._settings.finding)
        except BundleError:
            return None

    def check(self, digest: str) -> None:
        """Raise unless a bundle is here, whole and signed; a pulled copy that is damaged is pulled again.

        Nothing is run: the golden cases are left to `scorer`. Raises BundleError, ObjectGone or StoreUnavailable.
        """
        try:
            self._check_copy(digest)
        except BundleError as damage:
            copy = self._folder / digest
            if self.shipped() == digest or not copy.is_dir():
                raise
            get_logger("rollout").error("model damaged on this machine", model_digest=digest, reason=str(damage)[:500])
            aside = copy.with_name(f".damaged-{digest[:12]}")
            shutil.rmtree(aside, ignore_errors=True)
            copy.rename(aside)
            try:
                self._pull(digest)
            except StoreError:
                aside.rename(copy)
                raise damage from None
            shutil.rmtree(aside, ignore_errors=True)
            self._check_copy(digest)

    def _check_copy(self, digest: str) -> None:
        _check_name(digest, load_bundle(self.path(digest), self.trusted_keys()).digest)

    def _pull(self, digest: str) -> None:
        from edgerad import registry
        from edgerad.store import ObjectStore, config_from

        core = self._settings.core.store
        if not core.endpoint_url:
            raise ObjectGone(f"model {digest[:12]} is not on this machine, and there is no core to fetch it from")
        private.folder(self._folder)
        registry.pull(ObjectStore(config_from(core)), self._settings.finding, digest, self._folder)

    def calibration(self, digest: str) -> Calibration:
        """Return the calibration that a bundle came with. Raises BundleError, StoreUnavailable or ObjectGone."""
        return load_bundle(self.path(digest), self.trusted_keys()).calibration

    def scorer(self, digest: str) -> Scorer:
        """Open a bundle for scoring: signature, digest and golden cases are checked. Raises BundleError."""
        tuning = self._settings.serve
        runtime = tuning.runtime
        if runtime == "auto":
            runtime = "tensorflow" if tuning.num_gpus > 0 else "litert"
        scorer = open_scorer(
            self.path(digest),
            trusted_keys=self.trusted_keys(),
            runtime=runtime,
            options=RuntimeOptions(
                threads=tuning.threads,
                parallel=tuning.decode_threads,
                warm_batches=(1, self._settings.ingest.batch_size),
                gpu=tuning.num_gpus > 0,
            ),
            limits=Limits(max_pixels=tuning.max_pixels, max_bytes=tuning.max_object_bytes),
            view_threshold=tuning.view_threshold,
        )
        _check_name(digest, scorer.bundle.digest)
        return scorer


def _check_name(digest: str, found: str) -> None:
    """Raise BundleError where a folder holds a signed bundle, but another one: an older model, for example."""
    if found != digest:
        raise BundleError(
            f"the folder of model {digest[:12]} holds another, {found[:12]}; delete the folder, it is fetched again"
        )


def bundled_digest(finding: str) -> str:
    """Return the digest of the shipped bundle of a finding, without opening it; BundleError where it has none."""
    try:
        document = json.loads((bundled_model(finding) / MANIFEST_FILE).read_text(encoding="utf-8"))
        return str(document["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        raise BundleError(f"the shipped model for {finding} has no readable manifest; install edgerad again") from None
