"""S3 event notifications as AWS, Ceph and MinIO send them, read into what was created and what was removed.

All three follow AWS's event message structure, version 2.x (Amazon S3 User Guide, "Event message structure"). They
differ in how the key is written (AWS and MinIO: URL-encoded as in a form, a space is `+`; Ceph: as it is), in the
prefix of event names, and in what stands around `Records`. A dialect is one line of DIALECTS.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus

from edgerad.ledger import NewImage

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

KEY_BYTES = 1024
"""Longest key in S3, in bytes of UTF-8 (Amazon S3 User Guide, "Naming Amazon S3 objects")."""
TEXT_LIMIT = 255
BINARY = "base64:"
SWEEP = "edgerad:sweep"
"""Source of the events that the sweep writes for what it finds."""


class PoisonedRecord(Exception):
    """A record that no attempt can make sense of; the reason is a short code, the text never quotes the record."""

    def __init__(self, reason: str) -> None:
        """Keep the reason."""
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one kind of store writes its events: `decode` turns the key as written into the key itself."""

    name: str
    decode: Callable[[str], str]


def _form_decoded(key: str) -> str:
    return unquote_plus(key, errors="strict")


def _as_it_is(key: str) -> str:
    return key


DIALECTS = {
    "aws:s3": Dialect("aws", _form_decoded),
    "minio:s3": Dialect("minio", _form_decoded),
    "ceph:s3": Dialect("ceph", _as_it_is),
    SWEEP: Dialect("sweep", _as_it_is),
}
"""Dialects by the `eventSource` of an event."""


@dataclass(frozen=True, slots=True)
class Created:
    """An object was written; `etag` is empty when the store did not tell it."""

    bucket: str
    key: str
    etag: str
    version_id: str | None
    size: int | None
    at: datetime | None

    def image(self, source: str) -> NewImage:
        """Return it as an image to register."""
        return NewImage(self.bucket, self.key, self.etag, self.version_id, self.size, self.at, source)


@dataclass(frozen=True, slots=True)
class Removed:
    """An object, a version of it or a delete marker was removed."""

    bucket: str
    key: str


@dataclass(slots=True)
class ParsedEvents:
    """What one record told: `ignored` counts no work for us, `poisoned` are the reasons of entries without sense."""

    created: list[Created] = field(default_factory=list)
    removed: list[Removed] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    poisoned: list[str] = field(default_factory=list)


def parse(record: bytes) -> ParsedEvents:
    """Read one record of `xray.uploaded`; raises PoisonedRecord when it is no S3 event at all.

    One entry that makes no sense does not spoil the others of its record: it is named in `poisoned`.
    """
    message = _unwrapped(_json(record))
    parsed = ParsedEvents()
    if message is None:
        parsed.ignored.append("sns-control")
        return parsed
    if message.get("Event") == "s3:TestEvent" and "Records" not in message:
        parsed.ignored.append("test-event")
        return parsed
    entries = message.get("Records")
    if not isinstance(entries, list):
        raise PoisonedRecord("not-an-s3-event")
    for entry in entries:
        try:
            _read(entry, parsed)
        except PoisonedRecord as poisoned:
            parsed.poisoned.append(poisoned.reason)
    if not entries:
        parsed.ignored.append("no-records")
    return parsed


def _json(data: bytes | str) -> dict[str, Any]:
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        raise PoisonedRecord("not-json") from None
    if not isinstance(message, dict):
        raise PoisonedRecord("not-an-s3-event")
    return message


def _unwrapped(message: dict[str, Any]) -> dict[str, Any] | None:
    """Return the S3 event inside an SNS notification, or the message itself; None for SNS's own messages."""
    if "Records" in message or "TopicArn" not in message:
        return message
    if message.get("Type") != "Notification":
        return None
    if not isinstance(message.get("Message"), str):
        raise PoisonedRecord("not-an-s3-event")
    return _json(message["Message"])


def _read(entry: Any, parsed: ParsedEvents) -> None:
    if not isinstance(entry, dict):
        raise PoisonedRecord("malformed-entry")
    dialect = DIALECTS.get(str(entry.get("eventSource")))
    if dialect is None:
        raise PoisonedRecord("unknown-event-source")
    if not str(entry.get("eventVersion", "2.0")).startswith("2."):
        raise PoisonedRecord("unknown-event-version")
    name = _text(entry.get("eventName")).removeprefix("s3:")
    if name not in CREATED and not name.startswith(REMOVED):
        parsed.ignored.append("other-event")
        return
    try:
        bucket, described = entry["s3"]["bucket"]["name"], entry["s3"]["object"]
        key = dialect.decode(_text(described["key"]))
    except (KeyError, TypeError, ValueError):
        raise PoisonedRecord("malformed-entry") from None
    _check(_text(bucket), key)
    if name.startswith(REMOVED):
        parsed.removed.append(Removed(bucket, key))
        return
    size = _size(described.get("size"))
    if key.endswith("/") and not size:
        parsed.ignored.append("folder")
        return
    etag, version = _text(described.get("eTag") or ""), _text(described.get("versionId") or "")
    if max(len(etag), len(version)) > TEXT_LIMIT:
        raise PoisonedRecord("malformed-entry")
    parsed.created.append(Created(bucket, key, etag.strip('"'), version or None, size, _time(entry.get("eventTime"))))


def _text(value: Any) -> str:
    """Return a text that any database can store: no NUL, no lone surrogate (which JSON may hold, escaped)."""
    if not isinstance(value, str) or "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise PoisonedRecord("malformed-entry")
    return value


def _check(bucket: str, key: str) -> None:
    if not 0 < len(bucket) <= TEXT_LIMIT or not 0 < len(_text(key).encode()) <= KEY_BYTES:
        raise PoisonedRecord("malformed-entry")


def _size(value: Any) -> int | None:
    try:
        size = int(value)  # older Ceph writes it as a string
    except (TypeError, ValueError, OverflowError):
        return None
    return size if 0 <= size < 2**63 else None


def _time(value: Any) -> datetime | None:
    try:
        at = datetime.fromisoformat(value)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def sweep_record(bucket: str, key: str, etag: str, size: int | None, at: datetime | None) -> bytes:
    """Return the event by which the sweep announces an object that it found."""
    entry = {
        "eventVersion": "2.1",
        "eventSource": SWEEP,
        "eventName": "ObjectCreated:Put",
        "eventTime": at.astimezone(UTC).isoformat() if at else None,
        "s3": {"bucket": {"name": bucket}, "object": {"key": key, "eTag": etag, "size": size}},
    }
    return json.dumps({"Records": [entry]}).encode()


def to_text(record: bytes) -> str:
    """Return a record as text that any database stores and `to_bytes` turns back into the very same bytes."""
    try:
        text = record.decode()
    except UnicodeDecodeError:
        text = ""
    plain = text and "\0" not in text and not text.startswith(BINARY)
    return text if plain else BINARY + base64.b64encode(record).decode()


def to_bytes(text: str) -> bytes:
    """Return the record that `to_text` wrote."""
    if text.startswith(BINARY):
        return base64.b64decode(text.removeprefix(BINARY))
    return text.encode()
