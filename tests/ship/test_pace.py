"""When and how fast: the window by the time of day, the pace by what the socket gets."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgerad.s3server import S3Server
from edgerad.sections import ShipSettings
from edgerad.store import ObjectStore, StoreConfig
from ship.pace import PIECE, Pace, Window


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("", ["00:00", "12:00", "23:59"], []),
        ("08:00-18:00", ["08:00", "17:59"], ["07:59", "18:00", "00:00"]),
        ("22:00-06:00", ["22:00", "23:59", "00:00", "05:59"], ["06:00", "12:00", "21:59"]),
        ("06:00-06:00", ["00:00", "06:00", "23:59"], []),
    ],
)
def test_a_window_is_open_from_its_start_to_its_end_over_midnight_too(
    window: str, inside: list[str], outside: list[str]
) -> None:
    parsed = Window.parse(ShipSettings(window=window).window)
    assert all(parsed.is_open(dt.time.fromisoformat(at)) for at in inside)
    assert not any(parsed.is_open(dt.time.fromisoformat(at)) for at in outside)


@pytest.mark.parametrize("window", ["8-18", "24:00-06:00", "22:00", "22:00-06:60", "always"])
def test_a_window_that_is_none_is_a_wrong_setting(window: str) -> None:
    with pytest.raises(ValueError, match="window"):
        ShipSettings(window=window)


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.at, self.slept = 100.0, [0.0]

    def sleep(self, seconds: float) -> None:
        self.at += seconds
        self.slept.append(seconds)


def test_uploads_together_take_no_more_than_the_limit_and_without_bursts(tmp_path: Path) -> None:
    time = Time()
    pace = Pace(100_000, lambda: time.at, time.sleep)
    data = bytes(range(256)) * 2000
    with S3Server(tmp_path, "ak", "sk") as server:
        store = ObjectStore(StoreConfig(server.endpoint_url, "core", "ak", "sk"))
        store.ensure_bucket()
        pace.attach(store)
        pace.attach(store)
        for key in ("a", "b"):
            store.put(key, pace.body(data))
            assert store.get(key) == data
    sent = 2 * len(data)
    seconds = time.at - 100.0
    assert seconds == pytest.approx((sent - sent % PIECE) / 100_000, rel=0.05), "counted when sent, not when signed"
    assert max(time.slept) <= PIECE / 100_000 * 1.01


def test_a_body_that_is_sent_again_is_whole(tmp_path: Path) -> None:
    time = Time()
    pace = Pace(100_000, lambda: time.at, time.sleep)
    data = hashlib.sha256(b"x").digest() * 10_000
    failures = [True]
    with S3Server(tmp_path, "ak", "sk") as server:
        store = ObjectStore(replace(StoreConfig(server.endpoint_url, "core", "ak", "sk"), max_attempts=2))
        store.ensure_bucket()
        pace.attach(store)

        def fail_once(**_: Any) -> Any:
            from botocore.exceptions import EndpointConnectionError

            if failures:
                failures.clear()
                raise EndpointConnectionError(endpoint_url="x")

        store.client.meta.events.register("before-send.s3", fail_once)
        store.put("k", pace.body(data))
        assert store.get("k") == data
    assert failures == []
    assert time.at - 100.0 == pytest.approx(len(data) / 100_000, rel=0.1), "signed twice, sent once"


def test_without_a_limit_nothing_is_in_between() -> None:
    assert Pace(0).body(b"data") == b"data"
