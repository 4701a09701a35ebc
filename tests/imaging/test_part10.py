"""Files: hostile ones are refused before they are parsed, damaged ones keep whose image it is."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset, dcmwrite, uid
from pydicom.sequence import Sequence

from imaging.dicom import dicom_image
from imaging.guard import check_file, layout
from imaging.limits import DEFAULT_LIMITS, MIB, Limits
from imaging.part10 import read_dicom
from imaging.refusal import Unreadable
from imaging.stored import stored_pixels
from tests.imaging.files import NAME, PATIENT, STUDY, chest, dataset, in_fragments, put, written

WHO = {"PatientName": NAME, "PatientID": PATIENT, "StudyInstanceUID": STUDY}


def refusal(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        read_dicom(data, limits)
    return caught.value


def keeps(refused: Unreadable) -> bool:
    return WHO.items() <= refused.header.items()


def deflated(body: bytes, meta_padding: int = 0) -> bytes:
    """A deflated file whose data set is `body`; the meta information may hide the syntax behind a long element."""
    elements = b"\x02\x00\x01\x00OB\0\0" + struct.pack("<I", 2 + meta_padding) + b"\0\1" + b"\0" * meta_padding
    syntax = uid.DeflatedExplicitVRLittleEndian.encode()
    syntax += b"\0" * (len(syntax) % 2)
    elements += b"\x02\x00\x10\x00UI" + struct.pack("<H", len(syntax)) + syntax
    meta = b"\x02\x00\x00\x00UL\x04\x00" + struct.pack("<I", len(elements)) + elements
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return b"\0" * 128 + b"DICM" + meta + packer.compress(body) + packer.flush()


@pytest.mark.parametrize("meta_padding", [0, 4000])
def test_a_deflated_bomb_is_refused_wherever_its_syntax_stands(meta_padding: int) -> None:
    bomb = deflated(b"\0" * (3 * MIB), meta_padding)
    assert refusal(bomb, Limits(max_bytes=2 * MIB)).reason == "too-large"


def test_a_deflated_file_that_ends_early_is_truncated() -> None:
    body = written(dataset())[132:]
    refused = refusal(deflated(body[12 + struct.unpack_from("<I", body, 8)[0] :])[:-400])
    assert refused.reason == "truncated"
    assert keeps(refused)


def test_a_deflated_file_is_read_whole_however_its_pieces_fall() -> None:
    """zlib may hold output when all input is consumed: sizes around its own buffers are tried."""
    body = written(dataset())[132:]
    body = body[12 + struct.unpack_from("<I", body, 8)[0] :]
    for more in (0, 1, 2**15, 2**16 - 3, 2**20 - 1, 2**20 + 7):
        found = read_dicom(deflated(body + bytes(more + more % 2)))
        cells = stored_pixels(found, DEFAULT_LIMITS).cells
        assert cells is not None
        np.testing.assert_array_equal(cells.values, chest())


def test_of_a_deflated_file_on_disk_only_the_header_is_kept(tmp_path: Path) -> None:
    body = written(dataset(chest(12).repeat(8, 0).repeat(8, 1)))[132:]
    start = 12 + struct.unpack_from("<I", body, 8)[0]
    path = tmp_path / "deflated.dcm"
    path.write_bytes(deflated(body[start:]))
    with path.open("rb") as file:
        found = check_file(file)
        assert PATIENT.encode() in bytes(found.body[: 2**12])
    small = layout(path.read_bytes(), keep=100_000)
    assert len(small.body) < 2 * MIB < len(found.body)


@pytest.mark.parametrize("undefined", [True, False])
def test_nesting_is_limited(undefined: bool) -> None:
    inner = Dataset()
    inner.CodeValue = "1"
    for _ in range(40):
        outer = Dataset()
        outer.ConceptNameCodeSequence = Sequence([inner])
        outer["ConceptNameCodeSequence"].is_undefined_length = undefined
        inner = outer
    made = dataset()
    made.AnatomicRegionSequence = Sequence([inner])
    refused = refusal(written(made))
    assert refused.reason == "corrupt"
    assert keeps(refused), "whose image it is stands before what is refused"
    assert read_dicom(written(made), Limits(max_depth=50)).header["PatientID"] == PATIENT


def test_the_number_of_elements_is_limited(tmp_path: Path) -> None:
    made = dataset()
    made.AnatomicRegionSequence = Sequence([Dataset() for _ in range(60_000)])
    data = written(made)
    assert refusal(data).reason == "too-large"
    path = tmp_path / "many.dcm"
    path.write_bytes(data)
    with path.open("rb") as file, pytest.raises(Unreadable):
        check_file(file)


def test_an_icon_with_compressed_pixels_is_passed_over() -> None:
    made = dataset()
    icon = Dataset()
    icon.Rows = icon.Columns = 64
    icon.add_new("PixelData", "OB", b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\x08\0\0\0\xff\xd8\x10\x00SQ\xff\xd9")
    icon["PixelData"].is_undefined_length = True
    made.IconImageSequence = Sequence([icon])
    out = io.BytesIO()
    dcmwrite(out, made, enforce_file_format=True)
    found = stored_pixels(read_dicom(out.getvalue()), DEFAULT_LIMITS).cells
    assert found is not None
    np.testing.assert_array_equal(found.values, chest())


def test_the_fragments_of_an_icon_are_limited() -> None:
    made = dataset()
    icon = Dataset()
    icon.Rows = icon.Columns = 64
    icon.add_new("PixelData", "OB", b"\xfe\xff\x00\xe0\0\0\0\0" * 60_000)
    icon["PixelData"].is_undefined_length = True
    made.IconImageSequence = Sequence([icon])
    assert refusal(written(made)).reason == "too-large"


def test_a_file_cut_anywhere_behind_the_identity_keeps_it() -> None:
    data = written(dataset())
    behind_identity = data.index(STUDY.encode()) + len(STUDY) + 2
    pixels = data.index(b"\xe0\x7f\x10\x00")
    for end in range(behind_identity, pixels, 3):
        with pytest.raises(Unreadable) as caught:
            dicom_image(data[:end])
        assert keeps(caught.value), end
        assert caught.value.reason in {"truncated", "no-pixels"}
    with pytest.raises(Unreadable) as caught:
        dicom_image(data[: pixels + 4000])
    assert caught.value.reason == "truncated"
    assert keeps(caught.value)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.110", "1.2.840.113619.5.2", "1.2.840.10008.1.2.4.100"])
def test_other_transfer_syntaxes_are_unsupported(syntax: str) -> None:
    made = dataset()
    data = written(made).replace(b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x18\x00" + syntax.encode().ljust(24, b"\0"))
    with pytest.raises(Unreadable) as caught:
        stored_pixels(read_dicom(data), DEFAULT_LIMITS)
    assert caught.value.reason == "unsupported"


@pytest.mark.parametrize(
    ("keyword", "vr", "value", "shown"),
    [
        ("PatientID", "LO", ["HOSP", "00123"], "HOSP\\00123"),
        ("AccessionNumber", "SH", ["A", "", "7"], "A\\\\7"),
        ("StudyDate", "DA", "2021.01.02", "20210102"),
        ("StudyTime", "TM", "10:20:30.5", "102030.5"),
        ("StudyTime", "TM", "10:20", "1020"),
        ("StudyDate", "DA", "20240230", "20240230"),
        ("PatientName", "PN", "=山田^太郎", "=山田^太郎"),
        ("PatientName", "PN", "", None),
        ("BodyPartExamined", "CS", " chest ", "chest"),
    ],
)
def test_the_header_of_the_worklist(keyword: str, vr: str, value: object, shown: str | None) -> None:
    made = dataset(SpecificCharacterSet="ISO_IR 192")
    assert read_dicom(written(put(made, keyword, vr, value))).header.get(keyword) == shown


def test_large_private_values_are_passed_over_and_many_are_refused() -> None:
    made = dataset()
    block = made.private_block(0x0029, "TEST", create=True)
    block.add_new(0x01, "OB", bytes(2 * MIB))
    found = read_dicom(written(made))
    assert found.header["PatientID"] == PATIENT
    assert stored_pixels(found, DEFAULT_LIMITS).cells is not None
    assert found.dataset._dict[block.get_tag(0x01)].value is None
    for number in range(2, 12):
        block.add_new(number, "OB", bytes(200_000))
    refused = refusal(written(made), Limits(max_header=MIB))
    assert (refused.reason, keeps(refused)) == ("too-large", True)


def test_floating_point_pixels_are_unsupported() -> None:
    made = dataset()
    del made.PixelData
    made.add_new("FloatPixelData", "OF", bytes(64))
    assert refusal(written(made)).reason == "unsupported"


def test_fragments_under_a_native_syntax_are_read_for_what_they_are() -> None:
    frame = imagecodecs.jpeg2k_encode(chest(), level=0, codecformat="j2k", reversible=True, bitspersample=12)
    made = in_fragments(dataset(), uid.JPEG2000Lossless, frame)
    data = written(made).replace(b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.1\0\0\0")
    found = stored_pixels(read_dicom(data), DEFAULT_LIMITS).cells
    assert found is not None
    np.testing.assert_array_equal(found.values, chest())


def test_native_pixels_under_a_compressed_syntax_are_a_contradiction() -> None:
    data = written(dataset()).replace(b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x16\x001.2.840.10008.1.2.4.90")
    with pytest.raises(Unreadable) as caught:
        dicom_image(data)
    assert (caught.value.reason, keeps(caught.value)) == ("contradiction", True)


def test_extra_bytes_behind_native_pixels_are_a_contradiction_unless_they_are_padding() -> None:
    made = dataset(chest(8).astype(np.uint8), 8)
    whole = made.PixelData
    for padding in (bytes(300), b"\7" * 14):
        made.PixelData = whole + padding
        assert stored_pixels(read_dicom(written(made)), DEFAULT_LIMITS).cells is not None
    made.PixelData = whole + bytes(chest().shape[0])  # one more column, dark at its end
    with pytest.raises(Unreadable) as caught:
        stored_pixels(read_dicom(written(made)), DEFAULT_LIMITS)
    assert (caught.value.reason, "Columns" in caught.value.detail) == ("contradiction", True)
    made.PixelData = whole
    assert stored_pixels(read_dicom(written(made)), DEFAULT_LIMITS).cells is not None
    made.PixelData = chest(12).tobytes()  # 16-bit data under BitsAllocated 8
    with pytest.raises(Unreadable) as caught:
        stored_pixels(read_dicom(written(made)), DEFAULT_LIMITS)
    assert (caught.value.reason, "BitsAllocated" in caught.value.detail) == ("contradiction", True)
