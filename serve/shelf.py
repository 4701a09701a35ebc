"""The bundles on this machine: the shipped one, and those pulled from the core's registry, each proven before use."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING

from serve.bundle import MANIFEST_FILE, BundleError, bundled_keys, bundled_model, key_id_of, load_bundle
from serve.decode import Limits
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
        shipped = bundled_model(self._settings.finding)
        if bundled_digest(self._settings.finding) == digest:
            return shipped
        path = self._folder / digest
        if not path.exists():
            from edgerad import registry
            from edgerad.store import ObjectStore, config_from

            registry.pull(
                ObjectStore(config_from(self._settings.core.store)), self._settings.finding, digest, self._folder
            )
        return path

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
        if scorer.bundle.digest != digest:  # a signed bundle, but another one: an older model in the place of this
            raise BundleError(
                f"the folder of model {digest[:12]} holds another, {scorer.bundle.digest[:12]}; delete the folder,"
                " it is fetched again"
            )
        return scorer


def bundled_digest(finding: str) -> str:
    """Return the digest of the shipped bundle of a finding, without opening it."""
    document = json.loads((bundled_model(finding) / MANIFEST_FILE).read_text(encoding="utf-8"))
    return str(document["digest"])
