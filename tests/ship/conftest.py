"""An edge with images to ship and a core, on an embedded S3 server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from edgerad import ledger
from edgerad.database import Database
from edgerad.ledger import Letter, NewImage, ShipPolicy
from edgerad.parcels import Receipt, receipt_key
from edgerad.phantom import random_spec, render, to_dicom
from edgerad.records import Shipment, now
from edgerad.s3server import S3Server
from edgerad.scoring import Scored
from edgerad.sections import ShipSettings
from edgerad.settings import load_settings
from edgerad.store import ObjectStore, StoreConfig, StoreUnavailable
from ship.deidentify import Options
from ship.forward import Forwarder
from ship.keys import SiteKey
from ship.parcel import Order, Outcome, Workplace, outbox_config, seal
from ship.shipper import Shipper

SETTINGS = ShipSettings(batch_age=0.0, retry_initial=1.0, retry_max=60.0)
KEY = SiteKey(bytes(range(32)))


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

    def _job(self, orders: Iterable[Order]) -> Iterator[Outcome]:
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

    def step(self, at: datetime | None = None) -> None:
        """Do what is due of both loops."""
        self.shipper.seal(at or now())
        self.shipper.forward(at or now())

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
