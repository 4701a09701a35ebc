"""Kafka clients' arguments: what the settings say reaches the client, and nothing that they do not say."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from edgerad import bus
from edgerad.sections import KafkaSettings, Secret


def test_a_plain_connection_names_its_brokers_and_no_secret() -> None:
    arguments = bus.connection(KafkaSettings(bootstrap_servers="a:1,b:2"))
    assert arguments["bootstrap_servers"] == ["a:1", "b:2"]
    assert arguments["security_protocol"] == "PLAINTEXT"
    assert not [name for name in arguments if name.startswith(("sasl", "ssl"))]


def test_sasl_over_tls_carries_credentials_and_certificates() -> None:
    arguments = bus.connection(
        KafkaSettings(
            bootstrap_servers="a:1",
            security_protocol="SASL_SSL",
            sasl_mechanism="SCRAM-SHA-512",
            sasl_username="edge",
            sasl_password=Secret(value=SecretStr("secret")),
            ssl_cafile=Path("/ca.pem"),
            ssl_certfile=Path("/cert.pem"),
            ssl_keyfile=Path("/key.pem"),
        )
    )
    assert {name: value for name, value in arguments.items() if name.startswith(("sasl", "ssl", "security"))} == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "edge",
        "sasl_plain_password": "secret",
        "ssl_cafile": "/ca.pem",
        "ssl_certfile": "/cert.pem",
        "ssl_keyfile": "/key.pem",
    }


def test_a_password_stays_where_sasl_is_not_spoken() -> None:
    settings = KafkaSettings(
        bootstrap_servers="a:1", sasl_username="edge", sasl_password=Secret(value=SecretStr("secret"))
    )
    assert "secret" not in str(bus.connection(settings))


def test_sasl_without_a_user_is_refused() -> None:
    with pytest.raises(ValidationError, match="sasl_mechanism"):
        KafkaSettings(bootstrap_servers="a:1", security_protocol="SASL_SSL")
