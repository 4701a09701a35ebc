"""Putting the parts together: embedded where nothing is set, announced to Kafka, taken apart whatever fails."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgerad import bus, cluster, compose, runfile
from edgerad.compose import System
from edgerad.database import Database
from edgerad.ids import study_key
from edgerad.preflight import CannotStart
from edgerad.s3server.disk import Entry
from edgerad.sections import TelemetrySettings
from edgerad.settings import Settings, load_settings
from edgerad.telemetry import configure_logging
from ingest.events import parse

ENTRY = Entry("a b/ä+c.dcm", "f", "e" * 32, 7, 0.0, {})


class Producer:
    """Kafka's producer, which keeps what is sent, or is down."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.sent: list[tuple[str, bytes, bytes]] = []
        self.fails = fails

    def send(self, topic: str, value: bytes, key: bytes) -> None:
        if self.fails:
            raise self.fails
        self.sent.append((topic, value, key))


def with_kafka(monkeypatch: pytest.MonkeyPatch, producer: Producer) -> Settings:
    """Return settings with a Kafka whose producer is ours."""
    monkeypatch.setattr(bus, "producer", lambda *_, **__: producer)
    return load_settings(kafka={"bootstrap_servers": "kafka:9092"})


def test_the_embedded_store_announces_as_a_store_of_its_own_does(monkeypatch: pytest.MonkeyPatch) -> None:
    producer = Producer()
    announce = compose._announcer(with_kafka(monkeypatch, producer))
    assert announce is not None
    announce("xray", ENTRY)
    announce("edgerad-core", ENTRY)
    ((topic, value, key),) = producer.sent
    assert (topic, key) == ("xray.uploaded", study_key(ENTRY.key).encode())
    assert json.loads(value)["Records"][0]["s3"]["object"]["size"] == 7
    (event,) = parse(value).created
    assert (event.bucket, event.key, event.etag) == ("xray", ENTRY.key, ENTRY.etag)


def test_what_kafka_does_not_take_fails_no_upload(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kafka.errors import KafkaTimeoutError

    configure_logging(TelemetrySettings())
    announce = compose._announcer(with_kafka(monkeypatch, Producer(KafkaTimeoutError())))
    assert announce is not None
    announce("xray", ENTRY)
    said = capsys.readouterr().err
    assert "the sweep will find it" in said
    assert "c.dcm" not in said


def test_without_kafka_nothing_is_announced() -> None:
    assert compose._announcer(load_settings()) is None


@pytest.mark.parametrize(("role", "made"), [
    ("edge", {"gateway-token", "site-secret"}), ("core", {"signing-key.pem"}),
    ("both", {"gateway-token", "site-secret", "signing-key.pem"}),
])  # fmt: skip
def test_each_role_makes_the_secrets_that_it_needs_once(tmp_path: Path, role: str, made: set[str]) -> None:
    settings = load_settings(role=role, data_dir=tmp_path)
    first = compose._with_secrets(settings)
    assert {path.name for path in (tmp_path / "keys").iterdir()} >= made
    assert all(path.stat().st_mode & 0o77 == 0 for path in (tmp_path / "keys").iterdir())
    assert compose._with_secrets(settings) == first, "the next start uses the same"
    if role != "edge":
        assert len(first.core.trusted_keys) == 1, "a core trusts what it signs"


def system(tmp_path: Path, **sections: Any) -> System:
    """Return a system that was not started."""
    settings = load_settings(data_dir=tmp_path, **sections)
    return System(settings, Database(settings.database_url))


def test_one_embedded_store_serves_both_roles(tmp_path: Path) -> None:
    found = system(tmp_path)
    try:
        settings = compose._start_store(found, found.settings)
        assert found.s3 is not None
        assert settings.store.endpoint_url == settings.core.store.endpoint_url == found.addresses["s3"]
        assert (settings.store.bucket, settings.core.store.bucket) == ("xray", "edgerad-core")
        compose._prepare_parts(settings)
        another = system(tmp_path)
        with pytest.raises(CannotStart, match="in use by another edgerad"):
            compose._start_store(another, another.settings)
    finally:
        compose.stop(found)


def test_a_configured_store_is_not_replaced(tmp_path: Path) -> None:
    own = {"endpoint_url": "http://store", "access_key": {"value": "k"}, "secret_key": {"value": "s"}}
    found = system(tmp_path, role="edge", store=own)
    assert compose._start_store(found, found.settings) == found.settings
    assert found.s3 is None
    core = system(tmp_path, role="core", core={"store": own})
    assert compose._start_store(core, core.settings) == core.settings


def test_a_failed_start_leaves_nothing_and_the_next_can_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[str] = []

    def fail(*_: Any) -> None:
        began.append("ray")
        run = runfile.read(tmp_path)
        assert run is not None
        assert run.state == "starting"
        raise CannotStart("no Ray")

    monkeypatch.setattr(cluster, "connect", fail)
    monkeypatch.setattr(cluster, "disconnect", lambda: began.append("left"))
    before = dict(os.environ)
    settings = load_settings(data_dir=tmp_path, receiver={"port": 0}, gateway={"port": 0}, dashboard={"port": 0})
    try:
        for _ in range(2):
            with pytest.raises(CannotStart, match="no Ray"):
                compose.start(settings)
            assert runfile.read(tmp_path) is None
            with runfile.claim(tmp_path):
                pass
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert began == ["ray", "left"] * 2


@pytest.mark.parametrize(
    ("done", "digest", "trouble", "said"),
    [
        (True, "a" * 64, None, None),
        (True, "a" * 64, "bundle b is damaged", {"model_digest": "a" * 64, "reason": "bundle b is damaged"}),
        (True, None, "bundle b is damaged", {"reason": "bundle b is damaged"}),
        (False, None, None, {"seconds": compose.FIRST_MODEL_WITHIN}),
    ],
)
def test_a_start_goes_on_without_a_model_and_logs_why(
    monkeypatch: pytest.MonkeyPatch, done: bool, digest: str | None, trouble: str | None, said: dict[str, Any] | None
) -> None:
    import ray
    import structlog.testing

    rollout = SimpleNamespace(trouble=SimpleNamespace(remote=lambda: trouble))
    monkeypatch.setattr(ray, "wait", lambda refs, timeout: (refs, []) if done and timeout else ([], refs))
    monkeypatch.setattr(ray, "get", lambda value: value)
    with structlog.testing.capture_logs() as logs:
        compose._wait_for_model(rollout, digest)
    assert [line["log_level"] for line in logs] == (["error"] if said else [])
    assert not said or said.items() <= logs[0].items()
