"""Logs carry only fields that are known to be harmless; an exception shows as its type."""

import json
import logging
import warnings

import pydicom
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


def test_a_warning_of_a_library_shows_its_place_and_not_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure_logging(TelemetrySettings())
        dataset = pydicom.Dataset()
        dataset.PatientBirthDate = "Doe^Jane"  # pydicom warns of it with the value
    (line,) = lines(capsys)
    assert (line["event"], line["error"]) == ("a library warns", "UserWarning")
    assert str(line["reason"]).partition(":")[0].endswith(".py")
    assert "Doe" not in json.dumps(line)


@pytest.mark.parametrize("library", ["pydicom", "pynetdicom"])
def test_libraries_that_read_patient_data_log_no_error_of_it(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(TelemetrySettings())
    logging.getLogger(f"{library}.part").error("cannot read Doe^Jane")
    assert "Doe" not in "".join(capsys.readouterr())


def test_logs_for_people_drop_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(TelemetrySettings(log_format="console"))
    get_logger("test").warning("failed", error=ValueError("Doe^Jane"), key="doe.dcm", attempt=2)
    said = capsys.readouterr().err
    assert "ValueError" in said
    assert "attempt=2" in said
    assert "Doe" not in said
    assert "doe.dcm" not in said
