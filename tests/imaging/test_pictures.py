"""JPEG and PNG pictures: what would take too much memory is refused before it is decoded."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from imaging.codestream import read_codestream
from imaging.limits import Limits
from imaging.pictures import read_jpeg, read_png
from imaging.refusal import Unreadable

PIXELS = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
MEMORY = 400_000
"""Bytes: enough for the baseline JPEG and the grey PNG of these pixels."""


def jpeg(*, progressive: bool, colour: bool = True) -> bytes:
    picture = cv2.cvtColor(PIXELS, cv2.COLOR_GRAY2BGR) if colour else PIXELS
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)])[1].tobytes()


def test_a_progressive_jpeg_keeps_all_coefficients() -> None:
    plain, progressive = (read_codestream(jpeg(progressive=kind)) for kind in (False, True))
    assert (plain.progressive, progressive.progressive) == (False, True)
    assert progressive.decoding_bytes == 3 * plain.decoding_bytes == 256 * 256 * 9


@pytest.mark.parametrize(("progressive", "colour"), [(False, True), (False, False), (True, False), (True, True)])
def test_a_jpeg_that_takes_too_much_memory_is_refused(progressive: bool, colour: bool) -> None:
    data = jpeg(progressive=progressive, colour=colour)
    limits = Limits(max_memory=MEMORY)
    if progressive and colour:
        with pytest.raises(Unreadable) as caught:
            read_jpeg(data, limits)
        assert caught.value.reason == "too-large"
    else:
        assert (read_jpeg(data, limits).rows, read_jpeg(data, limits).columns) == PIXELS.shape


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_png_that_takes_too_much_memory_is_refused(deep: bool, channels: int) -> None:
    picture: npt.NDArray[Any] = PIXELS.astype(np.uint16) * 257 if deep else PIXELS
    if channels > 1:
        picture = np.repeat(picture[..., None], channels, axis=2)
    data = cv2.imencode(".png", picture)[1].tobytes()
    limits = Limits(max_memory=MEMORY)
    if channels == 1:
        assert read_png(data, limits).pixels.shape == PIXELS.shape
    else:
        with pytest.raises(Unreadable) as caught:
            read_png(data, limits)
        assert caught.value.reason == "too-large"
    assert read_png(data, Limits()).pixels.shape == PIXELS.shape


def test_a_small_png_that_declares_a_huge_one_is_refused() -> None:
    header = struct.pack(">IIBBBBB", 7900, 7900, 16, 6, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I4s", len(body), name) + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    with pytest.raises(Unreadable) as caught:
        read_png(data, Limits())
    assert caught.value.reason == "too-large"
