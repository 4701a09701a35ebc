"""The ingest lag's way to the Serve policy: through the key-value store of Ray's GCS, which every process reaches.

A reading is a few bytes and lives in memory only. The policy runs inside Serve's controller, which must never wait for
a database or a broker, so the actors that know the lag put it where a read costs under a millisecond.
"""

from __future__ import annotations

import json
import time

KV_NAMESPACE = "edgerad-lag"
STALE_AFTER_S = 15.0
"""An older reading comes from an actor that is gone, one from the future from a clock that was ahead: neither may hold
replicas up."""


def publish(source: str, lag: int) -> None:
    """Publish how many records wait at a source; call it within a Ray process."""
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(source, json.dumps({"lag": lag, "at": time.time()}), overwrite=True, namespace=KV_NAMESPACE)


def read() -> int | None:
    """Return the sum of the fresh readings of all sources, or None when there is none."""
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list

    values = [_internal_kv_get(key, namespace=KV_NAMESPACE) for key in _internal_kv_list("", namespace=KV_NAMESPACE)]
    return total([value for value in values if value], time.time())


def total(values: list[bytes], at: float) -> int | None:
    """Return the sum of those readings that are fresh at time `at` (seconds since the epoch), or None."""
    readings = [json.loads(value) for value in values]
    fresh = [int(reading["lag"]) for reading in readings if abs(at - reading["at"]) < STALE_AFTER_S]
    return sum(fresh) if fresh else None
