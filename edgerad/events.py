"""The event that edgerad publishes on `xray.assessed`; every field is documented in docs/events.md."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from edgerad.scoring import Triage


class AssessedEvent(BaseModel):
    """An image was assessed. Holds no patient data and no object key: readers look the image up by its id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = Field(1, description="Version of this schema.")
    event_id: str = Field(description="Identity of the event: the same on every delivery.")
    assessment_id: str = Field(description="Identity of the assessment: image and model.")
    image_id: str = Field(description="Identity of the image: bucket, key and ETag.")
    finding: str = Field(description="Finding that was looked for, as the setting `finding` names it.")
    probability: float = Field(ge=0, le=1, description="Calibrated probability of the finding.")
    triage: Triage = Field(description="high, unknown or low.")
    model_digest: str = Field(description="Digest of the model bundle.")
    calibration_version: str = Field(description="Version of the calibration that made the probability.")
    threshold_version: str = Field(description="Version of the thresholds that made the triage.")
    assessed_at: datetime = Field(description="When it was assessed, UTC.")
