"""Looks for due alerts and unpublished events; the Ray actor around it is a thin shell."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from edgerad import clock, ledger
from edgerad.database import Database
from edgerad.records import Alert, AlertEvent, Outbox, now
from edgerad.sections import NotifySettings
from edgerad.settings import Settings
from edgerad.telemetry import get_logger
from notify import alerts, outbox
from notify.alerts import Notice
from notify.channels import Channel, ChannelError, Unreachable, configured

if TYPE_CHECKING:
    from kafka import KafkaProducer

COMPONENT = "notifier"
REPORT_EVERY = 10.0
DELIVERY_MS = 10_000
"""After this the producer gives a record up; the relay waits longer, so that none it sends again is still under way."""


def step(database: Database, channels: Sequence[Channel], settings: NotifySettings, at: datetime) -> int:
    """Send the due alerts over every channel; return how many were tried.

    Sent is not acknowledged: an alert that is still open is due again, one level higher, each time that
    `escalate_after` has passed. One that a channel did not take is due again after a growing pause. Where nobody
    answers, the other alerts wait for the next step, so that a dead receiver does not hold up this one for long.
    """
    with database.read() as session:
        notices = alerts.due(session, at, settings)
    for tried, notice in enumerate(notices, start=1):
        failures = {channel.name: _try(channel, notice) for channel in channels}
        _note(database, notice, failures, settings, at)
        if any(isinstance(failure, Unreachable) for failure in failures.values()):
            return tried
    return len(notices)


def _try(channel: Channel, notice: Notice) -> ChannelError | None:
    try:
        channel.send(notice)
    except ChannelError as error:
        return error
    return None


def _note(
    database: Database,
    notice: Notice,
    failures: dict[str, ChannelError | None],
    settings: NotifySettings,
    at: datetime,
) -> None:
    with database.write() as session:
        alert = session.get(Alert, notice.alert_id, with_for_update=True)
        if alert is None:
            return
        events = [
            ("failed", name, str(failure)) if failure else ("sent", name, "") for name, failure in failures.items()
        ]
        is_open = alert.state == "open"  # or a person was faster: then what was sent is noted, and nothing follows
        if is_open:
            if clock.is_ahead(alert.opened_at, at):
                events.insert(0, ("clock", "clock", "opened in the future: it counts from now"))
                alert.opened_at = at
            if notice.level > alert.level:
                events.insert(0, ("escalated", "clock", f"level {notice.level}"))
            alert.level = notice.level  # lower than before when the clock was ahead
        for kind, channel, detail in events:
            session.add(AlertEvent(alert_id=alert.alert_id, kind=kind, channel=channel, detail=detail))
        if not is_open or alerts.reopened(session, alert.alert_id) != notice.reopened:
            return  # one that was acknowledged and opened again during the call stays due at once
        alert.next_attempt_at = alerts.next_level_at(alert.opened_at, at, settings)
        if any(failures.values()):
            alert.attempts = notice.attempts + 1
            alert.next_attempt_at = min(alert.next_attempt_at, at + alerts.retry_after(alert.attempts, settings))
        else:
            alert.attempts = 0


class NotifierActor:
    """Thin Ray actor: looks every `poll_interval` seconds; a dead database, receiver or broker only delays it."""

    def __init__(self, settings: Settings) -> None:
        """Open the database and the channels."""
        from edgerad.telemetry import configure_logging

        configure_logging(settings.telemetry)
        self._settings = settings
        self._database = Database(settings.database_url)
        self._channels = configured(settings.notify)
        self._producer: KafkaProducer | None = None
        self._relay: threading.Thread | None = None
        self._reported = 0.0
        self._log = get_logger(COMPONENT)

    def run(self) -> None:
        """Look for work until the actor ends, or raise; outbox and alerts do not wait for each other."""
        if self._relay is None or not self._relay.is_alive():
            self._relay = threading.Thread(target=self._repeat, args=(self._publish,), name="outbox", daemon=True)
            self._relay.start()
        self._repeat(self._alert)

    def _repeat(self, work: Callable[[], None]) -> None:
        while True:
            try:
                work()
            except SQLAlchemyError as error:
                self._log.warning("database does not answer; trying again", error=error)
            time.sleep(self._settings.notify.poll_interval)

    def _alert(self) -> None:
        if self._relay is None or not self._relay.is_alive():
            msg = "the outbox relay ended; it is started again with this actor's run"
            raise RuntimeError(msg)
        step(self._database, self._channels, self._settings.notify, now())
        if time.monotonic() - self._reported > REPORT_EVERY:
            self._report()
            self._reported = time.monotonic()

    def _publish(self) -> None:
        while outbox.relay(self._database, self._publisher()) == outbox.BATCH:
            pass

    def _publisher(self) -> outbox.Publish:
        if not self._settings.kafka.bootstrap_servers:
            return outbox.keep
        from kafka.errors import KafkaError

        from edgerad import bus

        try:
            if self._producer is None:
                self._producer = bus.producer(
                    self._settings.kafka,
                    request_timeout_ms=DELIVERY_MS // 2,
                    delivery_timeout_ms=DELIVERY_MS,
                    max_block_ms=DELIVERY_MS,
                    bootstrap_timeout_ms=DELIVERY_MS,
                )
        except KafkaError as error:
            self._log.warning("Kafka does not answer; events wait in the outbox", error=error)
            return lambda _: 0
        return outbox.to_kafka(self._producer, timeout=DELIVERY_MS / 1000 * 1.5)

    def _report(self) -> None:
        with self._database.read() as session:
            waiting = session.scalar(select(func.count()).where(Outbox.published_at.is_(None))) or 0
            open_alerts = session.scalar(select(func.count()).where(Alert.state == "open")) or 0
        ledger.report(
            self._database,
            COMPONENT,
            {"outbox": waiting, "alerts_open": open_alerts, "channels": len(self._channels)},
        )
