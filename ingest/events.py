"""Event notifications of object stores, read into what was created and what was removed.

What stands around an event is opened in `ingest/envelopes.py`, and `ingest/dialects/` knows how each store writes one.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime

from edgerad import ids
from ingest.dialects import dialect_of
from ingest.dialects.event import Created, Event, Ignored, PoisonedRecord, Removed
from ingest.dialects.s3 import S3Dialect, as_it_is
from ingest.dialects.sweep import SWEEP
from ingest.envelopes import Single, singles

__all__ = [
    "BINARY",
    "Created",
    "ParsedEvents",
    "PoisonedRecord",
    "Removed",
    "parse",
    "split",
    "sweep_record",
    "to_bytes",
    "to_text",
]

BINARY = "base64:"
_ANY_STORE = S3Dialect("any", "", as_it_is)
"""Finds a name for the entry of a store that is not known, which becomes a dead letter in its partition."""


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
    parsed = ParsedEvents()
    for single in singles(record):
        try:
            event = _read(single)
        except PoisonedRecord as poisoned:
            parsed.poisoned.append(poisoned.reason)
            continue
        if isinstance(event, Created):
            parsed.created.append(event)
        elif isinstance(event, Removed):
            parsed.removed.append(event)
        else:
            parsed.ignored.append(event.why)
    return parsed


def _read(single: Single) -> Event:
    if single.ignored:
        return Ignored(single.ignored)
    if single.poisoned:
        raise PoisonedRecord(single.poisoned)
    if not isinstance(single.entry, dict):
        raise PoisonedRecord("malformed-entry")
    dialect = dialect_of(single.entry)
    if dialect is None:
        raise PoisonedRecord("unknown-event-source")
    return dialect.read(single.entry)


def split(body: bytes) -> list[tuple[str | None, bytes]]:
    """Return (study key, record) of each event of a message, so that each study keeps to its partition.

    The key is None for what names no object: a test event, an entry without sense. Such an entry goes with the others,
    to be a dead letter: a refusal would have the store send the whole message again for ever. Raises PoisonedRecord for
    what is no S3 event, and for a message with entries of which none names an object.
    """
    found = singles(body)
    studies = [_study(single) for single in found]
    if not any(studies) and not all(single.ignored for single in found):
        raise PoisonedRecord("names-no-object")
    if len(found) == 1:
        return [(studies[0], body)]
    messages = [json.dumps(single.message).encode() for single in found]
    return list(zip(studies, messages, strict=True))


def _study(single: Single) -> str | None:
    if not isinstance(single.entry, dict):
        return None
    try:
        return ids.study_key((dialect_of(single.entry) or _ANY_STORE).key(single.entry))
    except PoisonedRecord:
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
