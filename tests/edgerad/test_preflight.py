"""What is wrong before the start is told in one line that names the setting and what to do, without a secret."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from edgerad import preflight
from edgerad.database import Database
from edgerad.preflight import CannotStart
from edgerad.settings import Settings, SettingsError, load_settings
from edgerad.store import ObjectStore, config_from

KEYS = {"access_key": {"value": "k"}, "secret_key": {"value": "hush"}}


def settings(**sections: Any) -> Settings:
    """Return settings with these sections."""
    return load_settings(None, **sections)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"store": {"endpoint_url": "http://s"}}, r"setting store\.access_key \(EDGERAD_STORE__ACCESS_KEY__VALUE, or"),
        ({"store": {"endpoint_url": "http://s", "access_key": {"value": "k"}}}, r"setting store\.secret_key"),
        ({"store": KEYS}, r"setting store\.endpoint_url \(EDGERAD_STORE__ENDPOINT_URL\) is missing"),
        ({"core": {"store": {"endpoint_url": "http://s"}}}, r"setting core\.store\.access_key \(EDGERAD_CORE__STORE__"),
        (
            {"kafka": {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_username": "u"}},
            r"setting kafka\.sasl_password",
        ),
    ],
)
def test_what_belongs_together_is_together(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        preflight.check_settings(settings(**sections))


def test_embedded_and_complete_settings_are_fine() -> None:
    preflight.check_settings(settings())
    preflight.check_settings(settings(store={"endpoint_url": "http://s", **KEYS}))
    preflight.check_settings(settings(role="core", store={"endpoint_url": "http://not-mine"}))


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("all_proxy", "socks5://user:hush@proxy.example:1080", "socksio"),
        ("https_proxy", "ftp://user:hush@proxy.example", "http://HOST:PORT"),
        ("http_proxy", "http://user:hush@proxy.example:port", "http://HOST:PORT"),
        ("no_proxy", "[::1]", "an exemption HOST"),
    ],
)
def test_a_proxy_that_the_webhook_cannot_use_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with_webhook = settings(notify={"webhook_url": "https://alerts.example"})
    preflight.check_settings(with_webhook)
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    preflight.check_settings(with_webhook)
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=r"setting notify\.webhook_url: .*is unfit; ") as refusal:
        preflight.check_settings(with_webhook)
    assert said in str(refusal.value)
    assert "hush" not in str(refusal.value)
    preflight.check_settings(settings())
    preflight.check_settings(settings(role="core", notify={"webhook_url": "https://alerts.example"}))


def test_a_secret_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "password"
    with pytest.raises(SettingsError, match=r"setting kafka\.sasl_password\.file: .*password cannot be read \(No such"):
        preflight.check_settings(settings(kafka={"sasl_password": {"file": missing}}))
    missing.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=r"cannot be read \(not text\)"):
        preflight.check_settings(settings(kafka={"sasl_password": {"file": missing}}))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    preflight.check_folder(tmp_path / "new")
    assert list((tmp_path / "new" / "run").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(CannotStart, match=r"setting data_dir: .*file cannot be written to"):
        preflight.check_folder(tmp_path / "file")


@pytest.mark.parametrize("section", ["receiver", "gateway", "dashboard", "embedded_store"])
def test_a_taken_port_is_named(section: str) -> None:
    free: dict[str, Any] = {name: {"port": 0} for name in ("receiver", "gateway", "dashboard", "embedded_store")}
    preflight.check_ports(settings(**free))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CannotStart, match=rf"setting {section}\.port: 127\.0\.0\.1:{port} is taken"):
            preflight.check_ports(settings(**{**free, section: {"port": port}}))
        core = settings(**{**free, section: {"port": port}, "role": "core"})
        if section in {"receiver", "gateway"}:
            preflight.check_ports(core)  # a core does not listen there


def test_an_address_of_another_machine_is_named() -> None:
    # 192.0.2.1 is of TEST-NET-1 (RFC 5737): nobody's
    with pytest.raises(CannotStart, match=r"192\.0\.2\.1 is no address of this machine .* see setting receiver\.host"):
        preflight.check_ports(settings(receiver={"host": "192.0.2.1", "port": 11112}))


def test_a_dead_store_is_named() -> None:
    store = settings(store={"endpoint_url": "http://127.0.0.1:9", "connect_timeout": 1.0, **KEYS}).store
    expected = (
        r"setting store\.endpoint_url: http://127\.0\.0\.1:9: .*cannot be reached.*check the address, and that it"
    )
    with pytest.raises(CannotStart, match=expected) as caught, preflight.store_answers("store", store):
        ObjectStore(config_from(store)).ensure_bucket()
    assert "hush" not in str(caught.value)


def test_a_dead_database_is_named_without_its_password(tmp_path: Path) -> None:
    url = "postgresql+psycopg://edgerad:hush@127.0.0.1:9/edgerad"
    found = settings(database={"url": {"value": url}})
    expected = r"setting database\.url: .*edgerad:\*\*\*@127\.0\.0\.1:9/edgerad does not answer \(OperationalError\)"
    with pytest.raises(CannotStart, match=expected) as caught, preflight.database_answers(found):
        Database(found.database_url).upgrade()
    assert "hush" not in str(caught.value)


def test_a_database_of_a_newer_version_is_named(tmp_path: Path) -> None:
    found = settings(data_dir=tmp_path)
    database = Database(found.database_url)
    database.upgrade()
    database.close()
    engine = create_engine(found.database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'v9999'"))
    engine.dispose()
    with pytest.raises(CannotStart, match="a newer edgerad has made this database"), preflight.database_answers(found):
        Database(found.database_url).upgrade()


def test_a_dead_kafka_is_named() -> None:
    from kafka.errors import KafkaTimeoutError

    found = settings(kafka={"bootstrap_servers": "127.0.0.1:9", "sasl_password": {"value": "hush"}})
    expected = r"setting kafka\.bootstrap_servers: 127\.0\.0\.1:9 does not answer .* by PLAINTEXT \(KafkaTimeoutError\)"
    with pytest.raises(CannotStart, match=expected), preflight.kafka_answers(found):
        raise KafkaTimeoutError
