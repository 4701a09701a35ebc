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
from edgerad.settings import Settings, load_settings
from ship import pipeline
from ship.orders import Sealed
from tests.ship.conftest import SETTINGS, World
from tests.ship.test_leaks import assert_nothing, named

POISONED = str(Path(__file__).parent / "poisoned_worker.py")
GONE_WITHIN = 120.0


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def job_settings(world: World, folder: Path) -> Settings:
    return load_settings(
        data_dir=folder,
        store={
            "endpoint_url": world.edge.config.endpoint_url,
            "access_key": {"value": "ak"},
            "secret_key": {"value": "sk"},
        },
        ship={"actors": 2},
        core={"parcel_public_key": keyring.public_text(world.secrets.parcels)},
    )


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
    command = ("env", f"POISON_FOLDER={tmp_path}", sys.executable, POISONED)
    outcomes = list(pipeline.run(job_settings(world, tmp_path), pipeline.queued(world.database, now(), 10), command))
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


@pytest.mark.ray
def test_what_ray_writes_down_tells_of_no_patient(world: World, ray_cluster: None, tmp_path: Path) -> None:
    """Logs and events of the cluster's session, after images that are shipped, that raise, and that no parser takes."""
    import ray

    data = named(to_dicom(render(random_spec(1, size=320))))
    for place, content in (("good", data), ("raises", data), ("junk", b"Okafor^Anna 19530201")):
        world.arrive(content, f"Okafor_Anna/HX-9988776655_19530201/{place}.dcm")
    command = ("env", f"POISON_FOLDER={tmp_path}", sys.executable, POISONED)
    outcomes = list(pipeline.run(job_settings(world, tmp_path), pipeline.queued(world.database, now(), 10), command))
    assert sorted(getattr(outcome, "reason", "sealed") for outcome in outcomes) == [
        "internal-error",
        "sealed",
        "unreadable",
    ]
    session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    written = [path for path in session.rglob("*") if path.is_file()]
    assert any("ray-data" in path.name for path in written), "the job's own log is among them"
    for path in written:
        assert_nothing(str(path.relative_to(session)), path.name, path.read_bytes())
