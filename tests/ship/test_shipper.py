"""When a job starts, what a failed one leaves, what is reported; the keys of one machine know each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from edgerad import compose, keyring
from edgerad.database import Database
from edgerad.metrics import render
from edgerad.records import ComponentStatus, Shipment, now
from edgerad.settings import load_settings
from ship.orders import Order, Outcome
from ship.parcel import seal
from ship.shipper import COMPONENT, Shipper, keys_of
from tests.ship.conftest import World
from train import intake

pytestmark = pytest.mark.usefixtures("deidentified_once")


def figures(database: Database) -> dict[str, object]:
    with database.read() as session:
        return dict(session.get_one(ComponentStatus, COMPONENT).data)


def test_a_job_waits_for_a_full_batch_or_an_old_case(world: World, xray: bytes) -> None:
    world.restart(batch_size=2, batch_age=3600.0)
    at = now()
    world.arrive(xray)
    assert not world.shipper.seal(at)
    assert world.shipper.seal(at + timedelta(seconds=3700)), "one is old enough"
    world.arrive(xray, "a/2.dcm")
    assert not world.shipper.seal(at)
    world.arrive(xray, "a/3.dcm")
    assert world.shipper.seal(at), "two are enough"


def test_a_job_that_fails_keeps_what_it_did_and_the_next_one_waits_a_while(world: World, xray: bytes) -> None:
    for name in ("a", "b"):
        world.arrive(xray, f"{name}/1.dcm")
    broken = [True]

    def job(orders: Iterable[Order]) -> Iterator[Outcome]:
        for number, order in enumerate(orders):
            if number == 1 and broken:
                raise RuntimeError("the cluster is gone")
            yield seal(order, world.place)

    settings = load_settings(data_dir=world.folder, core={"parcel_public_key": "set"})
    shipper = Shipper(settings.model_copy(update={"ship": world.settings}), world.database, world.forwarder, job)
    at = now()
    shipper.seal(at)
    with world.database.read() as session:
        assert sorted(session.scalars(select(Shipment.state))) == ["queued", "sealed"]
    broken.clear()
    assert not shipper.seal(at), "not before its time"
    assert shipper.forward(at), "what was done goes out"
    assert shipper.seal(at + timedelta(seconds=2))


def test_without_the_cores_key_no_job_starts_and_the_page_says_why(world: World, xray: bytes) -> None:
    world.arrive(xray)
    settings = load_settings(data_dir=world.folder).model_copy(update={"ship": world.settings})

    def job(orders: Iterable[Order]) -> Iterator[Outcome]:
        pytest.fail("a job was started")

    shipper = Shipper(settings, world.database, world.forwarder, job)
    assert not shipper.seal(now())
    shipper.report()
    assert figures(world.database)["trouble"] == "core.parcel_public_key is not set"


def test_the_backlog_its_size_its_age_and_what_hinders_it_are_reported(world: World, xray: bytes) -> None:
    world.restart(warn_backlog=1, warn_age=1e9)
    world.arrive(xray)
    world.line.breaks("507")
    world.step()
    world.shipper.report()
    found = figures(world.database)
    size = world.shipment.sealed_bytes
    assert (found["sealed"], found["sealed_bytes"], found["over_limit"]) == (1, size, 0)
    assert found["trouble"] == "StoreFull"
    page = render(world.database).decode()
    assert "edgerad_ship_backlog 1.0" in page
    assert f"edgerad_ship_backlog_bytes {float(size or 0)}" in page
    world.arrive(xray, "a/2.dcm")
    world.shipper.report()
    assert figures(world.database)["over_limit"] == 1
    world.restart(warn_backlog=100, warn_age=0.0)
    world.shipper.report()
    assert figures(world.database)["over_limit"] == 1
    world.line.mend()
    world.step(now() + timedelta(seconds=2))
    world.step(now() + timedelta(seconds=2))
    world.core_takes()
    world.step(now() + timedelta(seconds=2))
    world.shipper.report()
    found = figures(world.database)
    assert (found["over_limit"], found["oldest_seconds"], "trouble" in found) == (0, 0, False)


def test_edge_and_core_of_one_machine_know_each_other_without_any_setting(tmp_path: Path) -> None:
    settings = compose._with_secrets(load_settings(data_dir=tmp_path))
    desk, keys = intake.desk_of(settings), keys_of(settings)
    assert desk.edges == {"edge": (keys.own,)}
    assert keys.sealing in desk.opening
    assert desk.signing.public_key().public_bytes_raw() in keys.core
    assert compose._with_secrets(load_settings(data_dir=tmp_path)) == settings, "and at the next start as well"
    keyring.rotate_parcel_key(tmp_path / "keys")
    rotated = compose._with_secrets(load_settings(data_dir=tmp_path))
    assert rotated.core.parcel_public_key != settings.core.parcel_public_key
    assert keys.sealing in intake.desk_of(rotated).opening, "what is on its way is still taken"


def test_an_edge_alone_makes_its_own_key_and_none_of_the_cores(tmp_path: Path) -> None:
    settings = compose._with_secrets(load_settings(data_dir=tmp_path, role="edge"))
    assert settings.ship.signing_key.reveal()
    assert (settings.core.parcel_public_key, settings.core.edge_keys) == ("", ())
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == [
        "edge-signing-key.pem",
        "gateway-token",
        "site-secret",
    ]
