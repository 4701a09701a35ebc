"""Kafka clients (kafka-python) built from the settings, and the topics that edgerad needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kafka import KafkaConsumer, KafkaProducer

    from edgerad.sections import KafkaSettings


RECONNECT_MS = 2000
"""Longest pause before another attempt to connect; kafka-python's own grows to 30 s, and so would each recovery."""


START_MS = 10_000
"""How long a start waits for a broker to answer."""


def connection(settings: KafkaSettings) -> dict[str, Any]:
    """Return the keyword arguments by which every kafka-python client connects."""
    arguments: dict[str, Any] = {
        "bootstrap_servers": (settings.bootstrap_servers or "").split(","),
        "security_protocol": settings.security_protocol,
        "reconnect_backoff_max_ms": RECONNECT_MS,
    }
    if settings.security_protocol.startswith("SASL"):
        arguments |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password.reveal(),
        }
    files = {
        "ssl_cafile": settings.ssl_cafile,
        "ssl_certfile": settings.ssl_certfile,
        "ssl_keyfile": settings.ssl_keyfile,
    }
    return arguments | {name: str(path) for name, path in files.items() if path}


def _client(kind: Callable[..., Any], *topics: str, **arguments: Any) -> Any:
    """Return a client of a kind; raises KafkaError when no broker answers, leaving no thread or socket behind.

    A consumer or admin client starts its thread before it connects, and kafka-python 3.0 leaves it running when that
    fails: a reader that tries again through a long outage would run out of file descriptors.
    """
    from kafka.net.compat import KafkaNetClient

    started: list[Any] = []

    def start(**config: Any) -> Any:
        started.append(KafkaNetClient(**config))
        return started[-1]

    try:
        return kind(*topics, kafka_client=start, **arguments)
    except BaseException:
        for client in started:
            client.close()
        raise


def producer(settings: KafkaSettings, **more: Any) -> KafkaProducer:
    """Return a producer whose send is durable (acks=all) and not doubled by its own retries (idempotent).

    Raises KafkaError when no broker answers within `max_block_ms`, where given.
    """
    from kafka import KafkaProducer

    defaults = {"acks": "all", "enable_idempotence": True}
    if "max_block_ms" in more:
        defaults["bootstrap_timeout_ms"] = more["max_block_ms"]
    return _client(KafkaProducer, **connection(settings), **(defaults | more))


def sender(producer: KafkaProducer, settings: KafkaSettings, timeout: float = 10.0) -> Callable[..., None]:
    """Return a function that sends (value, key) to `xray.uploaded`: durable when it returns, else a KafkaError."""

    def send(value: bytes, key: bytes | None = None) -> None:
        producer.send(settings.topic_uploaded, value, key=key).get(timeout)

    return send


def consumer(settings: KafkaSettings, *topics: str, **more: Any) -> KafkaConsumer:
    """Return a consumer of the ingest group that commits only when told to and starts at the oldest record."""
    from kafka import KafkaConsumer

    defaults = {
        "group_id": settings.group,
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "session_timeout_ms": int(settings.session_timeout * 1000),
        "heartbeat_interval_ms": int(settings.session_timeout * 1000 / 5),
    }
    return _client(KafkaConsumer, *topics, **connection(settings), **(defaults | more))


class _Ended:
    """A join that has ended, shown as under way, so that the client takes its result."""

    is_done = False

    def __init__(self, join: Any) -> None:
        """Wrap the client's future."""
        self._join = join

    def __getattr__(self, name: str) -> Any:
        """Return what the future has."""
        return getattr(self._join, name)

    def __await__(self) -> Any:
        """Wait for the future."""
        return self._join.__await__()


def keep_join(consumer: KafkaConsumer) -> None:
    """Have the next poll go on with a join of the group that the last one left under way; to be called before each.

    kafka-python 3.0.12 throws away a join that ends between two polls and begins another, which has every other
    reader join again: two readers that poll in turn never settle. It also forgets a join under way when the change of
    metadata that called for it is undone meanwhile, and then never ends it.
    """
    coordinator = consumer._coordinator
    if (join := coordinator._join_task) is not None:
        coordinator.request_rejoin()
        if join.is_done:
            coordinator._join_task = _Ended(join)


def answers(settings: KafkaSettings, timeout: float) -> bool:
    """Return whether a broker answers within `timeout` seconds."""
    from kafka.admin import KafkaAdminClient
    from kafka.errors import KafkaError

    limit = int(timeout * 1000)
    try:
        admin = _client(KafkaAdminClient, **connection(settings), bootstrap_timeout_ms=limit, request_timeout_ms=limit)
    except KafkaError:
        return False
    try:
        admin.describe_cluster()
    except KafkaError:
        return False
    finally:
        admin.close()
    return True


def ensure_topics(settings: KafkaSettings) -> None:
    """Create the topics that are missing; leaves existing ones as they are."""
    from kafka.admin import KafkaAdminClient, NewTopic
    from kafka.errors import TopicAlreadyExistsError

    admin = _client(KafkaAdminClient, **connection(settings), bootstrap_timeout_ms=START_MS)
    try:
        for name in (settings.topic_uploaded, settings.topic_assessed, settings.topic_deadletter):
            topic = NewTopic(name, settings.partitions, settings.replication_factor)
            try:
                admin.create_topics([topic])
            except TopicAlreadyExistsError:
                continue
    finally:
        admin.close()
