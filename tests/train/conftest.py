"""A core for tests: a database, a store in memory that fails when told to, and parcels as an edge would send them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydicom import Dataset, dcmread, dcmwrite
from sqlalchemy import select

from edgerad import envelope
from edgerad.database import Database
from edgerad.parcels import WAYBILL, ParcelManifest, context, packed, sealed_key, waybill_key
from edgerad.phantom import random_spec, render, to_dicom
from edgerad.records import Audit, CoreCase
from edgerad.store import Head, Listed, ObjectGone, ObjectStore, ObjectTooLarge, StoreConfig, Stored, StoreUnavailable
from imaging.limits import Limits
from imaging.part10 import read_dicom
from ship import headers, image_module, pixels
from ship.keys import SiteKey
from tests.train.bench import Bench
from train import intake, job

KEY = SiteKey(bytes(range(32)))
EDGE_NAME = "north"
EDGE, CORE = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
PARCELS, OLD_PARCELS = (X25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (3, 4))
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class MemoryStore(ObjectStore):
    """The store's contract in memory; `fail(n)` lets the n-th write from now fail, before or after its effect."""

    def __init__(self) -> None:
        super().__init__(StoreConfig("http://127.0.0.1:1", "core", "a", "s"))
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.writes = 0
        self._fail_at: int | None = None
        self._after = False

    def fail(self, at: int | None, after: bool = False) -> None:
        """Let the `at`-th write from now (from 0) fail; None: none."""
        self.writes, self._fail_at, self._after = 0, at, after

    def _write(self, change: Callable[[], None]) -> None:
        failing = self.writes == self._fail_at
        self.writes += 1
        if not failing or self._after:
            change()
        if failing:
            raise StoreUnavailable("object store cannot be reached (told to fail)")

    def ensure_bucket(self) -> None:
        """Nothing to do."""

    def put(
        self,
        key: str,
        data: bytes | BinaryIO,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] | None = None,
    ) -> Stored:
        content = data if isinstance(data, bytes) else data.read()
        self._write(lambda: self.objects.update({key: (content, dict(metadata or {}))}))
        return Stored(_etag(content), None)

    def get(
        self, key: str, version_id: str | None = None, limit_bytes: int | None = None, etag: str | None = None
    ) -> bytes:
        data = self._held(key)[0]
        if etag is not None and etag != _etag(data):
            raise ObjectGone("object store: another version")
        if limit_bytes is not None and len(data) > limit_bytes:
            raise ObjectTooLarge(f"object has {len(data)} bytes, the limit is {limit_bytes}")
        return data

    def head(self, key: str, version_id: str | None = None) -> Head:
        data, metadata = self._held(key)
        return Head(_etag(data), len(data), AT, None, "application/octet-stream", metadata)

    def list(self, prefix: str = "", start_after: str = "", page: int = 1000) -> Iterator[Listed]:
        for key in sorted(self.objects):
            if key.startswith(prefix) and key > start_after and key in self.objects:
                data = self.objects[key][0]
                yield Listed(key, _etag(data), len(data), AT)

    def delete(self, key: str) -> None:
        self._write(lambda: self.objects.pop(key, None) and None)

    def _held(self, key: str) -> tuple[bytes, dict[str, str]]:
        if key not in self.objects:
            raise ObjectGone("object store: the object is not there")
        return self.objects[key]


def _etag(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def public(key: Ed25519PrivateKey | X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


@dataclass(frozen=True)
class Parcel:
    """One parcel as an edge sends it."""

    data: bytes
    manifest: dict[str, Any] = field(default_factory=dict)
    edge_id = EDGE_NAME

    @property
    def parcel_id(self) -> str:
        return str(self.manifest["parcel_id"])

    def with_data(self, data: bytes) -> Parcel:
        """Return it with other content and the size and digest that belong to it."""
        fitting = {"object_sha256": hashlib.sha256(data).hexdigest(), "object_bytes": len(data)}
        return replace(self, data=data, manifest={**self.manifest, **fitting})

    def with_manifest(self, **changes: Any) -> Parcel:
        return replace(self, manifest={**self.manifest, **changes})

    def edited(self, edit: Callable[[Dataset], None]) -> Parcel:
        """Return it with its DICOM header changed."""
        dataset = dcmread(io.BytesIO(self.data))
        edit(dataset)
        buffer = io.BytesIO()
        dcmwrite(buffer, dataset)
        return self.with_data(buffer.getvalue())

    def send(self, store: ObjectStore, waybill: Mapping[str, Any] | None = None, raw: bytes | None = None) -> None:
        """Seal, sign and write it, with other values on the waybill, or another manifest inside, if some are given."""
        manifest = json.dumps(self.manifest).encode() if raw is None else raw
        sealed = envelope.seal(packed(manifest, self.data), public(PARCELS), context(EDGE_NAME, self.parcel_id))
        told: dict[str, Any] = {
            "parcel_id": self.parcel_id,
            "edge_id": EDGE_NAME,
            "core_key": envelope.key_id(public(PARCELS)),
            "sealed_sha256": hashlib.sha256(sealed).hexdigest(),
            "sealed_bytes": len(sealed),
            "sealed_at": AT.isoformat(),
            **(waybill or {}),
        }
        store.put(sealed_key(EDGE_NAME, self.parcel_id), sealed)
        store.put(waybill_key(EDGE_NAME, self.parcel_id), envelope.sign(WAYBILL, json.dumps(told).encode(), EDGE))


@cache
def _clean_dicom(number: int, positive: bool) -> tuple[bytes, str]:
    spec = random_spec([91, number], positive=positive, size=448)
    file = read_dicom(to_dicom(render(spec), private=True))
    dataset, source = headers.clean_header(file.dataset, KEY).dataset, pixels.decode_dicom(file, Limits())
    image_module.attach(dataset, source.pixels, source, file.dataset)
    headers.stamp(dataset)
    dataset.file_meta = headers.file_meta(dataset)
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue(), str(dataset.PatientID)


def _parcel(number: int = 0, *, positive: bool = True, picture: bool = False) -> Parcel:
    data, patient = _clean_dicom(number, positive)
    media_type = "application/dicom"
    if picture:
        grey = (dcmread(io.BytesIO(data)).pixel_array >> 8).astype(np.uint8)
        data, media_type = pixels.encode_png(cv2.resize(grey, None, fx=1, fy=1)), "image/png"
    manifest = {
        "schema_version": 1,
        "parcel_id": hashlib.sha256(f"{number} {picture}".encode()).hexdigest()[:32],
        "edge_id": EDGE_NAME,
        "patient": patient,
        "study": KEY.uid(str(number)),
        "media_type": media_type,
        "finding": "pneumonia",
        "probability": 0.5,
        "triage": "unknown",
        "model_digest": "0" * 64,
        "calibration_version": "identity/1",
        "threshold_version": "0.80-0.20/1",
        "why": "unknown",
        "deid": {"software": "edgerad 0.1.0", "key_id": KEY.key_id, "verified": True, "counts": {"kept": 3}},
        "sealed_at": AT.isoformat(),
    }
    made = Parcel(data, manifest).with_data(data)
    ParcelManifest.model_validate(made.manifest)
    return made


@pytest.fixture
def make_parcel() -> Callable[..., Parcel]:
    """Makes a parcel: number, positive, picture (PNG in the place of DICOM)."""
    return _parcel


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """An empty database."""
    made = Database(f"sqlite:///{tmp_path / 'core.db'}")
    made.upgrade()
    yield made
    made.close()


@pytest.fixture
def store() -> MemoryStore:
    """An empty store that can be told to fail."""
    return MemoryStore()


@pytest.fixture
def desk() -> intake.Desk:
    """A core's desk that knows the edge, with its key of now and the one before."""
    opening = {envelope.key_id(public(key)): key for key in (PARCELS, OLD_PARCELS)}
    return intake.Desk("pneumonia", {EDGE_NAME: (public(EDGE),)}, opening, CORE)


@pytest.fixture
def bench(database: Database, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A core that is prepared, without labels."""
    made = Bench(database, store, tmp_path / "core")
    monkeypatch.setattr(job, "run", made.train)
    made.core().prepare()
    return made


def cases(database: Database) -> list[CoreCase]:
    """All cases of the core."""
    with database.read() as session:
        return list(session.scalars(select(CoreCase)))


def audits(database: Database) -> list[tuple[str, str]]:
    """What the audit holds, oldest first: action and subject."""
    with database.read() as session:
        return [(row.action, row.subject) for row in session.scalars(select(Audit).order_by(Audit.audit_id))]


def add_private(dataset: Dataset) -> None:
    """Leave a name in a private attribute."""
    dataset.private_block(0x0011, "ACME 1", create=True).add_new(0x01, "LO", "ROE^JANE")
