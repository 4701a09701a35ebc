"""The lag that replicas scale on: the sum of what is fresh, over Ray's own store between processes."""

import json
import uuid

import pytest

from edgerad import lag


def reading(value: int, at: float) -> bytes:
    """Return a reading as it is kept."""
    return json.dumps({"lag": value, "at": at}).encode()


def test_fresh_readings_are_added() -> None:
    assert lag.total([reading(3, 100.0), reading(4, 99.0)], 101.0) == 7


def test_a_reading_of_one_that_is_gone_holds_nothing_up() -> None:
    old = reading(1000, 100.0)
    assert lag.total([old, reading(4, 114.0)], 100.0 + lag.STALE_AFTER_S) == 4
    assert lag.total([old], 100.0 + lag.STALE_AFTER_S) is None, "no reading is not a lag of 0"
    assert lag.total([old], 100.0 + lag.STALE_AFTER_S - 0.1) == 1000


def test_a_reading_from_the_future_does_not_count() -> None:
    ahead = json.dumps({"lag": 1000, "at": 36_100.0}).encode()
    assert lag.total([ahead], 100.0) is None, "the clock was 10 h ahead when it was written"


def test_without_readings_there_is_no_lag() -> None:
    assert lag.total([], 1.0) is None


@pytest.mark.ray
def test_what_an_actor_publishes_another_process_reads(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(lag, "KV_NAMESPACE", f"test-{uuid.uuid4().hex}")
    assert lag.read() is None
    namespace = lag.KV_NAMESPACE

    def send(source: str, value: int) -> None:
        lag.KV_NAMESPACE = namespace
        lag.publish(source, value)

    publish = ray.remote(num_cpus=0)(send)
    ray.get([publish.remote("ingest-0", 5), publish.remote("ingest-1", 7)])
    assert lag.read() == 12
    ray.get(publish.remote("ingest-0", 0))
    assert lag.read() == 7, "the newest of a source counts"
