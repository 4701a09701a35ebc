"""Kafka clients (kafka-python) built from the settings, and the topics that edgerad needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kafka import KafkaConsumer, KafkaProducer

    from edgerad.sections import KafkaSettings


def connection(settings: KafkaSettings) -> dict[str, Any]:
    """Return the keyword arguments by which every kafka-python client connects."""
    arguments: dict[str, Any] = {
        "bootstrap_servers": (settings.bootstrap_servers or "").split(","),
        "security_protocol": settings.security_protocol,
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


def producer(settings: KafkaSettings, **more: Any) -> KafkaProducer:
    """Return a producer whose send is durable (acks=all) and not doubled by its own retries (idempotent)."""
    from kafka import KafkaProducer

    return KafkaProducer(**connection(settings), **({"acks": "all", "enable_idempotence": True} | more))


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
    return KafkaConsumer(*topics, **connection(settings), **(defaults | more))


def ensure_topics(settings: KafkaSettings) -> None:
    """Create the topics that are missing; leaves existing ones as they are."""
    from kafka.admin import KafkaAdminClient, NewTopic
    from kafka.errors import TopicAlreadyExistsError

    admin = KafkaAdminClient(**connection(settings))
    try:
        for name in (settings.topic_uploaded, settings.topic_assessed, settings.topic_deadletter):
            topic = NewTopic(name, settings.partitions, settings.replication_factor)
            try:
                admin.create_topics([topic])
            except TopicAlreadyExistsError:
                continue
    finally:
        admin.close()
