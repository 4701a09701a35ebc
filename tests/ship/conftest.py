"""An edge with images to ship and a core that takes them in, on real S3 servers, with a line between that can break."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import select

from edgerad import envelope, ledger
from edgerad.database import Database
from edgerad.ledger import Letter, NewImage, ShipPolicy
from edgerad.parcels import RECEIPT, Receipt, receipt_key
from edgerad.phantom import random_spec, render, to_dicom
from edgerad.records import CoreCase, Shipment, now
from edgerad.s3server import S3Server
from edgerad.scoring import Scored
from edgerad.sections import CoreSettings, ShipSettings
from edgerad.settings import load_settings
from edgerad.store import ObjectStore, StoreConfig
from imaging.part10 import read_dicom
from ship import parcel, redaction
from ship import pixels as px
from ship.deidentify import Clean, Options, Quarantined, deidentify
from ship.forward import Forwarder, Keys
from ship.keys import SiteKey
from ship.orders import Order, Outcome, outbox_config
from ship.parcel import Workplace, seal
from ship.redaction import Redaction
from ship.shipper import Shipper
from tests.ship.line import Line
from train import intake

SETTINGS = ShipSettings(batch_age=0.0, retry_initial=1.0, retry_max=60.0)
KEY = SiteKey(bytes(range(32)))
SMALL_PARTS = 16 * 1024
"""What settings do not allow, since other stores than the embedded one want 5 MiB: a small image in many parts."""


def read_pixels(data: bytes) -> px.Pixels:
    """Return the pixels of a DICOM file."""
    return px.decode_dicom(read_dicom(data), Options().limits).pixels


def raw(key: Ed25519PrivateKey | X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


@dataclass(frozen=True)
class Secrets:
    """The private keys of an edge and of a core."""

    edge: Ed25519PrivateKey
    core: Ed25519PrivateKey
    parcels: X25519PrivateKey

    @classmethod
    def new(cls) -> Secrets:
        return cls(Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate(), X25519PrivateKey.generate())

    @property
    def public(self) -> Keys:
        return Keys(raw(self.edge), (raw(self.core),), envelope.key_id(raw(self.parcels)))


@cache
def deidentified(data: bytes) -> Clean | Quarantined:
    """De-identify really, but each image once for all tests."""
    return deidentify(data, KEY, Options(), hints=("a/1.dcm",))


class World:
    """An edge and a core; `line` leads from the edge to the core's store."""

    def __init__(self, folder: Path, edge: StoreConfig, core: StoreConfig, line: Line) -> None:
        self.folder, self.line, self.secrets, self.settings = folder, line, Secrets.new(), SETTINGS
        self.edge, self.outbox = ObjectStore(edge), ObjectStore(outbox_config(edge))
        self.core = ObjectStore(replace(core, endpoint_url=line.url))
        self.inside = ObjectStore(core)
        if edge.endpoint_url == core.endpoint_url:  # a client takes a while to make
            self.outbox._client = self.inside._client = self.edge.client
        for store in (self.edge, self.outbox, self.inside):
            store.ensure_bucket()
        self.database = Database(f"sqlite:///{folder / 'edgerad.db'}")
        self.opening = [self.secrets.parcels]
        self.restart()

    def restart(self, **changes: Any) -> None:
        """Start the edge anew, with other settings if some are given."""
        self.settings = self.settings.model_copy(update=changes)
        self.forwarder = Forwarder(self.database, self.outbox, self.core, self.settings, self.secrets.public)
        options, public = Options(), raw(self.secrets.parcels)
        edge_id, signing = self.settings.edge_id, self.secrets.edge
        self.place = Workplace(self.edge, self.outbox, KEY, edge_id, public, signing, options, 2**28)
        known = load_settings(data_dir=self.folder).model_copy(
            update={"ship": self.settings, "core": CoreSettings(parcel_public_key="set")}
        )
        self.shipper = Shipper(known, self.database, self.forwarder, self._job)

    def _job(self, orders: Iterable[Order]) -> Iterator[Outcome]:
        for order in orders:
            yield seal(order, self.place)

    def arrive(self, data: bytes, key: str = "a/1.dcm") -> str:
        stored = self.edge.put(key, data)
        image = NewImage(self.edge.bucket, key, stored.etag, None, len(data), now(), "kafka")
        ledger.register(self.database, [image])
        scored = Scored(image.image_id, "pneumonia", 0.5, 0.0, "unknown", "a" * 64, "c/1", "t/1", "litert", 0.01)
        letters = {image.image_id: Letter("kafka", "t/0/0", "{}")}
        ledger.record(self.database, [scored], letters, ShipPolicy(True, 0.0), "xray.assessed")
        return image.image_id

    def step(self, at: datetime | None = None) -> None:
        """Let the edge do what is due."""
        self.shipper.seal(at or now())
        self.shipper.forward(at or now())

    @property
    def desk(self) -> intake.Desk:
        opening = {envelope.key_id(raw(key)): key for key in self.opening}
        return intake.Desk("pneumonia", {"edge": (raw(self.secrets.edge),)}, opening, self.secrets.core)

    def core_takes(self) -> intake.Taken:
        """Let the core take in what lies there."""
        return intake.take_in(self.inside, self.database, self.desk)

    @property
    def cases(self) -> list[CoreCase]:
        with self.database.read() as session:
            return list(session.scalars(select(CoreCase)))

    @property
    def shipment(self) -> Shipment:
        with self.database.read() as session:
            return session.scalars(select(Shipment)).one()

    def answer(self, key: Ed25519PrivateKey | None = None, **changes: Any) -> None:
        """Write a receipt in the place of the core."""
        shipment = self.shipment
        receipt = Receipt(
            schema_version=1,
            parcel_id=shipment.parcel_id or "",
            accepted=True,
            reason="received",
            sealed_sha256=shipment.sealed_digest,
            at=now(),
        ).model_copy(update=changes)
        signed = envelope.sign(RECEIPT, receipt.as_bytes(), key or self.secrets.core)
        self.inside.put(receipt_key("edge", shipment.parcel_id or ""), signed)


@pytest.fixture
def deidentified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is sealed be de-identified once for all tests that are about something else."""
    monkeypatch.setattr(parcel, "deidentify", lambda data, *_, **__: deidentified(data))


@pytest.fixture
def make_world(tmp_path: Path, empty_database: Path) -> Iterator[Callable[..., World]]:
    """Makes worlds over an endpoint; images are de-identified once for all tests."""
    shutil.copy(empty_database, tmp_path / "edgerad.db")
    made: list[World] = []

    def make(edge: StoreConfig, core: StoreConfig) -> World:
        made.append(World(tmp_path, edge, core, Line(core.endpoint_url)))
        return made[-1]

    yield make
    for world in made:
        world.database.close()
        world.line.close()


@pytest.fixture
def world(tmp_path: Path, make_world: Callable[..., World]) -> Iterator[World]:
    """An edge and a core on an embedded store."""
    with S3Server(tmp_path / "s3", "ak", "sk") as server:
        config = StoreConfig(server.endpoint_url, "xray", "ak", "sk", max_attempts=1)
        yield make_world(config, replace(config, bucket="core"))


@pytest.fixture(scope="session")
def xray() -> bytes:
    """A phantom's DICOM file with a fake patient."""
    return to_dicom(render(random_spec(11, size=320)))


@pytest.fixture
def no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text engines that find nothing, where the text is not what is tested."""
    monkeypatch.setattr(redaction, "versions", lambda threads=1: ["none"])
    monkeypatch.setattr(redaction, "redact_text", lambda pixels, identity, **more: Redaction(pixels, (), 0, 1))
