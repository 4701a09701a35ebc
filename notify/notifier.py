"""Looks for due alerts and unpublished events; the Ray actor around it is a thin shell."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from edgerad import ledger
from edgerad.database import Database
from edgerad.records import Alert, AlertEvent, Outbox, now
from edgerad.settings import NotifySettings, Settings
from edgerad.telemetry import get_logger
from notify import alerts, outbox
from notify.alerts import Notice
from notify.channels import Channel, configured
from notify.channels.webhook import ChannelError

if TYPE_CHECKING:
    from kafka import KafkaProducer

COMPONENT = "notifier"
REPORT_EVERY = 10.0


def step(database: Database, channels: Sequence[Channel], settings: NotifySettings, at: datetime) -> int:
    """Send every due alert over every channel; return how many were due.

    Sent is not acknowledged: after `escalate_after` an alert that is still open is due again, one level higher. A
    channel that failed is tried again after a growing pause.
    """
    with database.read() as session:
        notices = alerts.due(session, at)
    for notice in notices:
        failures = {channel.name: _try(channel, notice) for channel in channels}
        _note(database, notice, failures, settings, at)
    return len(notices)


def _try(channel: Channel, notice: Notice) -> str | None:
    try:
        channel.send(notice)
    except ChannelError as error:
        return str(error)
    return None


def _note(
    database: Database, notice: Notice, failures: dict[str, str | None], settings: NotifySettings, at: datetime
) -> None:
    failed = any(reason is not None for reason in failures.values())
    with database.write() as session:
        alert = session.get(Alert, notice.alert_id, with_for_update=True)
        if alert is None or alert.state != "open":
            return  # a person was faster
        for channel, reason in failures.items():
            kind = "sent" if reason is None else "failed"
            session.add(AlertEvent(alert_id=alert.alert_id, kind=kind, channel=channel, detail=reason or ""))
        if failed:
            alert.attempts = notice.attempts + 1
            alert.next_attempt_at = at + alerts.retry_after(alert.attempts, settings)
            return
        alert.attempts = 0
        alert.level = notice.level + 1
        alert.next_attempt_at = at + timedelta(seconds=settings.escalate_after)
        if notice.level > 0:
            session.add(AlertEvent(alert_id=alert.alert_id, kind="escalated", channel="clock"))


class NotifierActor:
    """Thin Ray actor: looks every `poll_interval` seconds; a dead database or broker only delays it."""

    def __init__(self, settings: Settings) -> None:
        """Open the database and the channels."""
        from edgerad.telemetry import configure_logging

        configure_logging(settings.telemetry)
        self._settings = settings
        self._database = Database(settings.database_url)
        self._channels = configured(settings.notify)
        self._producer: KafkaProducer | None = None
        self._log = get_logger(COMPONENT)

    def run(self) -> None:
        """Look for work until the actor ends."""
        reported = 0.0
        while True:
            try:
                step(self._database, self._channels, self._settings.notify, now())
                while outbox.relay(self._database, self._publisher()) == outbox.BATCH:
                    pass
                if time.monotonic() - reported > REPORT_EVERY:
                    self._report()
                    reported = time.monotonic()
            except SQLAlchemyError as error:
                self._log.warning("database does not answer; trying again", error=error)
            time.sleep(self._settings.notify.poll_interval)

    def _publisher(self) -> outbox.Publish:
        if not self._settings.kafka.bootstrap_servers:
            return outbox.keep
        from kafka.errors import KafkaError

        from edgerad import bus

        try:
            if self._producer is None:
                self._producer = bus.producer(self._settings.kafka, request_timeout_ms=10_000)
        except KafkaError as error:
            self._log.warning("Kafka does not answer; events wait in the outbox", error=error)
            return lambda _: 0
        return outbox.to_kafka(self._producer)

    def _report(self) -> None:
        with self._database.read() as session:
            waiting = session.scalar(select(func.count()).where(Outbox.published_at.is_(None))) or 0
            open_alerts = session.scalar(select(func.count()).where(Alert.state == "open")) or 0
        ledger.report(
            self._database,
            COMPONENT,
            {"outbox": waiting, "alerts_open": open_alerts, "channels": len(self._channels)},
        )
