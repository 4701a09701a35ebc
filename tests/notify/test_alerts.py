"""Alerts stay open until a person acknowledges; they escalate by the clock, whatever the receiver does."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from edgerad import decisions, ledger
from edgerad.database import Database
from edgerad.ledger import NewImage, ShipPolicy
from edgerad.records import Alert, AlertEvent
from edgerad.scoring import Scored
from edgerad.sections import NotifySettings
from notify import alerts
from notify.alerts import Notice
from notify.channels import ChannelError, Unreachable
from notify.notifier import step

START = datetime(2026, 3, 1, tzinfo=UTC)
SETTINGS = NotifySettings(escalate_after=900, retry_initial=5, retry_max=300)
MODEL = "m" * 64


class Phone:
    """A channel that notes what it is told, and fails when asked to."""

    name = "phone"

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []
        self.payloads: list[dict[str, object]] = []
        self.error: ChannelError | None = None

    def send(self, notice: Notice) -> None:
        if self.error is not None:
            raise self.error
        self.heard.append((notice.alert_id, notice.level))
        self.payloads.append(notice.payload)


@pytest.fixture
def database(tmp_database_url: str) -> Iterator[Database]:
    """Three high images, their alerts opened a second apart."""
    database = Database(tmp_database_url)
    database.upgrade()
    for number in range(3):
        image = NewImage("xray", f"doe-{number}.dcm", f"{number:032x}", None, 1, None, "kafka")
        ledger.register(database, [image])
        scored = Scored(
            image.image_id, "pneumonia", 0.93, 2.0, "high", MODEL, "cal-7", "thr-9", "litert", 0.1,
            {"PatientName": "Doe^Jane", "PatientID": "4711"},
        )  # fmt: skip
        ledger.record(database, [scored], {}, ShipPolicy(False, 0), "xray.assessed")
        with database.write() as session:
            opened = START + timedelta(seconds=number)
            session.execute(update(Alert).where(Alert.image_id == image.image_id).values(opened_at=opened))
    yield database
    database.close()


def opened(database: Database) -> list[Alert]:
    """Return the alerts, the oldest first."""
    with database.read() as session:
        return list(session.scalars(select(Alert).order_by(Alert.opened_at)))


def events(database: Database, alert_id: str) -> list[tuple[str, str, str]]:
    """Return what happened to an alert."""
    with database.read() as session:
        query = select(AlertEvent).where(AlertEvent.alert_id == alert_id).order_by(AlertEvent.alert_event_id)
        return [(row.kind, row.channel, row.detail) for row in session.scalars(query)]


def test_an_alert_is_sent_once_and_again_a_level_higher_until_it_is_acknowledged(database: Database) -> None:
    phone = Phone()
    first = opened(database)[0].alert_id
    at = START + timedelta(seconds=10)
    assert step(database, [phone], SETTINGS, at) == 3
    assert step(database, [phone], SETTINGS, at + timedelta(seconds=600)) == 0, "sent, and its time has not come"
    assert [row.state for row in opened(database)] == ["open"] * 3, "sent is not acknowledged"
    assert step(database, [phone], SETTINGS, START + timedelta(seconds=900)) == 1, "the oldest alone is 900 s old"
    decisions.acknowledge(database, first, "Ada")
    assert step(database, [phone], SETTINGS, START + timedelta(seconds=1810)) == 2
    assert [level for alert, level in phone.heard if alert == first] == [0, 1]
    assert {level for alert, level in phone.heard[4:]} == {2}, "levels follow the clock, not the number of letters"
    assert events(database, first) == [
        ("opened", "dashboard", ""), ("sent", "phone", ""), ("escalated", "clock", "level 1"), ("sent", "phone", ""),
        ("acknowledged", "dashboard", ""),
    ]  # fmt: skip


def test_a_failure_is_tried_again_with_growing_pauses_and_the_level_rises_all_the_same(database: Database) -> None:
    phone = Phone()
    phone.error = ChannelError("status 503")
    at = START + timedelta(seconds=3)
    pauses = []
    for _ in range(4):
        assert step(database, [phone], SETTINGS, at) == 3
        due = max(row.next_attempt_at or at for row in opened(database))
        pauses.append((due - at).total_seconds())
        assert (
            step(
                database,
                [phone],
                SETTINGS,
                min(row.next_attempt_at or at for row in opened(database)) - timedelta(seconds=0.01),
            )
            == 0
        )
        at = due
    for number, pause in enumerate(pauses):
        assert 2.5 * 2**number <= pause <= 5 * 2**number
    step(database, [phone], SETTINGS, START + timedelta(seconds=2000))
    assert [row.level for row in opened(database)] == [2, 2, 2]
    phone.error = None
    late = START + timedelta(seconds=2400)
    assert step(database, [phone], SETTINGS, late) == 3
    assert {row.attempts for row in opened(database)} == {0}
    assert {level for _, level in phone.heard} == {2}
    kinds = [kind for kind, _, _ in events(database, opened(database)[0].alert_id)]
    assert kinds == ["opened", "failed", "failed", "failed", "failed", "escalated", "failed", "sent"]


def test_when_nobody_answers_only_one_alert_is_tried_in_a_step(database: Database) -> None:
    phone = Phone()
    phone.error = Unreachable("ConnectTimeout")
    at = START + timedelta(seconds=3)
    tried = [step(database, [phone], SETTINGS, at + timedelta(seconds=n / 10)) for n in range(4)]
    assert tried == [1, 1, 1, 0], "each in its turn, then all wait"
    assert [row.attempts for row in opened(database)] == [1, 1, 1]


def test_one_channel_that_fails_keeps_no_other_from_being_told(database: Database) -> None:
    broken, phone = Phone(), Phone()
    broken.name, broken.error = "broken", ChannelError("status 500")
    step(database, [broken, phone], SETTINGS, START + timedelta(seconds=3))
    assert len(phone.heard) == 3
    kinds = {(kind, channel) for kind, channel, _ in events(database, opened(database)[0].alert_id)}
    assert kinds == {("opened", "dashboard"), ("failed", "broken"), ("sent", "phone")}


def test_without_channels_the_dashboard_is_the_channel_and_the_clock_goes_on(database: Database) -> None:
    assert step(database, [], SETTINGS, START + timedelta(seconds=3)) == 3
    assert step(database, [], SETTINGS, START + timedelta(seconds=2702)) == 3
    assert [row.level for row in opened(database)] == [3, 3, 3]


def test_an_acknowledgement_during_the_call_wins(database: Database) -> None:
    class Slow(Phone):
        def send(self, notice: Notice) -> None:
            decisions.acknowledge(database, notice.alert_id, "Ada")
            super().send(notice)

    slow = Slow()
    assert step(database, [slow], SETTINGS, START + timedelta(seconds=1000)) == 3
    for alert in opened(database):
        assert (alert.state, alert.level, alert.next_attempt_at) == ("acknowledged", 0, None)
        assert [kind for kind, _, _ in events(database, alert.alert_id)] == ["opened", "acknowledged", "sent"]
    assert step(database, [slow], SETTINGS, START + timedelta(seconds=9000)) == 0


def test_what_is_told_has_its_origin_and_no_patient(database: Database) -> None:
    phone = Phone()
    step(database, [phone], SETTINGS, START + timedelta(seconds=3))
    payload = phone.payloads[0]
    assert set(payload) == {
        "alert_id", "image_id", "finding", "probability", "triage", "model_digest", "calibration_version",
        "threshold_version", "opened_at", "level", "reopened",
    }  # fmt: skip
    assert (payload["model_digest"], payload["calibration_version"], payload["threshold_version"]) == (
        MODEL, "cal-7", "thr-9",
    )  # fmt: skip
    for secret in ("Doe", "4711", "dcm"):
        assert secret not in str(payload)


def test_zero_means_never_again(database: Database) -> None:
    phone = Phone()
    calm = NotifySettings(escalate_after=0)
    assert step(database, [phone], calm, START + timedelta(seconds=3)) == 3
    assert step(database, [phone], calm, START + timedelta(days=3000)) == 0


def test_a_withdrawn_acknowledgement_is_told_at_once_and_escalates_since_the_alert_was_opened(
    database: Database,
) -> None:
    phone = Phone()
    first = opened(database)[0].alert_id
    at = START + timedelta(seconds=10)
    step(database, [phone], SETTINGS, at)
    decisions.acknowledge(database, first, "Ada")
    assert step(database, [phone], SETTINGS, at + timedelta(seconds=1)) == 0
    decisions.withdraw_acknowledgement(database, first, "Ben", "Doe, Jane: the wrong patient")
    assert step(database, [phone], SETTINGS, at + timedelta(seconds=2)) == 1
    assert phone.heard[-1] == (first, 0)
    assert phone.payloads[-1]["reopened"] == 1
    assert "Doe" not in str(phone.payloads)
    assert step(database, [phone], SETTINGS, at + timedelta(seconds=3)) == 0
    decisions.acknowledge(database, first, "Ada")
    decisions.withdraw_acknowledgement(database, first, "Ben", "again")
    assert step(database, [phone], SETTINGS, START + timedelta(seconds=905)) == 3
    assert [heard for heard in phone.heard if heard[0] == first][-1] == (first, 1)
    assert {payload["reopened"] for payload in phone.payloads if payload["alert_id"] == first} == {0, 1, 2}


def test_what_is_opened_again_during_the_call_is_told_once_more(database: Database) -> None:
    class Hasty(Phone):
        def send(self, notice: Notice) -> None:
            super().send(notice)
            if len(self.heard) == 1:
                decisions.acknowledge(database, notice.alert_id, "Ada")
                decisions.withdraw_acknowledgement(database, notice.alert_id, "Ada", "wrong button")

    hasty = Hasty()
    assert step(database, [hasty], SETTINGS, START + timedelta(seconds=3)) == 3
    assert step(database, [hasty], SETTINGS, START + timedelta(seconds=4)) == 1
    assert hasty.heard[0] == hasty.heard[-1]


@pytest.mark.parametrize("channel", ["fails", "is not reached", "answers"])
@pytest.mark.parametrize("escalate_after", [900, 60, 0])
def test_a_clock_that_was_ahead_delays_neither_a_repeat_nor_an_escalation(
    database: Database, channel: str, escalate_after: int
) -> None:
    settings = NotifySettings(escalate_after=escalate_after, retry_initial=5, retry_max=300)
    phone = Phone()
    phone.error = {"fails": ChannelError("status 503"), "is not reached": Unreachable("x")}.get(channel)
    right = START + timedelta(seconds=30)
    for _ in range(3):
        step(database, [phone], settings, right + timedelta(hours=10))
    phone.error = None
    late = step(database, [phone], settings, right + timedelta(seconds=1))
    if channel != "answers" or escalate_after:
        assert late == 3
    assert {alert for alert, _ in phone.heard} == {row.alert_id for row in opened(database)}
    if escalate_after:
        assert {row.level for row in opened(database)} == {0}, "the level is that of the right clock again"
        after = START + timedelta(seconds=escalate_after + 3)
        assert step(database, [phone], settings, after) == 3
        assert {row.level for row in opened(database)} == {1}
    else:
        assert step(database, [phone], settings, right + timedelta(days=3000)) == 0


def test_an_alert_that_was_opened_by_a_clock_ahead_counts_from_when_that_is_seen(database: Database) -> None:
    for row in opened(database):
        with database.write() as session:
            moved = row.opened_at + timedelta(hours=10)
            session.execute(update(Alert).where(Alert.alert_id == row.alert_id).values(opened_at=moved))
    phone = Phone()
    step(database, [phone], SETTINGS, START + timedelta(hours=10, seconds=5))  # still ahead
    right = START + timedelta(seconds=60)
    assert step(database, [phone], SETTINGS, right) == 3
    assert [row.opened_at for row in opened(database)] == [right] * 3
    assert step(database, [phone], SETTINGS, right + timedelta(seconds=899)) == 0
    assert step(database, [phone], SETTINGS, right + timedelta(seconds=901)) == 3
    kinds = [kind for kind, _, _ in events(database, opened(database)[0].alert_id)]
    assert kinds == ["opened", "sent", "clock", "sent", "escalated", "sent"]


def test_a_clock_that_was_behind_and_is_set_right_delays_nothing(database: Database) -> None:
    phone = Phone()
    phone.error = ChannelError("status 503")
    right = START + timedelta(seconds=100)
    step(database, [phone], SETTINGS, right)
    assert step(database, [phone], SETTINGS, right - timedelta(hours=10)) == 3, "a pause in the far future is none"
    phone.error = None
    assert step(database, [phone], SETTINGS, right + timedelta(seconds=1)) == 3
    assert len({alert for alert, _ in phone.heard}) == 3


@given(st.integers(0, 10**6), st.floats(1, 10**4))
def test_the_next_level_comes_when_the_level_changes(age: int, escalate_after: float) -> None:
    settings = NotifySettings(escalate_after=escalate_after)
    at = START + timedelta(seconds=age)
    after = alerts.next_level_at(START, at, settings)
    assert after > at
    level = alerts.level(START, at, settings)
    assert alerts.level(START, after + timedelta(milliseconds=1), settings) == level + 1
    assert alerts.level(START, max(at, after - timedelta(milliseconds=1)), settings) == level


def test_pauses_are_capped_and_spread() -> None:
    assert alerts.retry_after(100, SETTINGS, jitter=1.0) == timedelta(seconds=300)
    assert alerts.retry_after(1, SETTINGS, jitter=0.5) == timedelta(seconds=2.5)
    spread = {alerts.retry_after(5, SETTINGS) for _ in range(20)}
    assert len(spread) > 10
    assert min(spread) >= timedelta(seconds=40)
    assert max(spread) <= timedelta(seconds=80)
