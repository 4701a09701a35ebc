"""Two objects with the same UIDs and different contents are two images; the same content is one, by whatever door."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from fastapi.testclient import TestClient
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE

from edgerad import ids
from edgerad.database import Database
from edgerad.phantom import random_spec, render, to_dicom
from edgerad.s3server import S3Server
from edgerad.sections import GatewaySettings, ReceiverSettings
from edgerad.store import ObjectStore, StoreConfig
from ingest.gateway import Doors, create_app
from ingest.receiver import Receiver
from ingest.sources import SourceRecord
from ingest.spool import Spool
from ingest.sweep import SweepSource
from tests.ingest.stage import inline
from tests.ingest.test_gateway import multipart

pytestmark = pytest.mark.usefixtures("logs")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStore]:
    """An empty bucket."""
    with S3Server(tmp_path / "s3", "ak", "sk") as server:
        store = ObjectStore(StoreConfig(server.endpoint_url, "xray", "ak", "sk", max_attempts=1))
        store.ensure_bucket()
        yield store


@pytest.fixture
def receiver(store: ObjectStore) -> Iterator[Receiver]:
    """A receiver on a free port."""
    receiver = Receiver(ReceiverSettings(port=0), store)
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture
def gateway(store: ObjectStore, tmp_path: Path) -> TestClient:
    """A client of a gateway."""
    doors = Doors(GatewaySettings(), "sesame", store, Spool(tmp_path / "spool"), lambda: b"")
    return TestClient(create_app(doors), base_url="http://localhost")


def contents(number: int, count: int = 2) -> list[pydicom.Dataset]:
    """Return data sets with equal UIDs; each has another patient and other pixels."""
    first = pydicom.dcmread(io.BytesIO(to_dicom(render(random_spec((49, number), size=256)))))
    found: list[pydicom.Dataset] = []
    for which in range(count):
        dataset = pydicom.dcmread(io.BytesIO(encoded(first)))
        dataset.PatientID = f"{number}-{which}"
        dataset.PixelData = np.roll(dataset.pixel_array, which * 9, axis=1).tobytes()
        found.append(dataset)
    assert len({(str(item.StudyInstanceUID), str(item.SOPInstanceUID)) for item in found}) == 1
    return found


def encoded(dataset: pydicom.Dataset) -> bytes:
    """Return a file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def send(receiver: Receiver, *datasets: pydicom.Dataset) -> list[int]:
    """C-STORE data sets one right after the other; return the statuses."""
    entity = AE(ae_title="MODALITY")
    for dataset in datasets:
        entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    host, _, port = receiver.address.rpartition(":")
    association = entity.associate(host, int(port), ae_title="EDGERAD")
    statuses = [int(association.send_c_store(dataset).Status) for dataset in datasets]
    association.release()
    return statuses


def patients(store: ObjectStore) -> list[str]:
    """Return the patient of each object."""
    return sorted(str(pydicom.dcmread(io.BytesIO(store.get(item.key))).PatientID) for item in store.list())


def test_contents_sent_one_after_the_other_are_both_kept(receiver: Receiver, store: ObjectStore) -> None:
    datasets = [dataset for number in range(3) for dataset in contents(number)]
    assert send(receiver, *datasets) == [0] * 6
    assert patients(store) == sorted(str(dataset.PatientID) for dataset in datasets)
    assert len({ids.study_key(item.key) for item in store.list()}) == 3, "each study keeps to its partition"
    assert send(receiver, *reversed(datasets)) == [0] * 6
    assert receiver.counts == {**receiver.counts, "stored": 6, "repeated": 6}
    assert len(list(store.list())) == 6


def test_contents_sent_at_the_same_time_are_all_kept(receiver: Receiver, store: ObjectStore) -> None:
    datasets = [dataset for number in range(2) for dataset in contents(number, 10)]
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(lambda dataset: send(receiver, dataset, dataset), datasets)) == [[0, 0]] * 20
    assert patients(store) == sorted(str(dataset.PatientID) for dataset in datasets)
    assert receiver.counts["stored"] == 20


def test_contents_of_one_stow_request_are_both_kept(gateway: TestClient, store: ObjectStore) -> None:
    datasets = contents(4)
    body, headers = multipart(*(encoded(dataset) for dataset in datasets))
    answer = gateway.post("/dicom-web/studies", content=body, headers=headers)
    assert answer.status_code == 200
    assert len(answer.json()["00081199"]["Value"]) == 2
    assert patients(store) == ["4-0", "4-1"]
    assert gateway.post("/dicom-web/studies", content=body, headers=headers).status_code == 200
    assert len(list(store.list())) == 2


def test_the_same_data_set_by_both_doors_is_one_object(
    receiver: Receiver, gateway: TestClient, store: ObjectStore
) -> None:
    first, second = contents(5)
    send(receiver, first)
    before = [(item.key, item.etag) for item in store.list()]
    (sent,) = [store.get(item.key) for item in store.list()]
    again = pydicom.dcmread(io.BytesIO(sent))
    again.file_meta.ImplementationVersionName = "ANOTHER STATION"
    body, headers = multipart(encoded(again), encoded(second))
    assert gateway.post("/dicom-web/studies", content=body, headers=headers).status_code == 200
    assert len(list(store.list())) == 2
    assert before[0] in [(item.key, item.etag) for item in store.list()]


def test_another_encoding_of_an_instance_is_another_content(receiver: Receiver, store: ObjectStore) -> None:
    dataset = contents(6)[0]
    send(receiver, dataset)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    again = pydicom.dcmread(io.BytesIO(encoded(dataset)))
    assert send(receiver, again) == [0]
    assert len(list(store.list())) == 2


def test_each_content_is_an_image_of_its_own(receiver: Receiver, store: ObjectStore, database: Database) -> None:
    send(receiver, *contents(7, 3))

    async def look() -> list[SourceRecord]:
        sweep = SweepSource(store, database, 1.0, blocking=inline)
        return [record for _ in range(3) for record in await sweep.poll(10, 0.0)]

    assert len({str(record.position) for record in asyncio.run(look())}) == 3
