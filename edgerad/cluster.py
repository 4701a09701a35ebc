"""The Ray cluster: one of this process on this machine, or the one that `ray.address` names."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgerad.settings import Settings

LOGICAL_CPUS = 8
"""CPUs a local cluster believes to have. Most actors wait for a network; what computes is bounded by its own settings
(replicas, workers, threads), and a laptop of two cores must still place all of them."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # a hospital's edge calls nobody
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",  # 0.1 costs 4 % of a core when idle; scaling still decides in < 1 s
    "RAY_DEDUP_LOGS": "1",
    "RAY_prestart_worker_first_driver": "0",  # idle workers cost memory and start-up time
    "RAY_idle_worker_killing_time_threshold_ms": "3000",  # a worker that ended its task gives its memory back
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_USE_LEGACY_KERAS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def connect(settings: Settings) -> None:
    """Start a cluster on this machine, or connect to the one of `ray.address`; does nothing when connected."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if settings.ray.address is None:
        _prepare_local(settings)
    import ray

    if ray.is_initialized():
        return
    arguments: dict[str, Any] = {
        "namespace": settings.ray.namespace,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    if settings.ray.address:
        ray.init(address=settings.ray.address, **arguments)
        return
    # Sockets of Ray must have short paths, so its session lives in the system's temporary folder, not in data_dir.
    folder = Path(tempfile.gettempdir()) / f"edgerad-ray-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    ray.init(
        address="local",
        num_cpus=settings.ray.num_cpus or max(LOGICAL_CPUS, os.cpu_count() or 1),
        object_store_memory=settings.ray.object_store_bytes,
        include_dashboard=False,
        _temp_dir=str(folder),
        _node_ip_address="127.0.0.1",
        **arguments,
    )


def _prepare_local(settings: Settings) -> None:
    # Ray would keep its token in the home folder, readable by all. Read when ray is first imported: set before.
    from edgerad import keyring
    from edgerad.sections import Secret

    token = keyring.ensure(Secret(), settings.data_dir / "keys", "ray-token")
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token.file)


def disconnect() -> None:
    """Leave the cluster; a local one ends with its processes."""
    import ray

    ray.shutdown()
