"""The Ray Serve application: one deployment whose replicas score batches; deployed declaratively.

Deployed from a configuration in which only `user_config` changes, Serve reconfigures the running replicas in place: no
replica is replaced and no request dropped. `serve.run` with other options would replace every replica.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgerad.scoring import Outcome, ScoreRequest

if TYPE_CHECKING:
    from ray.serve import Application

    from edgerad.settings import Settings
    from serve.calibrate import Calibration
    from serve.score import Scorer

APPLICATION = "edgerad"
DEPLOYMENT = "Scorer"
CALLS_PER_REPLICA = 4
"""Calls a replica works on at a time: as many as an ingest actor keeps under way. One that a replica has no room for is
offered again and again by Ray's router, which took a twentieth of two cores."""
SWITCH_INTERVAL = 0.001
"""Seconds, of Python's 0.005, after which a computing thread hands Python's lock on to one that waits for it."""


def configuration(settings: Settings, model_digest: str, calibration: Calibration | None = None) -> dict[str, Any]:
    """Return Serve's declarative configuration (ServeDeploySchema) with a model in service.

    `calibration` is the site's; without it the model's own serves.
    """
    tuning = settings.serve
    return {
        "proxy_location": "Disabled",
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": None,
                "import_path": "serve.app:build",
                "deployments": [
                    {
                        "name": DEPLOYMENT,
                        "user_config": {
                            "model": model_digest,
                            "calibration": asdict(calibration) if calibration else None,
                        },
                        "max_ongoing_requests": CALLS_PER_REPLICA,
                        "max_queued_requests": tuning.max_queued_requests,
                        "graceful_shutdown_timeout_s": tuning.call_timeout,
                        "health_check_period_s": 5,
                        "ray_actor_options": {"num_cpus": tuning.num_cpus, "num_gpus": tuning.num_gpus},
                        "autoscaling_config": {
                            "min_replicas": tuning.min_replicas,
                            "max_replicas": tuning.max_replicas,
                            "target_ongoing_requests": CALLS_PER_REPLICA,
                            # Deprecated, yet still what router and replica read; the policy needs fresh counts.
                            "metrics_interval_s": 0.5,
                            "look_back_period_s": 1.0,
                            # The policy itself waits before it goes down.
                            "upscale_delay_s": 0.0,
                            "downscale_delay_s": 0.0,
                            "policy": {
                                "policy_function": "serve.policy:LagPolicy",
                                "policy_kwargs": {
                                    "images_per_replica": tuning.target_images_per_replica,
                                    "images_per_call": settings.ingest.batch_size,
                                    "downscale_delay": tuning.downscale_delay,
                                },
                            },
                        },
                    }
                ],
            }
        ],
    }


def build(arguments: dict[str, str]) -> Application:  # noqa: ARG001 - the signature is Serve's
    """Build the application (Serve calls this on the cluster, where the settings are read again)."""
    from ray import serve

    from edgerad.settings import load_settings

    return serve.deployment(ScorerDeployment, name=DEPLOYMENT).bind(load_settings())


class ScorerDeployment:
    """Thin shell of a replica: Ray Serve calls in, `serve.replica.Replica` works."""

    def __init__(self, settings: Settings) -> None:
        """Make the pools; the model comes with the first `reconfigure`, which Serve calls before any request."""
        from concurrent.futures import ThreadPoolExecutor

        import cv2

        from edgerad.store import ObjectStore, config_from
        from edgerad.telemetry import configure_logging
        from serve.replica import NICENESS, Replica
        from serve.shelf import Shelf

        configure_logging(settings.telemetry)
        if settings.ray.address is None:
            _listen_on_loopback_only()
        sys.setswitchinterval(SWITCH_INTERVAL)
        cv2.setNumThreads(1)  # several images are decoded at a time; threads within one would only add to them
        store = ObjectStore(config_from(settings.store))
        limit = settings.serve.max_object_bytes
        self._shelf = Shelf(settings)
        self._scorer: Scorer | None = None
        self._replica = Replica(
            lambda request: store.get(request.key, etag=request.etag, limit_bytes=limit),
            settings.serve.decode_threads,
        )
        self._calls = ThreadPoolExecutor(CALLS_PER_REPLICA, "score", os.nice, (NICENESS,))

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load and prove the model in a thread, then put it into service; requests go on meanwhile."""
        import asyncio

        from serve.calibrate import Calibration

        digest, own = user_config["model"], user_config["calibration"]
        if self._scorer is None or digest != self._scorer.bundle.digest:
            self._scorer = await asyncio.to_thread(self._shelf.scorer, digest)
        self._scorer = self._scorer.calibrated(Calibration(**own) if own else None)
        self._replica.swap(self._scorer)

    async def score(self, requests: list[ScoreRequest]) -> list[Outcome]:
        """Score a batch by reference; see `edgerad.scoring.Scorer`."""
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(self._calls, self._replica.score, requests)

    async def model(self) -> str | None:
        """Return the digest of the model in service in this replica."""
        return self._replica.model_digest


def _listen_on_loopback_only() -> None:
    """Keep this replica's gRPC server off the network: Serve starts it on all addresses after this constructor.

    Serve uses it between deployments where RAY_SERVE_USE_GRPC_BY_DEFAULT asks for it, and has no setting for its
    address (`ray.serve._private.replica`, Ray 2.60). A test looks at the listeners of a running edge.
    """
    from ray.serve._private import replica

    add_port = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: add_port(server, address.replace("[::]", "127.0.0.1"))


def deploy(
    settings: Settings, model_digest: str, calibration: Calibration | None = None, timeout: float = 300.0
) -> None:
    """Deploy the application, or swap its model and calibration in place; returns when it runs with them.

    Raises RuntimeError with Serve's message when the model cannot run, TimeoutError when it does not within `timeout`
    seconds.
    """
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ApplicationStatus, ServeDeploySchema

    serve.start(proxy_location="Disabled")
    client = _get_global_client()
    client.deploy_apps(ServeDeploySchema.model_validate(configuration(settings, model_digest, calibration)))
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        application = serve.status().applications.get(APPLICATION)
        if application is not None:
            if application.status == ApplicationStatus.RUNNING:
                return
            if application.status == ApplicationStatus.DEPLOY_FAILED:
                messages = [part.message for part in application.deployments.values()]
                msg = f"Serve could not deploy model {model_digest[:12]}: {cause_of([*messages, application.message])}"
                raise RuntimeError(msg)
        time.sleep(0.1)
    msg = f"Serve did not run model {model_digest[:12]} within {timeout:.0f} s"
    raise TimeoutError(msg)


def cause_of(messages: Iterable[str]) -> str:
    """Return the cause that Serve's messages give, at most 300 characters: a traceback's last line says what it was."""
    for message in messages:
        if lines := [line.strip() for line in message.splitlines() if line.strip()]:
            return lines[-1][:300]
    return "it gives no reason"


def replicas() -> int:
    """Return how many replicas run."""
    from ray import serve

    application = serve.status().applications.get(APPLICATION)
    if application is None or DEPLOYMENT not in application.deployments:
        return 0
    return int(application.deployments[DEPLOYMENT].replica_states.get("RUNNING", 0))
