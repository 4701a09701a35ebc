"""A compressed frame that announces more than the data set does is refused before a decoder believes it."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import simplejpeg
from pydicom import FileDataset, dcmread
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import UID, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1

from edgerad.phantom import Syntax, random_spec, render, to_dicom
from ship import pixels as px
from ship.frames import announced_sizes

SPEC = random_spec(1, size=256)
PHANTOM = render(SPEC)


def frame_of(syntax: Syntax) -> tuple[FileDataset, bytes]:
    dataset = dcmread(io.BytesIO(to_dicom(PHANTOM, syntax)))
    return dataset, bytes(get_frame(dataset.PixelData, 0, number_of_frames=1))


def baseline() -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.full((48, 64, 1), 90, np.uint8), colorspace="GRAY"))


def with_size(frame: bytes, rows: int, columns: int) -> bytes:
    """The frame with another size in its first frame header."""
    if frame.startswith(b"\xff\x4f"):
        return frame[:8] + struct.pack(">IIII", columns, rows, 0, 0) + frame[24:]
    at = min(found for marker in (b"\xff\xc0", b"\xff\xc3", b"\xff\xf7") if (found := frame.find(marker)) >= 0)
    return frame[: at + 5] + struct.pack(">HH", rows, columns) + frame[at + 9 :]


def test_sizes_are_read_from_every_kind_of_frame() -> None:
    assert announced_sizes(baseline()) == {(48, 64)}
    syntaxes: tuple[Syntax, ...] = ("jpeg2000", "jpeg-lossless")
    for syntax in syntaxes:
        _, frame = frame_of(syntax)
        assert announced_sizes(frame) == {(SPEC.rows, SPEC.cols)}
    near = b"\xff\xd8\xff\xf7\x00\x0b\x08\x00\x30\x00\x40\x01\x01\x11\x00\xff\xda"
    assert announced_sizes(near) == {(48, 64)}


def test_a_thumbnail_in_a_segment_is_not_the_frame_and_a_second_frame_header_is() -> None:
    frame = baseline()
    thumbnail = with_size(frame, 8, 8)
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    assert announced_sizes(frame[:2] + segment + frame[2:]) == {(48, 64)}
    header = frame.find(b"\xff\xc0")
    second = with_size(frame, 9000, 9000)[header : header + 2 + struct.unpack_from(">H", frame, header + 2)[0]]
    assert announced_sizes(frame[:header] + second + frame[header:]) == {(48, 64), (9000, 9000)}


@pytest.mark.parametrize(
    "frame", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"no frame", b"\xff\x4f\xff\x51\x00", b"\xff\xd8\xff\xc0\x00"]
)
def test_what_is_no_frame_announces_nothing(frame: bytes) -> None:
    assert announced_sizes(frame) == set()


@pytest.mark.parametrize("kind", [JPEGBaseline8Bit, JPEGLosslessSV1, JPEG2000Lossless])
def test_a_bomb_is_refused_before_it_is_decoded(kind: UID, monkeypatch: pytest.MonkeyPatch) -> None:
    """65,500 by 65,500 pixels in a few kilobytes: libjpeg takes minutes and gigabytes over it."""
    if kind == JPEGBaseline8Bit:
        dataset = dcmread(io.BytesIO(to_dicom(PHANTOM)))
        dataset.Rows, dataset.Columns = 48, 64
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        frame = baseline()
    else:
        dataset, frame = frame_of("jpeg2000" if kind == JPEG2000Lossless else "jpeg-lossless")
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = kind
    assert px.decode_dicom(dataset, 10**7).shape == (dataset.Rows, dataset.Columns)

    def decoder(_: UID) -> None:
        pytest.fail("a decoder was asked")

    monkeypatch.setattr(px, "get_decoder", decoder)
    dataset.PixelData = encapsulate([with_size(frame, 65500, 65500)])
    with pytest.raises(px.Undecodable, match="another size"):
        px.decode_dicom(dataset, 10**7)
