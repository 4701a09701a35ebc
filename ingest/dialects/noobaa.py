"""NooBaa (the Multicloud Object Gateway of OpenShift Data Foundation), after its public source
(noobaa/noobaa-core, src/util/notifications_util.js); untried.

Keys are not encoded. The source is `NAME:s3`, where NAME is that of the NooBaa system: `noobaa`, or without containers
the name of a host. NooBaa is therefore also recognised by event version 2.3 without `awsRegion`, which it never writes.
`size` is that of the answer to the request, not of the object, and `eTag` lacks a digit at each end: neither is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ingest.dialects.event import Event
from ingest.dialects.s3 import S3Dialect, as_it_is

TEST = "test notification"
"""The whole of what NooBaa sends when a notification is set up, as a JSON string."""
NAMED_OTHERWISE = ("sgws:s3",)
"""Sources of other stores that leave out `awsRegion`, too: StorageGRID."""
_ENTRY = S3Dialect("noobaa", "noobaa:s3", as_it_is, describes_object=False)


@dataclass(frozen=True, slots=True)
class NooBaa:
    """Events of NooBaa, whatever the system is called."""

    name: str = "noobaa"

    def owns(self, entry: dict[str, Any]) -> bool:
        """Return whether NooBaa wrote the entry."""
        if _ENTRY.owns(entry):
            return True
        source = str(entry.get("eventSource"))
        return (
            source.endswith(":s3")
            and source not in NAMED_OTHERWISE
            and entry.get("eventVersion") == "2.3"
            and "awsRegion" not in entry
        )

    def key(self, entry: dict[str, Any]) -> str:
        """Return the object's key."""
        return _ENTRY.key(entry)

    def read(self, entry: dict[str, Any]) -> Event:
        """Return what the entry says."""
        return _ENTRY.read(entry)


DIALECT = NooBaa()
