"""RustFS, after its public source (rustfs/rustfs, crates/notify/src/event.rs and crates/targets/src/target); untried.

Keys are URL-encoded as in a form, slashes too. Some targets (AMQP, Redis, NATS) put the event into the field `data`
of an entry of their own, others (Kafka, webhook) send it as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ingest.dialects.event import Event
from ingest.dialects.s3 import S3Dialect, form_decoded

_PLAIN = S3Dialect("rustfs", "rustfs:s3", form_decoded)


@dataclass(frozen=True, slots=True)
class RustFS:
    """Events of RustFS, plain or in an entry around them."""

    name: str = "rustfs"

    def owns(self, entry: dict[str, Any]) -> bool:
        """Return whether RustFS wrote the entry."""
        return _PLAIN.owns(_opened(entry))

    def key(self, entry: dict[str, Any]) -> str:
        """Return the object's key, decoded."""
        return _PLAIN.key(_opened(entry))

    def read(self, entry: dict[str, Any]) -> Event:
        """Return what the entry says."""
        return _PLAIN.read(_opened(entry))


def _opened(entry: dict[str, Any]) -> dict[str, Any]:
    inner = entry.get("data")
    return inner if isinstance(inner, dict) and "eventSource" not in entry else entry


DIALECT = RustFS()
