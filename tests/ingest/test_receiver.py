"""The DICOM receiver: acknowledged only when durable, twice is once, peers limited; dcmtk and Orthanc send to it."""

from __future__ import annotations

import io
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom import uid
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, Verification

from deploy.orthanc import Orthanc
from edgerad.phantom import random_spec, render, to_dicom
from edgerad.sections import ReceiverSettings
from edgerad.store import ObjectStore, StoreUnavailable
from ingest.instance import STORAGE_CLASSES, content_digest, identify, object_key
from ingest.receiver import Receiver, may_connect

pytestmark = pytest.mark.usefixtures("logs")


@pytest.fixture
def receiver(store: ObjectStore) -> Iterator[Receiver]:
    """A receiver on a free port."""
    receiver = Receiver(ReceiverSettings(port=0, network_timeout=10), store)
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="module")
def xrays() -> list[bytes]:
    """Three phantoms as DICOM files."""
    return [to_dicom(render(random_spec((41, number), size=256))) for number in range(3)]


def send(receiver: Receiver, *files: bytes, called: str = "EDGERAD", calling: str = "MODALITY") -> list[int]:
    """C-STORE files over one association; return the statuses, none when it was refused."""
    datasets = [pydicom.dcmread(io.BytesIO(data)) for data in files]
    entity = AE(ae_title=calling)
    for dataset in datasets:
        entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    host, _, port = receiver.address.rpartition(":")
    association = entity.associate(host, int(port), ae_title=called)
    if not association.is_established:
        return []
    statuses = [int(association.send_c_store(dataset).Status) for dataset in datasets]
    association.release()
    return statuses


def key_of(data: bytes) -> str:
    """Return the key that a file is stored under."""
    with tempfile.TemporaryFile() as file:  # the guard maps a file into memory
        file.write(data)
        file.flush()
        instance = identify(file, 2**30)
        return object_key(instance.study_uid, instance.instance_uid, content_digest(file))


def test_what_is_acknowledged_is_in_the_store_as_it_came(
    receiver: Receiver, store: ObjectStore, xrays: list[bytes]
) -> None:
    assert send(receiver, *xrays) == [0, 0, 0]
    for data in xrays:
        kept = store.get(key_of(data))
        sent, stored = (pydicom.dcmread(io.BytesIO(content)) for content in (data, kept))
        assert stored.PixelData == sent.PixelData
        assert stored.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
        assert str(sent.StudyInstanceUID) not in key_of(data)


def test_an_instance_sent_twice_is_one_object_and_not_written_again(
    receiver: Receiver, store: ObjectStore, xrays: list[bytes]
) -> None:
    send(receiver, xrays[0])
    first = [(item.key, item.etag, item.last_modified) for item in store.list()]
    assert send(receiver, xrays[0]) == [0]
    assert [(item.key, item.etag, item.last_modified) for item in store.list()] == first
    assert receiver.counts["repeated"] == 1


def test_a_dead_store_is_no_success_and_the_sender_can_try_again(
    receiver: Receiver, store: ObjectStore, xrays: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StoreUnavailable("down")

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put", fail)
        assert send(receiver, xrays[0]) == [0xA700]
    assert list(store.list()) == []
    assert send(receiver, xrays[0]) == [0]


def test_what_has_no_identity_is_not_understood(receiver: Receiver, xrays: list[bytes]) -> None:
    dataset = pydicom.dcmread(io.BytesIO(xrays[0]))
    del dataset.StudyInstanceUID
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    assert send(receiver, buffer.getvalue()) == [0xC000]


def test_echo_and_the_classes_that_are_not_negotiated(receiver: Receiver) -> None:
    entity = AE()
    entity.add_requested_context(Verification)
    entity.add_requested_context(CTImageStorage)
    host, _, port = receiver.address.rpartition(":")
    association = entity.associate(host, int(port), ae_title="EDGERAD")
    assert association.send_c_echo().Status == 0
    assert [context.abstract_syntax for context in association.rejected_contexts] == [CTImageStorage]
    association.release()


def test_peers_are_limited(store: ObjectStore, xrays: list[bytes]) -> None:
    settings = ReceiverSettings(port=0, calling_ae_titles=("MODALITY",))
    receiver = Receiver(settings, store)
    receiver.start()
    assert send(receiver, xrays[0], calling="STRANGER") == []
    assert send(receiver, xrays[0], called="OTHER") == []
    assert send(receiver, xrays[0]) == [0]
    receiver.stop()
    closed = Receiver(settings.model_copy(update={"addresses": ("192.0.2.0/24",)}), store)
    closed.start()
    host, _, port = closed.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as stranger:
        assert stranger.recv(1) == b"", "not a byte is read of a stranger"
    assert closed.counts["rejected"] == 1
    closed.stop()


def test_addresses_are_matched_by_network() -> None:
    assert may_connect("10.1.2.3", ())
    assert may_connect("10.1.2.3", ("192.0.2.1", "10.1.0.0/16"))
    assert not may_connect("10.2.2.3", ("192.0.2.1", "10.1.0.0/16"))
    assert may_connect("::ffff:10.1.2.3", ("10.1.0.0/16",)), "an IPv4 address on an IPv6 socket"
    assert not may_connect("::1", ("10.1.0.0/16",))


@pytest.mark.parametrize("address", ["modality.example", "10.1.2.300", "10.1.2.3/33", ""])
def test_an_address_that_is_none_is_a_wrong_setting(address: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        ReceiverSettings(addresses=("10.1.2.3", address))


def test_many_associations_at_once(receiver: Receiver, store: ObjectStore, xrays: list[bytes]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def instance(number: int) -> bytes:
        dataset = pydicom.dcmread(io.BytesIO(xrays[number % 3]))
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"2.25.{number + 1}")
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        return buffer.getvalue()

    files = [instance(number) for number in range(50)]
    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(lambda data: send(receiver, data), files)) == [[0]] * 50
    assert len(list(store.list())) == 50


def test_more_associations_than_allowed_are_told_to_come_back(store: ObjectStore, xrays: list[bytes]) -> None:
    receiver = Receiver(ReceiverSettings(port=0, max_associations=1), store)
    receiver.start()
    host, _, port = receiver.address.rpartition(":")
    entity = AE(ae_title="MODALITY")
    entity.add_requested_context(Verification)
    first = entity.associate(host, int(port), ae_title="EDGERAD")
    second = entity.associate(host, int(port), ae_title="EDGERAD")
    assert (first.is_established, second.is_rejected) == (True, True)
    assert second.acceptor.primitive.result_str == "Rejected Transient"
    first.release()
    receiver.stop()


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\x01\x00\xff\xff\xff\xff" + b"A" * 200])
def test_what_is_no_dicom_on_the_wire_disturbs_nobody(receiver: Receiver, xrays: list[bytes], junk: bytes) -> None:
    host, _, port = receiver.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as stranger:
        stranger.sendall(junk)
        assert send(receiver, xrays[0]) == [0]


@pytest.mark.real
@pytest.mark.parametrize("program", ["storescu", "dcmsend"])
def test_dcmtk_sends(
    receiver: Receiver, store: ObjectStore, xrays: list[bytes], tmp_path: Path, dcmtk: None, program: str
) -> None:
    for number, data in enumerate(xrays):
        (tmp_path / f"{number}.dcm").write_bytes(data)
    host, _, port = receiver.address.rpartition(":")
    subprocess.run(["echoscu", "-aec", "EDGERAD", host, port], check=True, timeout=30)
    files = [str(tmp_path / f"{number}.dcm") for number in range(3)]
    subprocess.run([program, "-aec", "EDGERAD", host, port, *files], check=True, timeout=60, capture_output=True)
    assert {item.key for item in store.list()} == {key_of(data) for data in xrays}


@pytest.mark.real
def test_orthanc_sends(receiver: Receiver, store: ObjectStore, xrays: list[bytes], orthanc: Orthanc) -> None:
    host, _, port = receiver.address.rpartition(":")
    with Orthanc(orthanc.folder, ("EDGERAD", host, int(port))) as pacs:
        report = pacs.send([pacs.upload(data) for data in xrays])
    assert report["FailedInstancesCount"] == 0
    assert {item.key for item in store.list()} == {key_of(data) for data in xrays}


def with_class(data: bytes, storage_class: str, number: int, frames: int = 1) -> bytes:
    """Return a file as an instance of its own of a storage class, its pixels repeated over frames."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(storage_class)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"2.25.{1000 + number}")
    if frames > 1:
        dataset.NumberOfFrames = frames
        dataset.PixelData = dataset.PixelData * frames
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def test_every_storage_class_is_taken_in_every_frame(
    receiver: Receiver, store: ObjectStore, xrays: list[bytes]
) -> None:
    files = [
        with_class(xrays[0], storage_class, number, frames=3 if ".1.1.7." in storage_class else 1)
        for number, storage_class in enumerate(STORAGE_CLASSES)
    ]
    assert send(receiver, *files) == [0] * len(STORAGE_CLASSES)
    kept = {key_of(data): pydicom.dcmread(io.BytesIO(store.get(key_of(data)))) for data in files}
    assert {str(dataset.SOPClassUID) for dataset in kept.values()} == set(STORAGE_CLASSES)
    for data in files:
        assert kept[key_of(data)].PixelData == pydicom.dcmread(io.BytesIO(data)).PixelData


SYNTAXES = {
    uid.ImplicitVRLittleEndian: (["dcmconv", "+ti"], "-xi"),
    uid.ExplicitVRBigEndian: (["dcmconv", "+tb"], "-xb"),
    uid.DeflatedExplicitVRLittleEndian: (["dcmconv", "+td"], "-xd"),
    uid.JPEGLosslessSV1: (["dcmcjpeg", "+e1"], "-xs"),
    uid.JPEGLSLossless: (["dcmcjpls"], "-xt"),
    uid.JPEG2000Lossless: (None, "-xv"),
    uid.RLELossless: (["dcmcrle"], "-xr"),
}
"""How a file gets a transfer syntax (None: by pydicom), and what has storescu propose it."""


@pytest.mark.real
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: str(syntax.keyword))
@pytest.mark.parametrize("program", ["storescu", "dcmsend"])
def test_dcmtk_sends_each_transfer_syntax_and_it_is_kept(
    receiver: Receiver, store: ObjectStore, xrays: list[bytes], tmp_path: Path, dcmtk: None, program: str, syntax: UID
) -> None:
    plain, coded = tmp_path / "plain.dcm", tmp_path / "coded.dcm"
    plain.write_bytes(xrays[0])
    convert, proposal = SYNTAXES[syntax]
    if convert is None:
        dataset = pydicom.dcmread(plain)
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(coded)
    else:
        subprocess.run([*convert, str(plain), str(coded)], check=True, timeout=60, capture_output=True)
    sent = pydicom.dcmread(coded)
    assert sent.file_meta.TransferSyntaxUID == syntax
    host, _, port = receiver.address.rpartition(":")
    options = [proposal] if program == "storescu" else ["--decompress-never"]
    subprocess.run(
        [program, *options, "-aec", "EDGERAD", host, port, str(coded)], check=True, timeout=60, capture_output=True
    )
    (item,) = store.list()
    kept = pydicom.dcmread(io.BytesIO(store.get(item.key)))
    if program == "storescu" or syntax.is_encapsulated or syntax.is_deflated:  # dcmsend reorders plain bytes itself
        assert kept.file_meta.TransferSyntaxUID == syntax
        assert kept.PixelData == sent.PixelData
    assert (kept.pixel_array == pydicom.dcmread(plain).pixel_array).all()
    assert kept.SOPInstanceUID == sent.SOPInstanceUID
