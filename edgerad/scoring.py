"""What ingest and Serve exchange: references go in, scores or refusals come out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

Triage = Literal["high", "unknown", "low"]
ActivationMap = list[list[float]]
"""Rows of cells over the image, top left first: what each says in logits; their mean is the image's logit."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One image to score, by reference: the replica fetches the bytes itself."""

    image_id: str
    bucket: str
    key: str
    version_id: str | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """A score with all that makes it meaningful (invariant 4): model, calibration and threshold version."""

    image_id: str
    finding: str
    probability: float
    logit: float
    triage: Triage
    model_digest: str
    calibration_version: str
    threshold_version: str
    runtime: str
    seconds: float
    header: dict[str, str] = field(default_factory=dict, repr=False)
    """DICOM keywords that clinicians read on a worklist; patient data: only for the edge's database."""
    novelty: float | None = None
    """How unlike the training images, 0..1 (`edgerad.drift`)."""
    activation: ActivationMap | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """An image that was not scored: `retryable` when another attempt may succeed (a store that is down)."""

    image_id: str
    reason: str
    detail: str
    retryable: bool = False
    header: dict[str, str] = field(default_factory=dict, repr=False)
    """As in `Scored`: whose image it is that a person must look at."""


Outcome = Scored | Refused


class Scorer(Protocol):
    """Whatever scores a batch: the Serve application's handle, or a pure one in tests."""

    async def score(self, requests: list[ScoreRequest]) -> list[Outcome]:
        """Return one outcome per request, in the same order; raises only when the whole call failed."""
        ...
