"""The HTTP gateway: S3 events into Kafka, STOW-RS into the object store, health and metrics."""

from __future__ import annotations

import base64
import hmac
import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException, Request, Response
from starlette.requests import ClientDisconnect

from edgerad import http_limits
from edgerad.sections import GatewaySettings, ReceiverSettings
from edgerad.store import ObjectStore, StoreError
from edgerad.telemetry import get_logger
from edgerad.webdoor import Door, Names
from ingest import events
from ingest.events import PoisonedRecord
from ingest.multipart import BodyLimits, MultipartError
from ingest.spool import Spool
from ingest.stow import store_parts

if TYPE_CHECKING:
    from edgerad.settings import Settings

Produce = Callable[[Sequence[tuple[str, bytes]]], None]
"""Make (key, value) records durable in Kafka, all of them, or raise NotDurable."""
READY_SECONDS = 5.0
"""Longest wait for Kafka's answer when somebody asks whether the gateway is ready."""
METHODS = frozenset({"GET", "HEAD", "POST"})
ADVICE = "An administrator can add the name to the setting gateway.allowed_hosts."
UNNAMED = "unnamed"
"""Kafka key of what names no object: a store's test event, a poisoned entry."""


class NotDurable(Exception):
    """Kafka did not confirm a record in time."""


@dataclass
class Doors:
    """What the gateway works with; `produce` is None without Kafka, then `nudge` tells the sweep to look."""

    settings: GatewaySettings
    token: str
    store: ObjectStore
    spool: Spool
    metrics: Callable[[], bytes]
    produce: Produce | None = None
    nudge: Callable[[], None] = lambda: None
    kafka_answers: Callable[[], bool] = lambda: True
    max_object_bytes: int = ReceiverSettings().max_object_bytes


def create_app(doors: Doors) -> FastAPI:
    """Return the application; see docs/ingest.md for its resources. ValueError when the token is empty."""
    if not doors.token.strip():
        msg = "the gateway's token is empty: everybody could send"
        raise ValueError(msg)
    app = FastAPI(title="edgerad gateway", docs_url=None, redoc_url=None, openapi_url=None)
    names = Names(doors.settings.host, doors.settings.allowed_hosts)
    app.add_middleware(Door, names=names, methods=METHODS, advice=ADVICE)
    log = get_logger("gateway")
    limits = BodyLimits(doors.settings.max_stow_bytes, doors.settings.max_stow_parts, doors.max_object_bytes)

    @app.exception_handler(ClientDisconnect)
    async def gone(_request: Request, _error: Exception) -> Response:
        log.warning("a request ended in the middle; nothing of it was kept")
        return Response(status_code=400)

    @app.post("/s3-events")
    async def s3_events(request: Request) -> Response:
        _authorise(request, doors.token)
        sent = await _read(request, doors.settings.max_event_bytes)
        body = _out_of_sns(sent, doors.settings.sns_topics)
        if body is None:
            log.warning("SNS asks for a confirmation; confirm it by hand if the topic is yours")
            return Response(status_code=200)
        records = split(body)
        if doors.produce is None:
            doors.nudge()  # without Kafka the object itself is what is durable, and the sweep will find it
            return Response(status_code=202)
        import asyncio

        try:
            await asyncio.to_thread(doors.produce, records)
        except NotDurable:
            raise HTTPException(503, "Kafka did not confirm; send it again", {"Retry-After": "5"}) from None
        return Response(status_code=204)

    @app.post("/dicom-web/studies")
    @app.post("/dicom-web/studies/{study}")
    async def stow(request: Request, study: str | None = None) -> Response:
        _authorise(request, doors.token)
        try:
            status, content = await store_parts(request, doors.store, doors.spool, limits, study)
        except MultipartError as error:
            retry = {"Retry-After": "30"} if error.status == 503 else None
            raise HTTPException(error.status, str(error), retry) from None
        doors.nudge()
        headers = {"Retry-After": "5"} if status == 503 else {}
        return Response(json.dumps(content), status, headers, "application/dicom+json")

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    def readyz() -> dict[str, str]:
        try:
            doors.store.check()
        except StoreError as error:
            raise HTTPException(503, str(error)) from None
        if not doors.kafka_answers():
            raise HTTPException(503, "Kafka does not answer; see kafka.bootstrap_servers")
        return {"status": "ready"}

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(doors.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def _authorise(request: Request, token: str) -> None:
    """Raise 401 unless the token comes as Bearer, or as the password of Basic credentials."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    given = value if scheme.lower() == "bearer" else ""
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:
            given = ""
    if not hmac.compare_digest(given.encode(), token.encode()):
        raise HTTPException(401, "the gateway's token is missing or wrong", {"WWW-Authenticate": "Bearer"})


async def _read(request: Request, limit: int) -> bytes:
    """Read a body up to a limit; raises 413 without reading on."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise HTTPException(413, f"more than {limit} bytes; raise gateway.max_event_bytes if that is right")
    return bytes(body)


def _out_of_sns(body: bytes, topics: Sequence[str]) -> bytes | None:
    """Return the S3 event out of an SNS envelope, the body itself without one, None for a confirmation request.

    Confirmation URLs are never fetched: whoever can post here could make the gateway call anything.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON") from None
    if not isinstance(content, dict):
        raise HTTPException(400, "the body is no S3 event")
    if "Type" not in content or "TopicArn" not in content:
        return body
    if content["TopicArn"] not in topics:
        raise HTTPException(403, "this SNS topic is not in gateway.sns_topics")
    if content["Type"] != "Notification":
        return None
    return str(content.get("Message", "")).encode(errors="replace")


def split(body: bytes) -> list[tuple[str, bytes]]:
    """Return (Kafka key, record) of each event of a message; raises 400 for what is no S3 event. See `events.split`."""
    try:
        records = events.split(body)
    except PoisonedRecord as error:
        raise HTTPException(400, f"no S3 event: {error}") from None
    return [(study or UNNAMED, record) for study, record in records]


class GatewayActor:
    """Thin Ray actor: uvicorn in a thread, on a port that stays the same over restarts."""

    def __init__(self, settings: Settings) -> None:
        """Listen as soon as the actor lives."""
        import threading

        from edgerad import metrics
        from edgerad.database import Database
        from edgerad.store import config_from
        from edgerad.telemetry import configure_logging

        configure_logging(settings.telemetry)
        database = Database(settings.database_url)
        kafka = settings.kafka.bootstrap_servers is not None
        producer = KafkaDoor(settings) if kafka else None
        doors = Doors(
            settings.gateway,
            settings.gateway.token.reveal() or "",
            ObjectStore(config_from(settings.store)),
            Spool(settings.data_dir / "spool-stow"),
            lambda: metrics.render(database),
            producer.produce if producer else None,
            lambda: None if kafka else _nudge(),
            producer.answers if producer else lambda: True,
            settings.receiver.max_object_bytes,
        )
        listener = listen(settings.gateway.host, settings.gateway.port, settings.data_dir / "run" / "gateway.port")
        self._address = f"http://{settings.gateway.host}:{listener.getsockname()[1]}"
        server = http_limits.server(create_app(doors))
        threading.Thread(target=server.run, args=([listener],), daemon=True).start()

    def address(self) -> str:
        """Return the URL."""
        return self._address


def listen(host: str, port: int, kept: Path) -> socket.socket:
    """Return a bound socket; with port 0 on the free one of before, kept in a file, unless another took it since."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port or (int(kept.read_text(encoding="utf-8")) if kept.exists() else 0)))
    except OSError:
        if port:
            listener.close()
            raise
        listener.bind((host, 0))
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(str(listener.getsockname()[1]), encoding="utf-8")
    return listener


def _nudge() -> None:
    import ray

    try:
        ray.get_actor("ingest-0").nudge.remote()
    except ValueError:  # it is just being restarted, and will look by itself
        return


class KafkaDoor:
    """Produces records and waits until Kafka has confirmed them; connects when first needed."""

    def __init__(self, settings: Settings) -> None:
        """Keep where to produce to."""
        import threading

        self._kafka, self._timeout = settings.kafka, settings.gateway.kafka_timeout
        self._producer: Any = None
        self._connecting = threading.Lock()

    def _connected(self) -> Any:
        from kafka.errors import KafkaError

        from edgerad import bus

        # Whoever waits for another's attempt does not wait for longer than for an own one.
        if self._producer is None and self._connecting.acquire(timeout=self._timeout):
            timeout = int(self._timeout * 1000)
            try:
                self._producer = self._producer or bus.producer(
                    self._kafka, max_block_ms=timeout, delivery_timeout_ms=2 * timeout, request_timeout_ms=timeout
                )
            except KafkaError as error:
                raise NotDurable(type(error).__name__) from None
            finally:
                self._connecting.release()
        if self._producer is None:
            raise NotDurable("connecting")
        return self._producer

    def produce(self, records: Sequence[tuple[str, bytes]]) -> None:
        """Produce all records; raises NotDurable unless every one was confirmed in time."""
        from kafka.errors import KafkaError

        producer = self._connected()
        try:
            futures = [producer.send(self._kafka.topic_uploaded, value, key=key.encode()) for key, value in records]
            for future in futures:
                future.get(self._timeout)
        except (KafkaError, TimeoutError) as error:
            raise NotDurable(type(error).__name__) from None

    def answers(self) -> bool:
        """Return whether a broker answers."""
        from edgerad import bus

        return bus.answers(self._kafka, min(self._timeout, READY_SECONDS))

    def close(self) -> None:
        """Give up the connection."""
        if self._producer is not None:
            self._producer.close(timeout=self._timeout)
            self._producer = None
