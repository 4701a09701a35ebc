"""Logs carry only fields that are known to be harmless; an exception shows as its type."""

import json

import pytest

from edgerad.sections import TelemetrySettings
from edgerad.telemetry import configure_logging, get_logger


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    """Return what was logged."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_field_that_is_not_known_is_dropped_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(TelemetrySettings())
    get_logger("test").info("scored", image_id="abc", PatientName="Doe^Jane", key="room 1/doe.dcm")
    (line,) = lines(capsys)
    assert (line["image_id"], line["component"], line["event"]) == ("abc", "test", "scored")
    assert line["dropped_fields"] == ["PatientName", "key"]
    assert "Doe" not in json.dumps(line)


def test_an_exception_shows_as_its_type(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(TelemetrySettings())
    get_logger("test").error("failed", error=ValueError("could not parse Doe^Jane"))
    (line,) = lines(capsys)
    assert line["error"] == "ValueError"


def test_the_level_is_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(TelemetrySettings(log_level="WARNING"))
    get_logger("test").info("quiet")
    assert lines(capsys) == []
