"""Pictures for people: right way round, windowed as the standard says, and never decoded when too large."""

import io
import struct
import zlib

import cv2
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerad.phantom import random_spec, render, to_dicom, to_jpeg
from imaging.display import NotDisplayable, Picture, picture, png

RAMP = Picture(np.arange(256, dtype=np.float32).reshape(16, 16), 0.0, 255.0)


def test_both_photometric_interpretations_look_the_same() -> None:
    phantom = render(random_spec(3, size=256))
    shown = []
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        dataset = pydicom.dcmread(io.BytesIO(to_dicom(phantom)))
        if dataset.PhotometricInterpretation != photometric:
            dataset.PhotometricInterpretation = photometric
            dataset.PresentationLUTShape = "INVERSE" if photometric == "MONOCHROME1" else "IDENTITY"
            pixels = dataset.pixel_array.astype(int)
            dataset.PixelData = ((1 << dataset.BitsStored) - 1 - pixels).astype(dataset.pixel_array.dtype).tobytes()
        written = io.BytesIO()
        dataset.save_as(written)
        found = picture(written.getvalue())
        assert found.inverted is (photometric == "MONOCHROME1")
        shown.append(found.window((found.low + found.high) / 2, found.high - found.low))
    assert np.abs(shown[0].astype(int) - shown[1]).max() <= 1
    jpeg = cv2.resize(picture(to_jpeg(phantom)).values, shown[0].shape[::-1])
    assert np.corrcoef(shown[0].ravel(), jpeg.ravel())[0, 1] > 0.9, "bright is dense in the JPEG too"


def test_a_linear_window_is_that_of_the_standard() -> None:
    # PS3.3 C.11.2.1.2.1: c - 0.5 - (w - 1) / 2 and below is black, c - 0.5 + (w - 1) / 2 and above is white.
    grey = RAMP.window(128, 101).ravel()
    assert grey[77] == 0
    assert grey[178] == 255
    assert 0 < grey[78] < grey[177] < 255
    assert np.array_equal(RAMP.window(128, 101, invert=True).ravel(), 255 - grey)


@given(st.floats(0.1, 20), st.floats(-1, 2), st.floats(-1, 2), st.integers(1, 400))
def test_any_part_is_a_part(zoom: float, x: float, y: float, side: int) -> None:
    found = RAMP.part(zoom, x, y, side)
    assert 1 <= max(found.values.shape) <= max(min(side, 16), 1)
    assert found.values.min() >= 0
    assert found.values.max() <= 255


def test_zooming_shows_the_corner_that_was_asked_for() -> None:
    assert np.array_equal(RAMP.part(4, 1.0, 0.0, 100).values, RAMP.values[:4, 12:])
    assert np.array_equal(RAMP.part(1, 0.5, 0.5, 100).values, RAMP.values)


def test_png_keeps_every_grey() -> None:
    grey = RAMP.window(128, 256)
    decoded = cv2.imdecode(np.frombuffer(png(grey), np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    assert np.array_equal(decoded, grey)


@pytest.mark.parametrize("color", [False, True])
def test_16_bit_and_colour_png(color: bool) -> None:
    grey = (np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64)
    _, data = cv2.imencode(".png", cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR) if color else grey)
    assert np.allclose(picture(data.tobytes()).values, grey, atol=1)


def test_too_large_is_refused_before_it_is_decoded() -> None:
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 40_000, 40_000, 8, 0, 0, 0, 0)
    chunk = header + struct.pack(">I", zlib.crc32(header[12:])) + struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
    jpeg = cv2.imencode(".jpg", np.zeros((64, 64), np.uint8))[1].tobytes()
    at = jpeg.index(b"\xff\xc0") + 5
    huge = jpeg[:at] + struct.pack(">HH", 10_000, 10_000) + jpeg[at + 4 :]
    for data in (chunk, huge):
        with pytest.raises(NotDisplayable, match="megapixels"):
            picture(data)


def test_several_frames_are_refused() -> None:
    dataset = pydicom.dcmread(io.BytesIO(to_dicom(render(random_spec(1, size=256)))))
    dataset.NumberOfFrames = 5000
    many = io.BytesIO()
    dataset.save_as(many)
    with pytest.raises(NotDisplayable, match="5000 frames"):
        picture(many.getvalue())


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\0" * 128 + b"DICM"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(NotDisplayable):
        picture(data)


def test_an_error_does_not_quote_the_file() -> None:
    data = to_dicom(render(random_spec(2, size=256)))
    name = str(pydicom.dcmread(io.BytesIO(data)).PatientName)
    with pytest.raises(NotDisplayable) as error:
        picture(data[: len(data) // 2])
    assert name.partition("^")[0] not in str(error.value)
