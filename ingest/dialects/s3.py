"""AWS's event message structure, version 2.x, which most stores follow (Amazon S3 User Guide, "Event message
structure").

The stores differ in `eventSource`, in how the key is written, in the prefix of event names, and in which fields hold
what they should.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from ingest.dialects.event import Event, Ignored, PoisonedRecord, Removed, as_bucket, as_key, created, text

CREATED = frozenset(
    {
        "ObjectCreated:Put",
        "ObjectCreated:Post",
        "ObjectCreated:Copy",
        "ObjectCreated:CompleteMultipartUpload",
        "ObjectSynced:Create",  # Ceph: the object came by multisite replication
    }
)
REMOVED = ("ObjectRemoved:", "LifecycleExpiration:", "ObjectLifecycle:Expiration:")
"""Names begin so when an object, a version of it, or only a marker went: what is left is looked up in the store."""


def form_decoded(key: str) -> str:
    """Return a key that was URL-encoded as in a form, where a space is `+`."""
    return unquote_plus(key, errors="strict")


def as_it_is(key: str) -> str:
    """Return a key that was not encoded."""
    return key


@dataclass(frozen=True, slots=True)
class S3Dialect:
    """A store that follows the structure: `decode` turns the key as written into the key itself.

    `describes_object` is False for a store whose `eTag` and `size` are not those of the object: the store is asked.
    """

    name: str
    source: str
    decode: Callable[[str], str]
    describes_object: bool = True

    def owns(self, entry: dict[str, Any]) -> bool:
        """Return whether the entry has the source of this store."""
        return entry.get("eventSource") == self.source

    def key(self, entry: dict[str, Any]) -> str:
        """Return the object's key, decoded."""
        try:
            return as_key(self.decode(text(entry["s3"]["object"]["key"])))
        except (KeyError, TypeError, ValueError):
            raise PoisonedRecord("malformed-entry") from None

    def read(self, entry: dict[str, Any]) -> Event:
        """Return what the entry says."""
        if not str(entry.get("eventVersion", "2.0")).startswith("2."):
            raise PoisonedRecord("unknown-event-version")
        name = text(entry.get("eventName")).removeprefix("s3:")
        if name not in CREATED and not name.startswith(REMOVED):
            return Ignored("other-event")
        key = self.key(entry)
        try:
            bucket, described = as_bucket(entry["s3"]["bucket"]["name"]), entry["s3"]["object"]
        except (KeyError, TypeError):
            raise PoisonedRecord("malformed-entry") from None
        if name.startswith(REMOVED):
            return Removed(bucket, key)
        etag, size = (described.get("eTag"), described.get("size")) if self.describes_object else (None, None)
        return created(bucket, key, etag, described.get("versionId"), size, entry.get("eventTime"))
