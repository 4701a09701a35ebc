"""What codestreams declare: read without a decoder, and believed only where it is clear."""

from __future__ import annotations

import struct
from functools import cache

import imagecodecs
import numpy as np
import pytest
from pydicom import uid

from imaging.codestream import BadCodestream, Family, read_codestream
from imaging.limits import Limits
from imaging.part10 import read_dicom
from imaging.refusal import Unreadable
from imaging.stored import stored_pixels
from tests.imaging.files import dataset, in_fragments, written

ROWS, COLUMNS = 96, 80


@cache
def frame(family: Family) -> bytes:
    """A grey frame of 8 bits."""
    grey = np.random.default_rng(7).integers(0, 256, (ROWS, COLUMNS)).astype(np.uint8)
    match family:
        case "jpeg":
            return bytes(imagecodecs.jpeg_encode(grey, level=90))
        case "jpeg-lossless":
            return bytes(imagecodecs.jpeg_encode(grey, lossless=True, predictor=1))
        case "jpeg-ls":
            return bytes(imagecodecs.jpegls_encode(grey))
        case "jpeg-2000":
            return bytes(imagecodecs.jpeg2k_encode(grey, level=0, codecformat="j2k", reversible=True))


FAMILIES: dict[Family, uid.UID] = {
    "jpeg": uid.JPEGBaseline8Bit,
    "jpeg-lossless": uid.JPEGLosslessSV1,
    "jpeg-ls": uid.JPEGLSLossless,
    "jpeg-2000": uid.JPEG2000Lossless,
}


def header_at(data: bytes) -> int:
    """Return where the frame header of a JPEG or JPEG-LS begins."""
    return min(at for marker in (b"\xff\xc0", b"\xff\xc3", b"\xff\xf7") if (at := data.find(marker)) >= 0)


def with_size(data: bytes, rows: int, columns: int) -> bytes:
    """The frame with another size in its frame header."""
    if data.startswith(b"\xff\x4f"):
        return data[:8] + struct.pack(">IIII", columns, rows, 0, 0) + data[24:]
    at = header_at(data)
    return data[: at + 5] + struct.pack(">HH", rows, columns) + data[at + 9 :]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_says_its_size_depth_and_end(family: Family) -> None:
    found = read_codestream(frame(family) + b"\0\0padding")
    assert (found.family, found.rows, found.columns, found.components) == (family, ROWS, COLUMNS, 1)
    assert (found.precision, found.signed, found.length) == (8, False, len(frame(family)))
    assert read_codestream(frame(family)[:-2]).length is None


def test_a_thumbnail_in_a_segment_is_not_the_frame_and_a_second_frame_header_is_refused() -> None:
    data = frame("jpeg")
    thumbnail = with_size(data, 8, 8)
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    assert read_codestream(data[:2] + segment + data[2:]).rows == ROWS
    at = header_at(data)
    second = with_size(data, 9000, 9000)[at : at + 2 + struct.unpack_from(">H", data, at + 2)[0]]
    with pytest.raises(BadCodestream):
        read_codestream(data[:at] + second + data[at:])


@pytest.mark.parametrize("family", FAMILIES)
def test_two_codestreams_in_one_frame_are_refused(family: Family) -> None:
    with pytest.raises(BadCodestream):
        read_codestream(frame(family) + with_size(frame(family), 9000, 9000))


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"no frame", b"\xff\x4f\xff\x51\x00", b"\xff\xd8\xff\xc0\x00"]
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(BadCodestream):
        read_codestream(data)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bomb_is_refused_before_a_decoder_is_asked(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """65,500 by 65,500 pixels in a few kilobytes: a decoder would take minutes and gigabytes over it."""

    def read(data: bytes) -> object:
        made = in_fragments(dataset(np.zeros((ROWS, COLUMNS), np.uint8), 8), FAMILIES[family], data)
        return stored_pixels(read_dicom(written(made)), Limits()).cells

    assert read(frame(family)) is not None
    monkeypatch.setattr("imaging.stored.decode_frame", lambda *_: pytest.fail("a decoder was asked"))
    with pytest.raises(Unreadable) as caught:
        read(with_size(frame(family), 65500, 65500))
    assert caught.value.reason == "contradiction"
    assert "Rows (0028,0010)" in caught.value.detail


def test_samples_beyond_the_precision_of_their_codestream_are_corrupt() -> None:
    """A lossless JPEG adds differences: damage can carry them out of the range, and no reader may guess."""
    values = np.full((ROWS, COLUMNS), 4095, np.uint16)
    values[50:] = 5000
    data = bytearray(imagecodecs.jpeg_encode(values, lossless=True, predictor=1, bitspersample=16))
    data[header_at(bytes(data)) + 4] = 12
    made = in_fragments(dataset(np.zeros((ROWS, COLUMNS), np.uint16), 12), uid.JPEGLosslessSV1, data)
    with pytest.raises(Unreadable) as caught:
        stored_pixels(read_dicom(written(made)), Limits())
    assert caught.value.reason == "corrupt"
