"""Store-and-forward: nothing lost, nothing sent twice, nothing unverified sent, whatever dies in between."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from edgerad import ledger
from edgerad.database import Database
from edgerad.ledger import Letter, NewImage, ShipPolicy
from edgerad.parcels import ParcelManifest, Receipt, manifest_key, object_key, receipt_key
from edgerad.phantom import random_spec, render, to_dicom
from edgerad.records import DeidRecord, Shipment, now
from edgerad.s3server import S3Server
from edgerad.scoring import Scored
from edgerad.sections import ShipSettings
from edgerad.settings import load_settings
from edgerad.store import ObjectStore, StoreConfig, StoreUnavailable
from ship import forward, pipeline
from ship.deidentify import Options
from ship.forward import Forwarder, NotVerified
from ship.keys import SiteKey
from ship.parcel import Kept, Order, Sealed, Workplace, outbox_config, seal
from ship.shipper import Shipper

SETTINGS = ShipSettings(batch_age=0.0, retry_initial=1.0, retry_max=60.0)
KEY = SiteKey(bytes(range(32)))
NAME = b"PhantomPatient"


class Flaky(ObjectStore):
    """A store that fails at the call of one's choice."""

    def __init__(self, config: StoreConfig) -> None:
        super().__init__(config)
        self.fail_at: int | None = None
        self.puts: list[str] = []

    def _maybe(self) -> None:
        if self.fail_at is not None:
            self.fail_at -= 1
            if self.fail_at < 0:
                raise StoreUnavailable("down")

    def put(self, key: str, *arguments: Any, **more: Any) -> Any:
        self._maybe()
        self.puts.append(key)
        return super().put(key, *arguments, **more)

    def get(self, *arguments: Any, **more: Any) -> bytes:
        self._maybe()
        return super().get(*arguments, **more)


class World:
    """An edge with one image to ship, and a core."""

    def __init__(self, folder: Path, server: S3Server) -> None:
        config = StoreConfig(server.endpoint_url, "xray", "ak", "sk", max_attempts=1)
        self.edge, self.outbox = ObjectStore(config), Flaky(outbox_config(config))
        self.core = Flaky(replace(config, bucket="core"))
        for store in (self.edge, self.outbox, self.core):
            store.ensure_bucket()
        self.database = Database(f"sqlite:///{folder / 'edgerad.db'}")
        self.database.upgrade()
        self.forwarder = Forwarder(self.database, self.outbox, self.core, SETTINGS)
        self.place = Workplace(self.edge, self.outbox, KEY, SETTINGS.edge_id, Options(), 2**28)
        settings = load_settings(data_dir=folder).model_copy(update={"ship": SETTINGS})
        self.shipper = Shipper(settings, self.database, self.forwarder, self._job)

    def _job(self, orders: Iterable[Order]) -> Iterator[Sealed | Kept]:
        for order in orders:
            yield seal(order, self.place)

    def arrive(self, data: bytes, key: str = "a/1.dcm") -> str:
        stored = self.edge.put(key, data)
        image = NewImage("xray", key, stored.etag, None, len(data), now(), "kafka")
        ledger.register(self.database, [image])
        scored = Scored(image.image_id, "pneumonia", 0.5, 0.0, "unknown", "a" * 64, "c/1", "t/1", "litert", 0.01)
        letters = {image.image_id: Letter("kafka", "t/0/0", "{}")}
        ledger.record(self.database, [scored], letters, ShipPolicy(True, 0.0), "xray.assessed")
        return image.image_id

    @property
    def shipment(self) -> Shipment:
        with self.database.read() as session:
            return session.scalars(select(Shipment)).one()

    def answer(self, **changes: Any) -> None:
        shipment = self.shipment
        receipt = Receipt(
            schema_version=1,
            parcel_id=shipment.parcel_id or "",
            accepted=True,
            reason="received",
            object_sha256=shipment.parcel_digest,
            at=now(),
        ).model_copy(update=changes)
        self.core.put(receipt_key("edge", shipment.parcel_id or ""), receipt.as_bytes())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An edge and a core on an embedded store."""
    server = S3Server(tmp_path / "s3", "ak", "sk")
    server.start()
    world = World(tmp_path, server)
    yield world
    world.database.close()
    server.stop()


@pytest.fixture(scope="module")
def xray() -> bytes:
    """A phantom's DICOM file with a fake patient."""
    return to_dicom(render(random_spec(11, size=320)))


def test_an_uncertain_case_arrives_at_the_core_without_identity_and_is_closed(world: World, xray: bytes) -> None:
    import io

    import pydicom

    image = world.arrive(xray)
    world.shipper.step(now())
    shipment = world.shipment
    assert shipment.state == "sent"
    parcel = shipment.parcel_id or ""
    data = world.core.get(object_key("edge", parcel))
    manifest = ParcelManifest.model_validate_json(world.core.get(manifest_key("edge", parcel)))
    assert hashlib.sha256(data).hexdigest() == manifest.object_sha256 == shipment.parcel_digest
    original, clean = (pydicom.dcmread(io.BytesIO(content)) for content in (xray, data))
    assert clean.PatientIdentityRemoved == "YES"
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "SOPInstanceUID"):
        assert str(original[keyword].value) not in data.decode("latin-1")
    assert image not in manifest.model_dump_json(), "the edge's own id stays at the edge"
    assert (clean.pixel_array == original.pixel_array).mean() > 0.98

    world.answer()
    world.shipper.step(now())
    assert world.shipment.state == "received"
    assert list(world.outbox.list()) == [], "the local copy goes only now"


def test_a_case_that_cannot_be_proven_clean_stays(world: World) -> None:
    world.arrive(b"neither DICOM nor a picture")
    world.shipper.step(now())
    assert (world.shipment.state, world.shipment.reason) == ("quarantined", "unreadable")
    assert world.core.puts == []
    with world.database.read() as session:
        record = session.scalars(select(DeidRecord)).one()
    assert not record.verified


@pytest.mark.parametrize("calls", [0, 1])
def test_a_core_that_dies_in_the_middle_gets_it_later_and_once(world: World, xray: bytes, calls: int) -> None:
    world.arrive(xray)
    world.core.fail_at = calls
    world.shipper.step(now())
    shipment = world.shipment
    assert (shipment.state, shipment.attempts) == ("sealed", 1)
    assert shipment.next_attempt_at is not None
    world.core.fail_at = None
    assert world.forwarder.send(now()) == 0, "not before its time"
    assert world.forwarder.send(now() + timedelta(seconds=2)) == 1
    assert world.forwarder.send(now() + timedelta(seconds=2)) == 0
    manifests = [key for key in world.core.puts if key.endswith("manifest.json")]
    assert len(manifests) == 1
    assert world.core.puts[-1] == manifests[0], "the manifest commits, so it is last"


def test_a_dead_edge_store_delays_and_does_not_quarantine(world: World, xray: bytes) -> None:
    world.arrive(xray)
    world.outbox.fail_at = 0
    world.shipper.step(now())
    assert (world.shipment.state, world.shipment.reason) == ("queued", "store-unavailable")
    world.outbox.fail_at = None
    world.shipper.step(now() + timedelta(seconds=2))
    assert world.shipment.state == "sent"


def test_sealing_twice_after_a_crash_makes_the_same_parcel(world: World, xray: bytes) -> None:
    world.arrive(xray)
    (order,) = pipeline.queued(world.database, now(), 10)
    first, second = seal(order, world.place), seal(order, world.place)
    assert isinstance(first, Sealed)
    assert isinstance(second, Sealed)
    assert (first.parcel_id, first.object_sha256) == (second.parcel_id, second.object_sha256)
    for outcome in (first, second, first):
        pipeline.record(world.database, outcome, SETTINGS, now())
    with world.database.read() as session:
        assert len(list(session.scalars(select(DeidRecord)))) == 1


@pytest.mark.parametrize("harm", ["record", "object", "digest"])
def test_what_is_not_verified_is_not_sent(world: World, xray: bytes, harm: str) -> None:
    world.arrive(xray)
    (order,) = pipeline.queued(world.database, now(), 10)
    pipeline.record(world.database, seal(order, world.place), SETTINGS, now())
    parcel = world.shipment.parcel_id or ""
    if harm == "object":
        world.outbox.put(f"{parcel}/object", xray)
    else:
        values = {"deid_record_id": None} if harm == "record" else {"parcel_digest": "0" * 64}
        with world.database.write() as session:
            session.execute(update(Shipment).values(**values))
    with pytest.raises(NotVerified):
        world.forwarder.send(now())
    assert world.core.puts == []
    assert world.shipment.state == "sealed"


def test_a_refusal_is_kept_with_its_reason(world: World, xray: bytes) -> None:
    world.arrive(xray)
    world.shipper.step(now())
    world.answer(accepted=False, reason="not-clean")
    world.shipper.step(now())
    assert (world.shipment.state, world.shipment.reason) == ("refused", "not-clean")


@pytest.mark.parametrize("what", ["garbage", "other parcel", "other content"])
def test_a_receipt_that_is_not_ours_closes_nothing(world: World, xray: bytes, what: str) -> None:
    world.arrive(xray)
    world.shipper.step(now())
    if what == "garbage":
        world.core.put(receipt_key("edge", world.shipment.parcel_id or ""), b"<html>")
    else:
        world.answer(**({"parcel_id": "f" * 32} if what == "other parcel" else {"object_sha256": "0" * 64}))
    world.shipper.step(now())
    assert world.shipment.state == "sent"


def test_without_a_receipt_it_is_sent_again_after_a_while(world: World, xray: bytes) -> None:
    world.arrive(xray)
    world.shipper.step(now())
    world.forwarder.collect(now())
    assert world.shipment.state == "sent"
    world.forwarder.collect(now() + timedelta(seconds=61))
    assert world.shipment.state == "sealed"


def test_pauses_grow_and_are_capped() -> None:
    pauses = [forward.retry_after(n, SETTINGS, jitter=1.0).total_seconds() for n in (1, 2, 3, 30, 1000)]
    assert pauses == [1.0, 2.0, 4.0, 60.0, 60.0]


@pytest.mark.ray
def test_the_ray_data_job_seals_each_file_by_itself(
    world: World, xray: bytes, ray_cluster: None, tmp_path: Path
) -> None:
    world.arrive(xray, "a/1.dcm")
    world.arrive(b"junk", "a/2.dcm")
    store = {"endpoint_url": world.edge.config.endpoint_url}
    keys = {"access_key": {"value": "ak"}, "secret_key": {"value": "sk"}}
    settings = load_settings(data_dir=tmp_path, store={**store, **keys})
    outcomes = list(pipeline.run(settings, pipeline.queued(world.database, now(), 10)))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Kept", "Sealed"]
    for outcome in outcomes:
        pipeline.record(world.database, outcome, SETTINGS, now())
    with world.database.read() as session:
        states = sorted(row.state for row in session.scalars(select(Shipment)))
    assert states == ["quarantined", "sealed"]
