"""Amazon S3 through EventBridge (Amazon S3 User Guide, "EventBridge event message structure"); untried.

One message is one event. Keys are not encoded, and the fields are written with hyphens: `version-id`, `detail-type`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ingest.dialects.event import Event, Ignored, PoisonedRecord, Removed, as_bucket, as_key, created

SOURCE = "aws.s3"


@dataclass(frozen=True, slots=True)
class EventBridge:
    """Events of Amazon S3 as EventBridge delivers them."""

    name: str = "eventbridge"

    def owns(self, entry: dict[str, Any]) -> bool:
        """Return whether EventBridge delivered the event and S3 sent it."""
        return entry.get("source") == SOURCE and "detail-type" in entry

    def key(self, entry: dict[str, Any]) -> str:
        """Return the object's key."""
        try:
            return as_key(entry["detail"]["object"]["key"])
        except (KeyError, TypeError):
            raise PoisonedRecord("malformed-entry") from None

    def read(self, entry: dict[str, Any]) -> Event:
        """Return what the event says; the kinds other than created and deleted mean no work."""
        if str(entry.get("version", "0")) != "0":
            raise PoisonedRecord("unknown-event-version")
        kind = entry["detail-type"]
        if kind not in ("Object Created", "Object Deleted"):
            return Ignored("other-event")
        key = self.key(entry)
        try:
            bucket, described = as_bucket(entry["detail"]["bucket"]["name"]), entry["detail"]["object"]
        except (KeyError, TypeError):
            raise PoisonedRecord("malformed-entry") from None
        if kind == "Object Deleted":
            return Removed(bucket, key)
        etag, version = described.get("etag"), described.get("version-id")
        return created(bucket, key, etag, version, described.get("size"), entry.get("time"))


DIALECT = EventBridge()
