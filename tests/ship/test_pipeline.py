"""The Ray Data job: each file by itself, whatever one of them does to its process or its actor."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from edgerad import keyring
from edgerad.parcels import SEALED_FILE, WAYBILL_FILE
from edgerad.phantom import random_spec, render, to_dicom
from edgerad.records import DeidRecord, Shipment, now
from edgerad.settings import load_settings
from ship import pipeline
from ship.orders import Sealed
from tests.ship.conftest import SETTINGS, World

POISONED = str(Path(__file__).parent / "poisoned_worker.py")
GONE_WITHIN = 120.0


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.ray
def test_a_file_that_crashes_its_process_or_kills_its_actor_spoils_no_other(
    world: World, ray_cluster: None, tmp_path: Path
) -> None:
    expected = {
        "good": "sealed",
        "kills-its-actor": "sealed",
        "crashes-once": "sealed",
        "crashes": "engine-crashed",
        "raises": "internal-error",
        "junk": "unreadable",
        "other": "sealed",
    }
    names: dict[str, str] = {}
    for name in expected:
        data = b"junk" if name == "junk" else to_dicom(render(random_spec(len(names), size=320)))
        names[world.arrive(data, f"a/{name}.dcm")] = name
    settings = load_settings(
        data_dir=tmp_path,
        store={
            "endpoint_url": world.edge.config.endpoint_url,
            "access_key": {"value": "ak"},
            "secret_key": {"value": "sk"},
        },
        ship={"actors": 2},
        core={"parcel_public_key": keyring.public_text(world.secrets.parcels)},
    )
    command = ("env", f"POISON_FOLDER={tmp_path}", sys.executable, POISONED)
    outcomes = list(pipeline.run(settings, pipeline.queued(world.database, now(), 10), command))
    assert len({outcome.shipment_id for outcome in outcomes}) == len(outcomes) == len(expected)
    for outcome in outcomes:
        pipeline.record(world.database, outcome, SETTINGS, now())
    with world.database.read() as session:
        found = {names[row.image_id]: row.reason or row.state for row in session.scalars(select(Shipment))}
        records = {row.image_id: row.verified for row in session.scalars(select(DeidRecord))}
    assert found == expected
    assert {names[image]: verified for image, verified in records.items()} == {
        name: end == "sealed" for name, end in expected.items()
    }
    parcels = {outcome.parcel_id for outcome in outcomes if isinstance(outcome, Sealed)}
    kept = {item.key for item in world.outbox.list()}
    assert kept == {f"{parcel}/{file}" for parcel in parcels for file in (SEALED_FILE, WAYBILL_FILE)}

    orphan = int((tmp_path / "kills-its-actor.log").read_text().split()[0])
    deadline = time.monotonic() + GONE_WITHIN
    while not is_gone(orphan):
        assert time.monotonic() < deadline, "the process of a killed actor lives on"
        time.sleep(0.1)
