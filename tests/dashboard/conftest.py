"""A database as an edge and a core leave it, and an object store that answers."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from dashboard import launch
from edgerad import ledger
from edgerad.database import Database
from edgerad.ledger import Letter, NewImage, ShipPolicy
from edgerad.phantom import random_spec, render, to_dicom, to_jpeg
from edgerad.records import CoreCase, Rollout, now
from edgerad.s3server import S3Server
from edgerad.scoring import Outcome, Refused, Scored, Triage
from edgerad.settings import load_settings
from edgerad.store import ObjectStore, config_from

HEADER = {
    "PatientName": "Doe^Jane", "PatientID": "4711", "PatientBirthDate": "20190301", "StudyDate": "20260301",
    "StudyTime": "141500", "Modality": "DX", "ViewPosition": "PA",
}  # fmt: skip
MAP = [[-3.0] * 5, [-3.0, 9.0, -3.0, -3.0, -3.0], *[[-3.0] * 5] * 3]
CLASSES: list[tuple[Triage, float]] = [("low", 0.03), ("high", 0.94), ("unknown", 0.5)]


@dataclass(frozen=True)
class Edge:
    """A seeded edge: images[1] is the open alert, images[3] is not assessable."""

    database: Database
    images: list[NewImage]
    environment: dict[str, str]

    @property
    def alarming(self) -> str:
        """The image with the open alert."""
        return self.images[1].image_id


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The embedded object store."""
    server = S3Server(tmp_path_factory.mktemp("s3"), "access", "secretsecret")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def edge(tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Edge:
    """Three assessed phantoms, of which one is an open alert, one image that is not assessable, one case to label."""
    import streamlit as st

    environment = {"EDGERAD_DATA_DIR": str(tmp_path)}
    for section in ("STORE", "CORE__STORE"):
        environment |= {
            f"EDGERAD_{section}__ENDPOINT_URL": s3.endpoint_url,
            f"EDGERAD_{section}__ACCESS_KEY__VALUE": "access",
            f"EDGERAD_{section}__SECRET_KEY__VALUE": "secretsecret",
        }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    st.cache_resource.clear()
    settings = load_settings()
    database = Database(settings.database_url)
    database.upgrade()
    images = _images(settings.store.bucket, ObjectStore(config_from(settings.store)))
    ledger.register(database, images)
    outcomes: list[Outcome] = [
        replace(
            Scored(image.image_id, "pneumonia", p, 0.0, triage, "m" * 64, "cal-7", "thr-9", "litert", 0.01, HEADER),
            activation=MAP,
        )
        for image, (triage, p) in zip(images, CLASSES, strict=False)
    ]
    outcomes.append(Refused(images[3].image_id, "truncated", "cut", header={"PatientName": "Roe^Ann"}))
    letters = {image.image_id: Letter("kafka", f"t/0/{n}", "{}") for n, image in enumerate(images)}
    ledger.record(database, outcomes, letters, ShipPolicy(True, 0.0), "xray.assessed")
    core = ObjectStore(config_from(settings.core.store))
    core.ensure_bucket()
    core.put("cases/1", to_jpeg(render(random_spec(7, size=256))))
    with database.write() as session:
        session.add(
            Rollout(edge_id="edge", finding="pneumonia", model_digest="m" * 64, state="serving", reason="shipped")
        )
        session.add(
            CoreCase(
                case_id="case-1", edge_id="edge", object_key="cases/1", object_digest="d", media_type="image/jpeg",
                patient="p", finding="pneumonia", probability=0.5, triage="unknown", model_digest="m", why="unknown",
                split="train", manifest={},
            )
        )  # fmt: skip
    ledger.report(database, "ingest-0", {"lag": 7})
    ledger.report(database, "rollout", {"replicas": 2})
    return Edge(database, images, {**os.environ, **environment})


@contextmanager
def running(environment: dict[str, str], log: Path, **options: Any) -> Iterator[str]:
    """Run the dashboard as edgerad starts it, with these settings of its section; yield its address."""
    command, address = launch.command(load_settings(dashboard={"port": 0, **options}))
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, *command], env=environment, stdout=output, stderr=output)
    try:
        for _ in range(300):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            try:
                if httpx.get(f"{address}/_stcore/health").is_success:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def address(edge: Edge, tmp_path: Path) -> Iterator[str]:
    """The address of a dashboard that runs as edgerad starts it."""
    with running(edge.environment, tmp_path / "dashboard.log") as found:
        yield found


def _images(bucket: str, store: ObjectStore) -> list[NewImage]:
    store.ensure_bucket()
    images = []
    for number in range(4):
        data = to_dicom(render(random_spec(number, positive=number == 1, size=256))) if number < 3 else b"cut"
        key = f"study-{number}/image.dcm"
        images.append(NewImage(bucket, key, store.put(key, data).etag, None, len(data), now(), "kafka"))
    return images
