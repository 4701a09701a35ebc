"""What identifies a received instance, and the key that its content has; hostile files take no memory."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from edgerad import ids
from edgerad.phantom import random_spec, render, to_dicom
from ingest.arrival import file_header
from ingest.instance import NotUnderstood, content_digest, identify, instance_prefix, object_key
from tests.ingest.wire import CR, DEFLATED, EXPLICIT

PLAIN = to_dicom(render(random_spec((48, 1), size=256)))
DATA_SET = PLAIN[144 + struct.unpack_from("<L", PLAIN, 140)[0] :]
MIB = 2**20


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """Return an element with a 32-bit length, explicit little endian."""
    return struct.pack("<HH2sHL", group, number, vr, 0, len(value)) + value


def identified(folder: Path, data: bytes, limit: int = 512 * MIB) -> tuple[str, str, str]:
    """Write a file and identify it."""
    path = folder / "file.dcm"
    path.write_bytes(data)
    with path.open("rb") as file:
        found = identify(file, limit)
    return found.study_uid, found.instance_uid, found.storage_class


def digest(data: bytes) -> str:
    return content_digest(io.BytesIO(data))


def test_the_identity_is_read_and_the_key_holds_no_identifier(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(io.BytesIO(PLAIN))
    study, instance, storage_class = identified(tmp_path, PLAIN)
    assert (study, instance) == (dataset.StudyInstanceUID, dataset.SOPInstanceUID)
    assert storage_class == dataset.SOPClassUID
    key = object_key(study, instance, digest(PLAIN))
    assert key.startswith(instance_prefix(study, instance))
    assert not any(part in key for part in (study, instance))


def test_a_study_shares_a_folder_and_contents_do_not_share_a_key() -> None:
    keys = [object_key("1.2", instance, content * 64) for instance in ("1.3", "1.4") for content in "ab"]
    assert len(set(keys)) == 4
    assert len({ids.study_key(key) for key in keys}) == 1
    assert ids.study_key(object_key("1.20", "1.3", "a" * 64)) != ids.study_key(keys[0])


def test_the_file_meta_information_is_no_content_and_the_transfer_syntax_is() -> None:
    other_meta = file_header(CR, "1.2.3", EXPLICIT) + DATA_SET
    long_meta = PLAIN[:132] + element(2, 1, b"OB", bytes(10_000)) + other_meta[158:]
    assert digest(PLAIN) == digest(other_meta) == digest(long_meta)
    assert digest(file_header(CR, "1.2.3", "1.2.840.10008.1.2") + DATA_SET) != digest(PLAIN)
    assert digest(PLAIN[:-1]) != digest(PLAIN)


@given(st.integers(0, len(PLAIN) - 1), st.integers(1, 255))
def test_a_changed_byte_is_another_content_unless_it_is_in_the_meta(at: int, change: int) -> None:
    other = bytearray(PLAIN)
    other[at] ^= change
    assert at < len(PLAIN) - len(DATA_SET) or digest(bytes(other)) != digest(PLAIN)


def test_a_meta_information_that_leads_past_the_end_hides_no_content() -> None:
    files = [PLAIN[:132] + struct.pack("<HH2sHL", 2, 1, b"OB", 0, 2**31) + end for end in (b"first", b"other")]
    assert digest(files[0]) != digest(files[1])


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SOPInstanceUID"])
def test_without_identity_it_is_not_understood(tmp_path: Path, keyword: str) -> None:
    dataset = pydicom.dcmread(io.BytesIO(PLAIN))
    delattr(dataset, keyword)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    with pytest.raises(NotUnderstood, match="missing"):
        identified(tmp_path, buffer.getvalue())


def test_a_uid_is_taken_as_it_is_written(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(io.BytesIO(PLAIN))
    buffer = io.BytesIO()
    long = "1.2.826.0.1." + "9" * 80
    with pydicom.config.disable_value_validation():
        dataset.SOPInstanceUID = UID(long)
        dataset.save_as(buffer)
    assert identified(tmp_path, buffer.getvalue())[1] == long
    assert (
        identified(tmp_path, buffer.getvalue().replace(b"1.2.826.0.1.", b"not a UID <>"))[1]
        == "not a UID <>" + "9" * 80
    )


@given(st.lists(st.tuples(st.integers(128, 2000), st.integers(0, 255)), max_size=6), st.integers(0, 3000))
def test_nothing_but_not_understood_comes_of_a_damaged_file(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(PLAIN[: len(PLAIN) - cut])
    for at, value in changes:
        data[at] = value
    try:
        study, instance, _ = identified(tmp_path_factory.getbasetemp(), bytes(data))
    except NotUnderstood as refusal:
        text = str(refusal)
        quoted = [name for name in str(pydicom.dcmread(io.BytesIO(PLAIN)).PatientName).split("^") if name in text]
        assert not quoted, text
    else:
        assert study
        assert instance


def deflated(size: int, meta: bytes = b"") -> bytes:
    """Return a file whose data set inflates to a bit more than `size` bytes of one value."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(DATA_SET[: DATA_SET.index(b"\x28\x00\x02\x00")])
    packed += packer.compress(struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, size))
    for _ in range(size // MIB):
        packed += packer.compress(bytes(MIB))
    head = file_header(CR, "1.2.3", DEFLATED)
    return head[:144] + meta + head[144:] + packed + packer.flush()


HOSTILE = {
    "deflate bomb": lambda: deflated(600 * MIB),
    "deflate bomb, smaller": lambda: deflated(200 * MIB),
    "deflate bomb behind a long meta information": lambda: deflated(200 * MIB, element(2, 1, b"OB", bytes(5000))),
    "deflate bomb that ends early": lambda: deflated(600 * MIB)[:-5000],
    "nested sequences": lambda: (
        PLAIN[: -len(DATA_SET)] + struct.pack("<HH2sHLHHL", 8, 0x1140, b"SQ", 0, 2**32 - 1, 0xFFFE, 0xE000, 2**32 - 1)
        * 5000
    ),
    "many elements": lambda: PLAIN[: -len(DATA_SET)] + struct.pack("<HH2sH", 8, 5, b"CS", 0) * 60_000 + DATA_SET,
    "a large element before the identity": lambda: (
        PLAIN[: -len(DATA_SET)] + element(8, 1, b"OB", bytes(64 * MIB)) + DATA_SET
    ),
    "a large element in a sequence before the identity": lambda: (
        PLAIN[: -len(DATA_SET)]
        + struct.pack("<HH2sHLHHL", 8, 6, b"SQ", 0, 2**32 - 1, 0xFFFE, 0xE000, 2**32 - 1)
        + element(9, 1, b"OB", bytes(64 * MIB)) + DATA_SET
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_is_not_understood_and_takes_no_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "hostile.dcm"
    path.write_bytes(HOSTILE[name]())
    tracemalloc.start()
    with path.open("rb") as file, pytest.raises(NotUnderstood):
        identify(file, 512 * MIB)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * MIB


def test_a_deflated_image_is_identified(tmp_path: Path) -> None:
    assert identified(tmp_path, deflated(20 * MIB)) == identified(tmp_path, PLAIN)


def test_a_file_above_the_limit_is_not_understood(tmp_path: Path) -> None:
    assert identified(tmp_path, PLAIN, len(PLAIN))
    with pytest.raises(NotUnderstood, match="too-large"):
        identified(tmp_path, PLAIN, len(PLAIN) - 1)
