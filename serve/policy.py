"""How many replicas serve: by the images that wait at the sources plus those under way.

Ray Serve's own policy counts ongoing requests averaged over a window. Calls here carry a batch each, so a backlog of
10,000 images shows as a handful of requests: the lag itself must decide, and at once.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

READ_INTERVAL_S = 0.1
LOW_SINCE = "low_since"


def decide(
    waiting: float,
    current: int,
    bounds: tuple[int, int],
    images_per_replica: int,
    downscale_delay: float,
    at: float,
    state: dict[str, Any],
) -> tuple[int, dict[str, Any]]:
    """Return the target number of replicas and the policy's new state.

    Up at once; down only after the load was low for `downscale_delay` seconds, so that a gap between two spikes does
    not throw away replicas whose start costs seconds. `at` is in seconds, `waiting` in images.
    """
    low, high = bounds
    wanted = min(max(math.ceil(waiting / images_per_replica), low), high)
    if wanted >= current:
        return wanted, {}
    since = float(state.get(LOW_SINCE, at))
    if at - since >= downscale_delay:
        return wanted, {}
    return current, {LOW_SINCE: since}


class LagPolicy:
    """Serve's autoscaling policy; lives in the controller, so it only looks at the last reading of a thread."""

    def __init__(self, images_per_replica: int, images_per_call: int, downscale_delay: float) -> None:
        """Start the thread that reads the lag."""
        self._images_per_replica = images_per_replica
        self._images_per_call = images_per_call
        self._downscale_delay = downscale_delay
        self._lag: int | None = None
        threading.Thread(target=self._read_for_ever, name="edgerad-lag", daemon=True).start()

    def _read_for_ever(self) -> None:
        from edgerad import lag

        while True:
            try:
                self._lag = lag.read()
            except Exception:  # noqa: BLE001 - whatever the GCS throws while it restarts: keep the replicas there are
                self._lag = None
            time.sleep(READ_INTERVAL_S)

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Return the target and the state; without a reading the ongoing calls decide alone."""
        waiting = (self._lag or 0) + context.total_num_requests * self._images_per_call
        return decide(
            waiting,
            context.target_num_replicas,
            (context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas),
            self._images_per_replica,
            self._downscale_delay,
            context.current_time or time.time(),
            context.policy_state or {},
        )
