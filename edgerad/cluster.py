"""The Ray cluster: one of this process on this machine, or the one that `ray.address` names."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerad import surroundings
from edgerad.preflight import CannotStart

if TYPE_CHECKING:
    from edgerad.settings import Settings

LOGICAL_CPUS = 8
"""CPUs a local cluster believes to have. Most actors wait for a network; what computes is bounded by its own settings
(replicas, workers, threads), and a laptop of two cores must still place all of them."""

PRELOADED = "edgerad.ray_worker"
"""Imported by every worker before anything else, and here before Ray; cluster.yaml names it as well."""

QUIET = {
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",  # 0.1 costs 4 % of a core when idle; scaling still decides in < 1 s
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread that outlives its cluster must not start another one
    # Ray's own metrics, which nobody can read of a local cluster, cost 2 % of a core; edgerad's come from its database.
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_prestart_worker_first_driver": "0",  # idle workers cost memory and start-up time
    "RAY_idle_worker_killing_time_threshold_ms": "3000",  # a worker that ended its task gives its memory back,
    "RAY_num_workers_soft_limit": "0",  # and none of them is kept for later
    # By default one a core, and four times as many make Ray warn: on two cores every edge would.
    "RAY_worker_maximum_startup_concurrency": "6",
    "RAY_preload_python_modules": PRELOADED,
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_USE_LEGACY_KERAS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Arrow, which Ray Train keeps checkpoints by, else sends checksums as trailers: Ceph 16 answers 411 to them.
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}


def connect(settings: Settings) -> None:
    """Start a cluster on this machine, or connect to the one of `ray.address`; does nothing when connected.

    Raises CannotStart.
    """
    surroundings.prepare()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    folder = _prepare_local(settings) if settings.ray.address is None else None
    importlib.import_module(PRELOADED)
    import ray

    if ray.is_initialized():
        return
    arguments: dict[str, Any] = {
        "namespace": settings.ray.namespace,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    if settings.ray.address:
        _init(address=settings.ray.address, **arguments)
        return
    _init(
        address="local",
        num_cpus=settings.ray.num_cpus or max(LOGICAL_CPUS, os.cpu_count() or 1),
        object_store_memory=settings.ray.object_store_bytes,
        include_dashboard=False,
        _temp_dir=str(folder),
        _node_ip_address="127.0.0.1",
        **arguments,
    )


def _init(**arguments: Any) -> None:
    """Call ray.init, again where it fails; raises CannotStart when no cluster comes of it."""
    import ray

    before = signal.getsignal(signal.SIGTERM)
    for attempts_left in (2, 1, 0):
        try:
            ray.init(**arguments)
            break
        except Exception as error:  # noqa: BLE001
            # Ray raises many types, and gives a busy machine 30 s, which no setting changes.
            ray.shutdown()
            if not attempts_left:
                raise _no_cluster(arguments["address"], error) from None
    if threading.current_thread() is threading.main_thread():
        # Ray has put a handler in its place that writes a stack trace and aborts: nothing would be ended in order.
        signal.signal(signal.SIGTERM, before)


def _no_cluster(address: str, error: Exception) -> CannotStart:
    if address == "local":
        what = "no Ray cluster came up on this machine; it may be too busy, or out of memory"
    else:
        what = f"setting ray.address: no Ray cluster answers at {address}; check that it runs and has our token"
    return CannotStart(f"{what}; Ray says: {str(error).partition(chr(10))[0][:200]}")


def _prepare_local(settings: Settings) -> Path:
    """Set what Ray reads when it is first imported; return the folder for its sessions, without ended ones."""
    from edgerad import keyring, rayfolder
    from edgerad.sections import Secret

    # Without it Ray takes 127.0.0.1 for the address that other machines reach this one by, and listens on all addresses
    # (`ray._private.services.get_node_ip_address`). The name is historical: on macOS and Windows this is Ray's default.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    # Ray would keep its token in the home folder, readable by all.
    token = keyring.ensure(Secret(), settings.data_dir / "keys", "ray-token")
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token.file)
    sessions, scratch = rayfolder.prepare()
    os.environ["TMPDIR"] = str(scratch)  # of the processes started from here on
    rayfolder.remove_ended(sessions)
    return sessions


def disconnect() -> None:
    """Leave the cluster; a local one ends with its processes."""
    import ray

    ray.shutdown()
