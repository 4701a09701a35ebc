"""What an entry of a notification can say, and the checks that every dialect shares."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from edgerad.ledger import NewImage

KEY_BYTES = 1024
"""Longest key in S3, in bytes of UTF-8 (Amazon S3 User Guide, "Naming Amazon S3 objects")."""
TEXT_LIMIT = 255
UNVERSIONED = "null"
"""Version of an object that was written while its bucket kept no versions: not a version to ask for."""


class PoisonedRecord(Exception):
    """A record that no attempt can make sense of; the reason is a short code, the text never quotes the record."""

    def __init__(self, reason: str) -> None:
        """Keep the reason."""
        self.reason = reason
        super().__init__(reason)


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


@dataclass(frozen=True, slots=True)
class Ignored:
    """An entry that means no work; `why` is a short code."""

    why: str


Event = Created | Removed | Ignored


class Dialect(Protocol):
    """How one kind of store writes an entry."""

    @property
    def name(self) -> str:
        """Return the short name of the store."""

    def owns(self, entry: dict[str, Any]) -> bool:
        """Return whether an entry is written in this dialect."""

    def key(self, entry: dict[str, Any]) -> str:
        """Return the key of the object that an entry names; raises PoisonedRecord when it names none."""

    def read(self, entry: dict[str, Any]) -> Event:
        """Return what an entry says; raises PoisonedRecord when it makes no sense."""


def created(bucket: str, key: str, etag: Any, version_id: Any, size: Any, at: Any) -> Created | Ignored:
    """Return a creation of checked values; an empty object whose name ends in a slash only stands for a folder."""
    read_size = as_size(size)
    if key.endswith("/") and not read_size:
        return Ignored("folder")
    tag, version = text(etag or "").strip('"'), text(version_id or "")
    if max(len(tag), len(version)) > TEXT_LIMIT:
        raise PoisonedRecord("malformed-entry")
    return Created(bucket, key, tag, None if version in {"", UNVERSIONED} else version, read_size, as_time(at))


def text(value: Any) -> str:
    """Return a text that any database can store: no NUL, no lone surrogate (which JSON may hold, escaped)."""
    if not isinstance(value, str) or "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise PoisonedRecord("malformed-entry")
    return value


def as_bucket(value: Any) -> str:
    """Return the name of a bucket; raises PoisonedRecord when it is none."""
    if not 0 < len(text(value)) <= TEXT_LIMIT:
        raise PoisonedRecord("malformed-entry")
    return str(value)


def as_key(value: Any) -> str:
    """Return the key of an object; raises PoisonedRecord when it is none."""
    if not 0 < len(text(value).encode()) <= KEY_BYTES:
        raise PoisonedRecord("malformed-entry")
    return str(value)


def as_size(value: Any) -> int | None:
    """Return a size in bytes, None for what is none."""
    try:
        size = int(value)  # older Ceph writes it as a string
    except (TypeError, ValueError, OverflowError):
        return None
    return size if 0 <= size < 2**63 else None


def as_time(value: Any) -> datetime | None:
    """Return a time in UTC, None for what is none. A time without a zone is in UTC."""
    try:
        at = datetime.fromisoformat(value)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        return None
