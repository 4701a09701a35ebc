"""Nothing of a patient beside the pixels either: not in keys, metadata, waybills, records, audits, metrics or logs.

The image comes under a name, a number and a date of birth; one is shipped, one is quarantined, one raises an error that
quotes the patient.
"""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from pydicom import dcmread, dcmwrite
from sqlalchemy import select

from edgerad import quarantine
from edgerad.metrics import DatabaseCollector
from edgerad.records import Audit, ComponentStatus, CoreCase, DeidRecord, Record, Shipment
from edgerad.sections import TelemetrySettings
from edgerad.store import ObjectStore
from edgerad.telemetry import configure_logging, get_logger
from ship import headers
from tests.ship.conftest import World

KEY = "Okafor_Anna/HX-9988776655_19530201/scan.dcm"
VALUES = ("okafor", "anna", "9988776655", "19530201", "1953-02-01", "northfield", "balogun", "ax77330042")


def named(data: bytes, **attributes: Any) -> bytes:
    """The image of somebody whose values are known here."""
    dataset = dcmread(io.BytesIO(data))
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Okafor^Anna", "HX-9988776655", "19530201"
    dataset.InstitutionName, dataset.ReferringPhysicianName = "Northfield", "Balogun^Femi"
    dataset.AccessionNumber = "AX77330042"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset)
    return buffer.getvalue()


def assert_nothing(where: str, *texts: str | bytes) -> None:
    for text in texts:
        lowered = text.lower() if isinstance(text, bytes) else text.lower().encode()
        assert [value for value in VALUES if value.encode() in lowered] == [], where


def rows(world: World, *tables: type[Record]) -> list[str]:
    with world.database.read() as session:
        return [
            json.dumps({column.name: str(getattr(row, column.key)) for column in row.__table__.columns})
            for table in tables
            for row in session.scalars(select(table))
        ]


def everything_beside_the_image(world: World, store: ObjectStore) -> list[str | bytes]:
    found: list[str | bytes] = []
    for item in store.list():
        head = store.head(item.key)
        found += [item.key, json.dumps(head.metadata), store.get(item.key)]
    return found


@pytest.fixture
def outcome(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """shipped, quarantined, or an error whose text quotes the patient."""
    if request.param == "failed":

        def fails(source: Any, *_: Any, **__: Any) -> Any:
            raise RuntimeError(f"cannot handle {source.PatientName} {source.PatientID} {source.PatientBirthDate}")

        monkeypatch.setattr(headers, "clean_header", fails)
    return str(request.param)


@pytest.mark.usefixtures("no_text")
@pytest.mark.parametrize("outcome", ["sent", "quarantined", "failed"], indirect=True)
def test_nothing_beside_the_image_tells_of_the_patient(
    outcome: str, world: World, xray: bytes, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    configure_logging(TelemetrySettings(log_level="DEBUG"))
    data = named(xray, BurnedInAnnotation="YES" if outcome == "quarantined" else "NO")
    world.arrive(data, KEY)
    with pytest.raises(AssertionError):  # what is looked for is really there, at the hospital
        assert_nothing("edge", *everything_beside_the_image(world, world.edge))
    world.step()
    world.shipper.report()
    assert world.shipment.state == ("sent" if outcome == "sent" else "quarantined")
    if outcome == "sent":
        world.core_takes()
        assert len(world.cases) == 1
    else:
        quarantine.refuse(world.database, world.shipment.shipment_id, "Dr. Ada")
    assert_nothing("rows", *rows(world, Shipment, DeidRecord, Audit, CoreCase, ComponentStatus))
    for name, store in (("outbox", world.outbox), ("core", world.inside)):
        assert_nothing(name, *everything_beside_the_image(world, store))
    registry = CollectorRegistry()
    registry.register(DatabaseCollector(world.database))
    assert_nothing("metrics", generate_latest(registry))
    said = capfd.readouterr()
    assert_nothing("output and logs", said.out, said.err, caplog.text)


def test_a_log_line_drops_what_it_may_not_carry_and_the_text_of_exceptions(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging(TelemetrySettings(log_level="DEBUG"))
    log = get_logger("ship")
    log.warning("an image failed", error=ValueError("Okafor^Anna"), patient="Okafor", key=KEY, shipment_id="s1")
    said = capfd.readouterr().err
    assert "an image failed" in said
    assert "ValueError" in said
    assert_nothing("log", said)
