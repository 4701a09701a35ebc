"""How each store writes its events: one module for a dialect, and the list of those that are taken.

A new store is one new module here and one more entry in DIALECTS.
"""

from __future__ import annotations

from typing import Any

from ingest.dialects import aws, ceph, cubefs, eventbridge, minio, noobaa, rustfs, sweep
from ingest.dialects.event import Dialect

DIALECTS: tuple[Dialect, ...] = (
    aws.DIALECT,
    ceph.DIALECT,
    minio.DIALECT,
    rustfs.DIALECT,
    cubefs.DIALECT,
    sweep.DIALECT,
    eventbridge.DIALECT,
    noobaa.DIALECT,  # the last: it takes sources of any name
)


def dialect_of(entry: dict[str, Any]) -> Dialect | None:
    """Return the dialect in which an entry is written, None when no known store writes so."""
    return next((dialect for dialect in DIALECTS if dialect.owns(entry)), None)
