"""What reaches the receiver is limited as it arrives; nothing ends without an answer, or a log line and a count."""

from __future__ import annotations

import io
import resource
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest

from edgerad.phantom import random_spec, render, to_dicom
from edgerad.sections import ReceiverSettings
from edgerad.store import ObjectStore
from ingest import associations, pdu
from ingest.arrival import IMPLEMENTATION_UID
from ingest.receiver import Receiver
from tests.ingest import wire
from tests.ingest.wire import COMMAND, LAST, Peer, associate_rq, command, fragment, peer

OUT_OF_RESOURCES, CANNOT_UNDERSTAND, NOT_SUPPORTED = 0xA700, 0xC000, 0x0122


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """The receiver's spool, with a file that an earlier process left."""
    folder = tmp_path / "spool"
    folder.mkdir()
    (folder / "left.dcm").write_bytes(b"DOE^JANE")
    return folder


@pytest.fixture
def receiver(store: ObjectStore, spool: Path, logs: list[Any]) -> Iterator[Receiver]:
    """A receiver that takes objects of 1 MiB and two associations."""
    settings = ReceiverSettings(port=0, network_timeout=20, max_object_bytes=2**20, max_associations=2)
    receiver = Receiver(settings, store, spool)
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="module")
def data_set() -> bytes:
    """An encoded data set, explicit little endian."""
    dataset = pydicom.dcmread(io.BytesIO(to_dicom(render(random_spec((47, 1), size=256)))))
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    meta = 144 + struct.unpack_from("<L", buffer.getvalue(), 140)[0]
    return buffer.getvalue()[meta:]


def until(true: Callable[[], bool]) -> bool:
    """Wait until something is true, 20 s at most."""
    deadline = time.monotonic() + 20
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


def store_request(data: bytes, **options: object) -> list[bytes]:
    """Return the PDUs of a C-STORE request."""
    pieces = [data[at : at + 60_000] for at in range(0, len(data), 60_000)]
    ends = [fragment(piece, LAST if number == len(pieces) else 0) for number, piece in enumerate(pieces, 1)]
    return [fragment(command(**options), COMMAND | LAST), *ends]  # type: ignore[arg-type]


def test_what_an_earlier_process_left_in_the_spool_is_removed(receiver: Receiver, spool: Path) -> None:
    assert list(spool.iterdir()) == []
    assert spool.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("uid", ["1.2.3.4", "1.2.826." + "1234567890." * 5 + "12345", "x" * 200, ""])
def test_a_c_store_is_answered_whatever_uid_it_affects(
    receiver: Receiver, store: ObjectStore, data_set: bytes, uid: str
) -> None:
    for key in [item.key for item in store.list()]:
        store.delete(key)
    with peer(receiver.address) as sender:
        for data in store_request(data_set, uid=uid):
            sender.send(data)
        assert sender.status() == 0
    (item,) = store.list()
    kept = pydicom.dcmread(io.BytesIO(store.get(item.key)))
    assert kept.file_meta.TransferSyntaxUID == wire.EXPLICIT
    assert kept.file_meta.ImplementationClassUID == IMPLEMENTATION_UID
    assert kept.pixel_array.shape == (kept.Rows, kept.Columns)
    assert receiver.counts["stored"] == 1


def test_a_data_set_above_the_limit_is_not_kept_and_the_sender_hears_why(receiver: Receiver, spool: Path) -> None:
    first, *rest = store_request(bytes(2 * 2**20 - 100_000))
    with peer(receiver.address) as sender:
        sender.send(first)
        for data in rest[:-1]:
            sender.send(data)
        assert until(lambda: list(spool.iterdir()) == []), "the file goes while the sender still sends"
        sender.send(rest[-1])
        assert sender.status() == CANNOT_UNDERSTAND
        sender.send(fragment(command(0x30, data_set=0x0101, sop_class=wire.VERIFICATION), COMMAND | LAST, context=3))
        assert sender.status() == 0, "the association goes on"
    assert receiver.counts["failed"] == 1


def test_a_data_set_without_end_is_broken_off(receiver: Receiver, spool: Path) -> None:
    with peer(receiver.address) as sender:
        sender.send(store_request(b"x")[0])
        for _ in range(36):
            sender.send(fragment(bytes(60_000), 0))
        assert sender.status() is None
    assert until(lambda: receiver.counts["aborted"] == 1)
    assert until(lambda: list(spool.iterdir()) == [])


def test_a_transfer_that_is_cut_leaves_nothing_and_is_counted(receiver: Receiver, spool: Path) -> None:
    with peer(receiver.address) as sender:
        for data in store_request(bytes(300_000))[:-1]:
            sender.send(data)
        assert until(lambda: len(list(spool.iterdir())) == 1)
    assert until(lambda: list(spool.iterdir()) == [])
    assert until(lambda: receiver.counts["broken"] == 1)
    assert receiver.counts["aborted"] == 0


COMMANDS = {
    "context-unknown": [fragment(command(), COMMAND | LAST, context=9)],
    "context-unexpected": [fragment(command(), COMMAND | LAST), fragment(b"x", 0, context=3)],
    "command-undecodable": [fragment(command()[:-3], COMMAND | LAST)],
    "command-of-another-group": [fragment(b"\x08\x00" + command()[2:], COMMAND | LAST)],
    "command-incomplete": [fragment(command()[:46], COMMAND | LAST)],
    "command-unknown": [fragment(command(0x7777, data_set=0x0101), COMMAND | LAST)],
    "command-not-negotiated": [fragment(command(0x20), COMMAND | LAST), fragment(b"", LAST)],
    "command-too-large": [fragment(bytes(15_000), COMMAND)] * 2,
    "command-in-a-data-set": [fragment(command(), COMMAND | LAST), fragment(command(), COMMAND | LAST)],
    "data-set-alone": [fragment(bytes(60_000), 0)] * 2,
    "fragment-without-control": [wire.pdu(4, struct.pack(">LB", 1, 1))],
    "fragment-longer-than-its-pdu": [wire.pdu(4, struct.pack(">LBB", 4000, 1, 0))],
    "pdu-too-large": [wire.pdu(4, length=pdu.MAX_P_DATA_BYTES + 1)],
    "pdu-of-4-gib": [wire.pdu(4, length=2**32 - 1)],
    "pdu-of-an-unknown-type": [wire.pdu(9)],
    "release-of-4-gib": [wire.pdu(5, length=2**32 - 1)],
    "second-request": [associate_rq()],
}


REASONS = {
    **{name: (name,) for name in COMMANDS},
    "command-of-another-group": ("command-undecodable",),
    "command-unknown": ("command-undecodable",),
    "command-not-negotiated": ("request-unexpected", "command-undecodable"),
    "command-in-a-data-set": ("request-unexpected",),
    "data-set-alone": ("data-set-unexpected",),
    "fragment-without-control": ("fragment-empty", "pdu-undecodable"),
    "fragment-longer-than-its-pdu": ("pdu-undecodable",),
    "pdu-of-4-gib": ("pdu-too-large",),
    "pdu-of-an-unknown-type": ("pdu-unexpected",),
    "release-of-4-gib": ("pdu-too-large",),
    "second-request": ("pdu-unexpected",),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_breaks_the_protocol_is_aborted_logged_and_counted(
    receiver: Receiver, spool: Path, name: str, logs: list[Any]
) -> None:
    with peer(receiver.address) as sender:
        for data in COMMANDS[name]:
            sender.send(data)
        answer = sender.receive()
        assert answer[:1] == b"\x07", "A-ABORT"
    assert until(lambda: receiver.counts["aborted"] == 1)
    assert until(lambda: list(spool.iterdir()) == [])
    assert until(lambda: len(logs) == 1)
    assert logs[0]["log_level"] == "warning"
    assert logs[0]["reason"] in REASONS[name]
    assert "1.2.3.4" not in str(logs), "a UID is an identifier"


@pytest.mark.parametrize(
    ("options", "status"),
    [({"sop_class": "1.2.840.10008.5.1.4.1.1.2"}, NOT_SUPPORTED), ({"data_set": 0x0101}, CANNOT_UNDERSTAND)],
)
def test_a_request_that_cannot_be_met_has_a_status(receiver: Receiver, options: dict[str, object], status: int) -> None:
    with peer(receiver.address) as sender:
        for data in store_request(b"x", **options)[: 1 if "data_set" in options else 2]:
            sender.send(data)
        assert sender.status() == status
    assert receiver.counts["failed"] == 1


@pytest.mark.parametrize(
    "data",
    [
        wire.pdu(1, length=2**32 - 1), wire.pdu(1, length=pdu.MAX_ASSOCIATE_BYTES + 1), wire.pdu(4, b"x" * 20),
        wire.pdu(9), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", wire.pdu(1, b"x" * 200), wire.pdu(1),
        associate_rq(extra=wire.item(0x50, b"\xff" * 40)),
    ],
)  # fmt: skip
def test_what_is_no_association_request_is_refused_by_its_head(receiver: Receiver, data: bytes) -> None:
    with peer(receiver.address, associated=False) as stranger:
        stranger.send(data)
        assert stranger.receive()[:1] in {b"\x07", b""}
    assert until(lambda: receiver.counts["aborted"] == 1)
    with peer(receiver.address) as sender:
        sender.send(wire.pdu(5, bytes(4)))
        assert sender.receive()[:1] == b"\x06"


def test_silent_connections_take_no_place(receiver: Receiver) -> None:
    silent = [Peer(receiver.address) for _ in range(20)]
    half = [Peer(receiver.address) for _ in range(20)]
    for connection in half:
        connection.send(associate_rq()[:-1])
    try:
        with peer(receiver.address), peer(receiver.address):
            third = Peer(receiver.address)
            third.send(associate_rq())
            assert third.receive()[:1] == b"\x03", "two are allowed, and those that are silent are none"
            third.socket.close()
        assert until(lambda: receiver.counts["rejected"] == 1)
    finally:
        for connection in [*silent, *half]:
            connection.socket.close()


def test_a_silent_association_gives_way_when_all_places_are_taken(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(associations, "GIVE_WAY_SECONDS", 0.2)
    echo = fragment(command(0x30, data_set=0x0101, sop_class=wire.VERIFICATION), COMMAND | LAST, context=3)
    with peer(receiver.address) as silent, peer(receiver.address) as other:
        time.sleep(0.3)
        other.send(echo)
        assert other.status() == 0
        with peer(receiver.address) as third:
            assert silent.receive()[:1] == b"\x07"
            for sender in (other, third):
                sender.send(echo)
                assert sender.status() == 0
    assert until(lambda: receiver.counts["aborted"] == 1)


def test_an_association_that_waits_for_us_does_not_give_way(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, data_set: bytes
) -> None:
    storing, stored = threading.Event(), threading.Event()
    put = ObjectStore.put

    def slow(*arguments: Any, **options: Any) -> Any:
        storing.set()
        stored.wait(20)
        return put(*arguments, **options)

    monkeypatch.setattr(ObjectStore, "put", slow)
    monkeypatch.setattr(associations, "GIVE_WAY_SECONDS", 0.0)
    with peer(receiver.address) as sender, peer(receiver.address):
        for data in store_request(data_set + struct.pack("<HH2sHL", 0xFFFC, 0xFFFC, b"OB", 0, 0)):
            sender.send(data)
        assert storing.wait(20)
        with peer(receiver.address):
            stored.set()
            assert sender.status() == 0


def test_a_silent_connection_is_ended(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(associations, "REQUEST_SECONDS", 0.2)
    for said in (b"", b"\x01\x00", associate_rq()[:60]):
        with peer(receiver.address, associated=False) as stranger:
            stranger.send(said)
            assert stranger.receive() == b""


def test_of_too_many_silent_connections_the_oldest_is_ended(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(associations, "MAX_WAITING", 3)
    silent = []
    for _ in range(4):
        silent.append(Peer(receiver.address))
        time.sleep(0.1)  # accepted in this order
    assert silent[0].receive() == b""
    silent[1].socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        silent[1].socket.recv(1)
    for connection in silent:
        connection.socket.close()


def test_a_stranger_is_ended_before_a_byte_is_read(store: ObjectStore, tmp_path: Path, logs: list[Any]) -> None:
    settings = ReceiverSettings(port=0, addresses=("192.0.2.0/24",))
    receiver = Receiver(settings, store, tmp_path / "spool")
    receiver.start()
    try:
        with peer(receiver.address, associated=False) as stranger:
            assert stranger.receive() == b""
        assert receiver.counts["rejected"] == 1
    finally:
        receiver.stop()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a file system of its own can be mounted as root alone; the next test makes writes fail otherwise")
    yield folder / "spool"
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_answers_a700_and_is_free_again(
    store: ObjectStore, full_disk: Path, data_set: bytes, logs: list[Any]
) -> None:
    receiver = Receiver(ReceiverSettings(port=0), store, full_disk)
    receiver.start()
    try:
        with peer(receiver.address) as sender:
            for data in store_request(bytes(5 * 2**20)):
                sender.send(data)
            assert sender.status() == OUT_OF_RESOURCES
            for data in store_request(data_set):
                sender.send(data)
            assert sender.status() == 0
    finally:
        receiver.stop()


@pytest.fixture
def small_files() -> Iterator[None]:
    """Make the kernel refuse files above 1 MiB; Python ignores the signal that comes with it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_the_kernel_refuses_answers_a700(
    store: ObjectStore, spool: Path, small_files: None, logs: list[Any]
) -> None:
    receiver = Receiver(ReceiverSettings(port=0), store, spool)
    receiver.start()
    try:
        with peer(receiver.address) as sender:
            for data in store_request(bytes(2 * 2**20)):
                sender.send(data)
            assert sender.status() == OUT_OF_RESOURCES
        assert list(spool.iterdir()) == []
    finally:
        receiver.stop()
