"""From bytes to probability and triage class, or a refusal: the whole of scoring without Ray, stores or events.

The Serve replica and `edgerad score` both call this, so that what is tested here is what decides online.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgerad.scoring import ActivationMap, Triage
from imaging.limits import DEFAULT_LIMITS, Limits
from imaging.refusal import Unreadable
from serve.bundle import Bundle, TrustedKeys, bundled_keys, bundled_model, load_bundle
from serve.calibrate import Calibration
from serve.decode import DecodedImage, decode
from serve.kind import KindGate
from serve.novelty import place_of, usual
from serve.preprocess import Input, shrink, stretch
from serve.runtimes import Logits, Maps, Runtime, RuntimeOptions, make_runtime
from serve.view import THRESHOLD as VIEW_THRESHOLD
from serve.view import view_check


@dataclass(frozen=True)
class ImageScore:
    """One image's result with all that gives it meaning; `header` is patient data."""

    finding: str
    probability: float
    logit: float
    triage: Triage
    model_digest: str
    calibration_version: str
    threshold_version: str
    runtime: str
    novelty: float
    header: dict[str, str] = field(default_factory=dict, repr=False)
    activation: ActivationMap = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class Prepared:
    """An image ready for the network: its input, its header (patient data), how unlike the training's it is."""

    input: Input
    header: dict[str, str]
    novelty: float


class Scorer:
    """Scores batches with one bundle on one runtime, in as many calls at a time as the runtime takes."""

    def __init__(
        self,
        bundle: Bundle,
        runtime: Runtime,
        limits: Limits = DEFAULT_LIMITS,
        view_threshold: float = VIEW_THRESHOLD,
        calibration: Calibration | None = None,
    ) -> None:
        self.bundle, self.runtime, self.limits, self.view_threshold = bundle, runtime, limits, view_threshold
        self.calibration = calibration or bundle.calibration
        self.gate = KindGate(bundle.manifest.for_processing)

    def calibrated(self, calibration: Calibration | None) -> Scorer:
        """Return the same scorer with a site's calibration, or (None) the bundle's own."""
        return Scorer(self.bundle, self.runtime, self.limits, self.view_threshold, calibration)

    def score_bytes(self, items: Sequence[bytes]) -> list[ImageScore | Unreadable]:
        """Return a score or a refusal for every item, in order; one bad item never spoils the others."""
        return self.score_prepared([self.prepare(item) for item in items])

    def prepare(self, item: bytes) -> Prepared | Unreadable:
        """Decode, check and preprocess one item, or refuse it. Safe to call from several threads."""
        try:
            image: DecodedImage = decode(item, self.limits, self.gate)
        except Unreadable as refusal:
            return refusal
        stretched = stretch(image.grid)
        try:
            row = view_check().check(stretched, self.view_threshold)
        except Unreadable as refusal:
            refusal.header = image.header
            return refusal
        novelty = usual().novelty(place_of(view_check(), row))
        return Prepared(shrink(stretched, self.bundle.manifest.input_size), image.header, novelty)

    def score_prepared(self, prepared: Sequence[Prepared | Unreadable]) -> list[ImageScore | Unreadable]:
        """Run the network on what `prepare` gave, as one batch; refusals pass through."""
        ready = [item.input for item in prepared if not isinstance(item, Unreadable)]
        results = iter(_rows(*self.runtime.explain(np.stack(ready))) if ready else [])
        return [item if isinstance(item, Unreadable) else self._result(*next(results), item) for item in prepared]

    def _result(self, logit: float, activation: ActivationMap, prepared: Prepared) -> ImageScore | Unreadable:
        if not np.isfinite(logit):
            return Unreadable("model-error", "the network gave no finite number", prepared.header)
        probability = float(self.calibration.apply(logit))
        return ImageScore(
            self.bundle.manifest.finding,
            probability,
            logit,
            self.bundle.thresholds.classify(probability),
            self.bundle.digest,
            self.calibration.version,
            self.bundle.thresholds.version,
            self.runtime.name,
            prepared.novelty,
            prepared.header,
            activation,
        )


def _rows(logits: Logits, maps: Maps) -> Iterable[tuple[float, ActivationMap]]:
    return zip(logits.tolist(), maps.astype(np.float64).round(2).tolist(), strict=True)


def open_scorer(
    path: Path | None = None,
    *,
    finding: str = "pneumonia",
    trusted_keys: TrustedKeys | None = None,
    verify: bool = True,
    runtime: str = "litert",
    options: RuntimeOptions | None = None,
    limits: Limits = DEFAULT_LIMITS,
    view_threshold: float = VIEW_THRESHOLD,
) -> Scorer:
    """Load a bundle (by default the shipped one), check signature and golden cases, and return a scorer.

    Without `trusted_keys` the keys of the shipped models are trusted. Raises BundleError.
    """
    keys = bundled_keys() if trusted_keys is None else trusted_keys
    view_check(), usual()  # whole, or no image is scored at all
    bundle = load_bundle(path or bundled_model(finding), keys, verify=verify)
    return Scorer(bundle, make_runtime(runtime, bundle, options or RuntimeOptions()), limits, view_threshold)
