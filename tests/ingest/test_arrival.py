"""A C-STORE request as it arrives: its command set, the file header that is written for it, and its end."""

from __future__ import annotations

import io
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.arrival import (
    CANNOT_UNDERSTAND,
    MAX_UID,
    MESSAGE_ID,
    SOP_INSTANCE,
    SUCCESS,
    Arrival,
    ProtocolFault,
    file_header,
    number,
    parse_command,
    uid,
)
from ingest.instance import content_hash
from ingest.spool import Spool, Spooled, TooLarge
from tests.ingest.wire import CR, EXPLICIT, command


@given(st.binary(max_size=300))
def test_any_bytes_are_a_command_set_or_a_fault(data: bytes) -> None:
    try:
        found, reason = parse_command(data), None
    except ProtocolFault as fault:
        found, reason = {}, fault.reason
    assert reason in {None, "command-undecodable"}
    assert sum(8 + len(value) for value in found.values()) <= len(data)


def test_a_command_set_is_read() -> None:
    found = parse_command(command(message=513, uid="1.2.3"))
    assert (number(found, MESSAGE_ID), uid(found, SOP_INSTANCE)) == (513, "1.2.3")
    with pytest.raises(ProtocolFault, match="command-incomplete"):
        number(found, SOP_INSTANCE)


@given(st.text("0123456789.", max_size=MAX_UID + 5), st.text(max_size=20))
def test_a_file_header_is_read_by_pydicom_whatever_the_uids_are(instance: str, storage_class: str) -> None:
    header = file_header(storage_class, instance, EXPLICIT)
    meta = pydicom.dcmread(io.BytesIO(header + b"\x08\x00\x60\x00CS\x02\x00CR"))
    assert meta.file_meta.FileMetaInformationGroupLength == len(header) - 144
    assert meta.file_meta.TransferSyntaxUID == EXPLICIT
    assert meta.file_meta.get_item("MediaStorageSOPInstanceUID").value.decode().rstrip("\0") == (
        instance if len(instance) <= MAX_UID else ""
    )
    assert meta.Modality == "CR"


def test_a_file_is_hashed_as_it_comes_and_limited(tmp_path: Path) -> None:
    spooled = Spooled(tmp_path / "file", 10, content_hash(EXPLICIT))
    spooled.begin(b"a header that does not count")
    spooled.write(b"12345")
    spooled.write(memoryview(b"67890"))
    whole = content_hash(EXPLICIT)
    whole.update(b"1234567890")
    assert spooled.digest.hexdigest() == whole.hexdigest()
    assert (tmp_path / "file").stat().st_mode & 0o077 == 0
    with pytest.raises(TooLarge):
        spooled.write(b"1")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TooLarge):
        spooled.write(b"")
    spooled.discard()


def test_after_a_failure_the_rest_is_dropped_up_to_twice_the_limit(tmp_path: Path) -> None:
    arrival = Arrival.begin(parse_command(command()), 1, EXPLICIT, Spool(tmp_path / "spool"), 10)
    assert (arrival.status, arrival.sop_class) == (SUCCESS, CR)
    arrival.take(b"12345678901", last=False)
    assert (arrival.status, arrival.why) == (CANNOT_UNDERSTAND, "too-large")
    arrival.take(b"123456789", last=False)
    with pytest.raises(ProtocolFault, match="data-set-without-end"):
        arrival.take(b"1", last=True)
    assert list((tmp_path / "spool").iterdir()) == []
