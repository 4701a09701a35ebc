"""Puts the parts of a role together and takes them apart again: embedded parts, Ray actors, Serve, dashboard."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote_plus

from edgerad import cluster, keyring, preflight, private, runfile, surroundings
from edgerad.audit import Anchorer
from edgerad.database import Database
from edgerad.records import now
from edgerad.sections import Secret
from edgerad.settings import Settings
from edgerad.telemetry import get_logger

if TYPE_CHECKING:
    from edgerad.s3server import S3Server
    from edgerad.s3server.app import OnPut
    from edgerad.s3server.disk import Entry

ENDS_WITHIN = 10.0
"""Seconds that ingest has to end what is under way; what does not end is taken up again at the next start."""
FIRST_MODEL_WITHIN = 120.0
"""Seconds that a start waits for the first model before it goes on without."""
Actor = Any
"""A Ray actor handle."""


@dataclass
class System:
    """A running edgerad: what was started, in the order it was started."""

    settings: Settings
    database: Database
    addresses: dict[str, str] = field(default_factory=dict)
    actors: dict[str, Actor] = field(default_factory=dict)
    runs: dict[str, Any] = field(default_factory=dict)
    held: IO[str] | None = None
    connected: bool = False
    """Whether this system has begun to connect to Ray."""
    s3: S3Server | None = None
    dashboard: subprocess.Popen[bytes] | None = None


def start(settings: Settings, progress: Callable[[str], None] = lambda _: None) -> System:
    """Start everything the role needs; returns when all of it was started.

    `progress` is told what is being started. Whatever fails, what was started is stopped again. Raises SettingsError,
    AlreadyRuns, and CannotStart with what to do.
    """
    surroundings.keep_caches(settings.data_dir)
    preflight.check_settings(settings)
    preflight.check_folder(settings.data_dir)
    private.tighten_data(settings.data_dir)
    held = runfile.claim(settings.data_dir)
    system = System(settings, Database(settings.database_url), held=held)
    try:
        runfile.RunFile(settings.role, os.getpid(), now().isoformat(), state="starting").write(settings.data_dir)
        _start(system, progress)
    except BaseException:
        stop(system)
        raise
    return system


def _start(system: System, progress: Callable[[str], None]) -> None:
    if system.settings.ray.address is None:
        preflight.check_ports(system.settings)
    progress("object store and database")
    system.settings = settings = _with_secrets(system.settings)
    system.settings = settings = _start_store(system, settings)
    with preflight.database_answers(settings):
        system.database = Database(settings.database_url)
        system.database.upgrade()
    _prepare_parts(settings)
    # Processes of this machine read the settings from their environment; those of other nodes from their own file.
    os.environ.update(settings.environment())
    progress("Ray")
    system.connected = True
    cluster.connect(settings)
    # First what brings the first result, then the rest: on two cores each process that starts delays the others.
    with preflight.actors_start():
        if settings.is_edge:
            _start_flow(system, progress)
        _start_rest(system, progress)
    runfile.RunFile(settings.role, os.getpid(), now().isoformat(), system.addresses).write(settings.data_dir)


def _start_flow(system: System, progress: Callable[[str], None]) -> None:
    """Start what an X-ray passes on its way to an assessment: receiver, ingest, replicas."""
    import ray

    from ingest.actor import IngestActor
    from serve.rollout import RolloutActor

    settings = system.settings
    progress("model replicas")
    rollout = _add(system, "rollout", RolloutActor, settings)
    ready = rollout.start.remote()
    receiver = None
    if settings.receiver.enabled:
        from ingest.receiver import ReceiverActor

        receiver = _add(system, "receiver", ReceiverActor, settings)
    for index in range(settings.ingest.actors if settings.kafka.bootstrap_servers else 1):
        _add(system, f"ingest-{index}", IngestActor, settings, index, run=True)
    _wait_for_model(rollout, ready)
    system.runs["rollout"] = rollout.run.remote()
    if receiver is not None:
        system.addresses["receiver"] = ray.get(receiver.address.remote())


def _wait_for_model(rollout: Actor, ready: Any) -> None:
    """Wait for the first model, but not for ever: intake and dashboard work without one, and the images wait."""
    import ray

    log = get_logger("compose")
    done, _ = ray.wait([ready], timeout=FIRST_MODEL_WITHIN)
    if not done:
        log.error("no model serves yet; images wait", seconds=FIRST_MODEL_WITHIN)
        return
    digest, trouble = ray.get(ready), ray.get(rollout.trouble.remote())
    if digest is None:
        log.error("no model serves; images wait until one does", reason=trouble)
    elif trouble:
        log.error("another model serves than should", model_digest=digest, reason=trouble)


def _start_rest(system: System, progress: Callable[[str], None]) -> None:
    """Start the gateway, what follows an assessment, the core, the dashboard."""
    import ray

    settings = system.settings
    gateway = None
    if settings.is_edge and settings.gateway.enabled:
        from ingest.gateway import GatewayActor

        progress("gateway")
        gateway = _add(system, "gateway", GatewayActor, settings)
    if settings.is_core:
        from train.core import CoreActor

        progress("core")
        _add(system, "core", CoreActor, settings, run=True)
    if settings.is_edge:
        from notify.notifier import NotifierActor

        progress("alerts and shipping")
        _add(system, "notifier", NotifierActor, settings, run=True)
        # An edge whose core is not known yet keeps what is to be shipped: it waits in the database.
        if settings.ship.enabled and settings.core.store.endpoint_url:
            from ship.shipper import ShipperActor

            _add(system, "shipper", ShipperActor, settings, run=True)
    if settings.dashboard.enabled:
        progress("dashboard")
        _start_dashboard(system)
    if gateway is not None:
        system.addresses["gateway"] = ray.get(gateway.address.remote())


def _add(system: System, name: str, shell: type, *arguments: Any, run: bool = False) -> Actor:
    """Start an actor that Ray restarts for ever; with `run`, also its endless method, which a restart begins again."""
    import ray

    options = {
        "name": name,
        "num_cpus": 0,  # they wait for networks; what computes reserves its own
        "max_restarts": -1,
        "max_task_retries": -1,
        "max_concurrency": 8,
    }
    actor = ray.remote(shell).options(**options).remote(*arguments)
    system.actors[name] = actor
    if run:
        system.runs[name] = actor.run.remote()
    return actor


def _with_secrets(settings: Settings) -> Settings:
    """Fill in the secrets that edgerad makes itself, and what the edge and the core of one machine know of each other.

    Raises SettingsError when a key is wrong: now, and not when the first parcel comes.
    """
    keys = settings.data_dir.absolute() / "keys"
    settings = settings.model_copy(update={"data_dir": settings.data_dir.absolute()})
    if settings.is_edge:
        token = keyring.ensure(settings.gateway.token, keys, "gateway-token")
        secret = keyring.ensure(settings.ship.site_secret, keys, "site-secret")
        ship = settings.ship.model_copy(update={"site_secret": secret, "signing_key": keyring.edge_key(settings)})
        gateway = settings.gateway.model_copy(update={"token": token})
        settings = settings.model_copy(update={"gateway": gateway, "ship": ship})
    if settings.is_core:
        signing, parcel_key, before = keyring.core_keys(settings)
        trusted = (*settings.core.trusted_keys, keyring.public_key(signing.reveal() or ""))
        update: dict[str, Any] = {"signing_key": signing, "parcel_key": parcel_key, "parcel_key_before": before}
        update["trusted_keys"] = tuple(dict.fromkeys(trusted))
        if settings.is_edge:
            own = f"{settings.ship.edge_id}={keyring.public_key(settings.ship.signing_key.reveal() or '')}"
            update["edge_keys"] = tuple(dict.fromkeys((*settings.core.edge_keys, own)))
            sealing = settings.core.parcel_public_key or keyring.public_key(parcel_key.reveal() or "")
            update["parcel_public_key"] = sealing
        settings = settings.model_copy(update={"core": settings.core.model_copy(update=update)})
    keyring.check(settings)
    return settings


def _start_store(system: System, settings: Settings) -> Settings:
    """Start the embedded S3 server where the edge's or the core's store is not configured."""
    edge_embedded = settings.is_edge and settings.store.endpoint_url is None
    core_embedded = settings.core.store.endpoint_url is None
    if not (edge_embedded or (core_embedded and settings.is_core)):
        return settings
    from edgerad.s3server import S3Server

    keys = settings.data_dir / "keys"
    access = keyring.ensure(Secret(), keys, "s3-access-key")
    secret = keyring.ensure(Secret(), keys, "s3-secret-key")
    system.s3 = S3Server(
        (settings.embedded_store.directory or settings.data_dir / "s3").absolute(),
        access.reveal() or "",
        secret.reveal() or "",
        port=settings.embedded_store.port,
        on_put=_announcer(settings),
    )
    try:
        system.s3.start()
    except (OSError, RuntimeError) as error:
        raise preflight.CannotStart(f"the embedded object store: {error}") from None
    system.addresses["s3"] = system.s3.endpoint_url
    embedded = {
        "endpoint_url": system.s3.endpoint_url,
        "access_key": access,
        "secret_key": secret,
        "folder": system.s3.folder,
    }
    update: dict[str, Any] = {}
    if edge_embedded:
        update["store"] = settings.store.model_copy(update=embedded)
    if core_embedded and settings.is_core:
        store = settings.core.store.model_copy(update=embedded)
        update["core"] = settings.core.model_copy(update={"store": store})
    return settings.model_copy(update=update)


def _announcer(settings: Settings) -> OnPut | None:
    """With Kafka, return what announces the embedded store's objects there, as a store of its own would.

    What Kafka does not take is not announced, and the sweep finds it.
    """
    if not settings.kafka.bootstrap_servers:
        return None
    from kafka.errors import KafkaError

    from edgerad import bus, ids

    producers: list[Any] = []

    def announce(bucket: str, entry: Entry) -> None:
        if bucket != settings.store.bucket:
            return
        key = quote_plus(entry.key)
        described = {"key": key, "size": entry.size, "eTag": entry.etag}
        record = {
            "eventSource": "aws:s3",
            "eventName": "ObjectCreated:Put",
            "eventTime": now().isoformat(),
            "s3": {"bucket": {"name": bucket}, "object": described},
        }
        try:
            if not producers:
                producers.append(bus.producer(settings.kafka, max_block_ms=2000))
            value = json.dumps({"Records": [record]}).encode()
            producers[0].send(settings.kafka.topic_uploaded, value, key=ids.study_key(entry.key).encode())
        except KafkaError as error:
            get_logger("compose").warning("an object was not announced; the sweep will find it", error=error)

    return announce


def _prepare_parts(settings: Settings) -> None:
    from edgerad import bus
    from edgerad.store import ObjectStore, config_from

    if settings.is_edge:
        with preflight.store_answers("store", settings.store):
            ObjectStore(config_from(settings.store)).ensure_bucket()
        if settings.kafka.bootstrap_servers:
            with preflight.kafka_answers(settings):
                bus.ensure_topics(settings.kafka)
    if settings.is_core:
        with preflight.store_answers("core.store", settings.core.store):
            ObjectStore(config_from(settings.core.store)).ensure_bucket()


def _start_dashboard(system: System) -> None:
    from dashboard import launch

    log = system.settings.data_dir / "run" / "dashboard.log"
    private.folder(log.parent)
    command, address = launch.command(system.settings)
    with private.file(log).open("wb") as output:
        system.dashboard = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    system.addresses["dashboard"] = address


def stop(system: System) -> None:
    """Stop everything, the last started first; what is in flight ends in a state from which it goes on."""
    try:
        _stop_dashboard(system)
        _stop_actors(system)
    finally:
        if system.s3 is not None:
            system.s3.stop()
        system.database.close()
        runfile.remove(system.settings.data_dir)
        if system.held is not None:
            system.held.close()


def _stop_dashboard(system: System) -> None:
    if system.dashboard is None:
        return
    system.dashboard.terminate()
    try:
        system.dashboard.wait(10)
    except subprocess.TimeoutExpired:
        system.dashboard.kill()


def _stop_actors(system: System) -> None:
    """Let ingest end what it has under way; the actors then end with this process, which owns them."""
    if not system.connected:
        return
    import ray

    with suppress(ray.exceptions.RayError):  # a cluster that is gone has nothing left to end
        ingest = [actor.stop.remote() for name, actor in system.actors.items() if name.startswith("ingest-")]
        ray.wait(ingest, num_returns=len(ingest), timeout=ENDS_WITHIN) if ingest else None
        if system.actors and system.settings.is_edge and system.settings.ray.address:
            from ray import serve

            serve.shutdown()
    cluster.disconnect()


def watch(system: System, interval: float = 2.0) -> None:
    """Keep an eye on what was started, until the process is told to end; a dashboard that ended is started again."""
    import ray

    log, anchorer = get_logger("compose"), Anchorer(system.database, system.settings.data_dir)
    while True:
        anchorer.step()
        if system.dashboard is not None and system.dashboard.poll() is not None:
            log.warning("dashboard ended; starting it again", status=system.dashboard.returncode)
            _start_dashboard(system)
        finished, _ = ray.wait(list(system.runs.values()), timeout=0)
        for name, run in list(system.runs.items()):
            if run in finished:  # `run` never ends by itself: it raised
                try:
                    ray.get(run)
                except Exception as error:  # noqa: BLE001 - logged by its type; it starts again below
                    log.error("component failed; starting it again", actor=name, error=error)
                system.runs[name] = system.actors[name].run.remote()
        time.sleep(interval)
