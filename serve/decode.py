"""Decode an uploaded object to grey pixels, or say why not: JPEG, PNG and DICOM, told apart by their first bytes.

Sizes are checked in the headers before anything is decoded, so that a hostile or mistaken file costs neither memory
nor time.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from serve.preprocess import AREA_TYPES, GRID, Plane, to_grid
from serve.reasons import Unreadable
from serve.screen import check_pixels, chroma

Grey = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"


@dataclass(frozen=True)
class Limits:
    """What is refused before decoding, and how far to decode."""

    max_pixels: int = 64_000_000
    max_bytes: int = 160 * 1024 * 1024  # 64 megapixels of 16 bit, and a generous header
    min_side: int = 64
    reduce_to: int | None = 2 * GRID
    """Decode no finer than this many pixels on the shorter side (the model needs fewer); None for full resolution."""


@dataclass(frozen=True)
class DecodedImage:
    """Grey pixels [rows, columns], uint8 or uint16, bright where the body is dense (as MONOCHROME2).

    `header` holds DICOM keywords for the worklist and is patient data; empty for JPEG and PNG.
    `rows` and `columns` are those of the original, which `pixels` may be a reduction of.
    """

    pixels: Grey
    format: str
    rows: int
    columns: int
    header: dict[str, str] = field(default_factory=dict, repr=False)

    @cached_property
    def grid(self) -> npt.NDArray[np.float32]:
        """The pixels on the grid of preprocessing, float32 [GRID, GRID]; made once for all who look at it."""
        return to_grid(self.pixels)


def decode(data: bytes, limits: Limits = Limits()) -> DecodedImage:
    """Decode one object to grey pixels.

    Raises Unreadable with a reason code of `serve.reasons`; nothing else is raised for bad data.
    """
    if not data:
        raise Unreadable("empty", "the object has 0 bytes")
    if len(data) > limits.max_bytes:
        raise Unreadable("too-large", f"{len(data)} bytes, the limit is {limits.max_bytes}")
    if data.startswith(JPEG_MAGIC):
        image, colour = _decode_jpeg(data, limits)
    elif data.startswith(PNG_MAGIC):
        image, colour = _decode_png(data, limits)
    elif data[128:132] == b"DICM" or data[:2] in (b"\x08\x00", b"\x02\x00"):
        from serve.dicom import decode_dicom

        image, colour = decode_dicom(data, limits)
    elif len(data) < 132 and not data.strip(b"\0"):
        raise Unreadable("truncated", f"{len(data)} bytes, all of them 0")
    else:
        raise Unreadable("unsupported", "the first bytes are not those of DICOM, JPEG or PNG")
    check_pixels(image.pixels, colour, image.grid)
    return image


def check_size(rows: int, columns: int, limits: Limits) -> None:
    """Raise Unreadable if an image of this size is too large or too small."""
    if rows * columns > limits.max_pixels:
        megapixels = f"{rows * columns / 1e6:.1f} megapixels"
        raise Unreadable("too-large", f"{megapixels}, the limit is {limits.max_pixels / 1e6:g}")
    if min(rows, columns) < limits.min_side:
        raise Unreadable("too-small", f"{columns} x {rows} pixels, at least {limits.min_side} a side are needed")


def reduce_pixels(pixels: Plane, reduce_to: int | None) -> Plane:
    """Average whole blocks so that the shorter side stays at or above `reduce_to`; the dtype stays."""
    factor = min(pixels.shape[:2]) // reduce_to if reduce_to else 1
    if factor < 2:
        return pixels
    rows, columns = (length // factor for length in pixels.shape[:2])
    whole = pixels[: rows * factor, : columns * factor]
    if whole.dtype in AREA_TYPES:
        return cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
    # Through float64, which holds what 32 bits hold; the tables that follow are indexed by whole numbers.
    means = cv2.resize(whole.astype(np.float64), (columns, rows), interpolation=cv2.INTER_AREA)
    return np.rint(means).astype(pixels.dtype)


def _decode_jpeg(data: bytes, limits: Limits) -> tuple[DecodedImage, float]:
    try:
        rows, columns, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except Exception as error:  # noqa: BLE001 - simplejpeg raises KeyError for some damage
        raise Unreadable(_jpeg_reason(data, error), "the JPEG header does not decode") from None
    check_size(rows, columns, limits)
    if colorspace not in {"Gray", "YCbCr", "RGB"}:
        raise Unreadable("unsupported", f"a JPEG in colour space {colorspace}; send grey or RGB")
    least = limits.reduce_to or 0
    try:
        # DCT scaling: libjpeg computes only as many coefficients as the reduced size needs.
        grey = simplejpeg.decode_jpeg(data, "GRAY", min_height=min(rows, least), min_width=min(columns, least))
        colour = 0.0
        if colorspace != "Gray":
            small = simplejpeg.decode_jpeg(data, "RGB", min_height=1, min_width=1, min_factor=8)
            colour = chroma(small)
    except MemoryError:
        raise Unreadable("too-large", "not enough memory to decode the JPEG") from None
    except Exception as error:  # noqa: BLE001 - as above
        raise Unreadable(_jpeg_reason(data, error), "the JPEG data do not decode") from None
    return DecodedImage(grey[:, :, 0], "jpeg", rows, columns), colour


def _jpeg_reason(data: bytes, error: Exception) -> str:
    text = str(error)
    if "Unsupported" in text or "not supported" in text:
        return "unsupported"
    early = "Premature end" in text or data.rstrip(b"\0")[-2:] != b"\xff\xd9"
    return "truncated" if early else "corrupt"


def _decode_png(data: bytes, limits: Limits) -> tuple[DecodedImage, float]:
    columns, rows = _check_png(data)
    check_size(rows, columns, limits)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise Unreadable("corrupt", "the PNG data do not decode")
    colour = 0.0
    if pixels.ndim == 3:
        rgb = np.ascontiguousarray(pixels[:, :, 2::-1])
        colour = chroma(rgb)
        pixels = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    reduced = reduce_pixels(pixels, limits.reduce_to)
    return DecodedImage(_as_grey(reduced), "png", rows, columns), colour


def _check_png(data: bytes) -> tuple[int, int]:
    """Walk the chunks and their checksums (ISO/IEC 15948 clause 5); return (columns, rows)."""
    offset, size = len(PNG_MAGIC), (0, 0)
    while True:
        if offset + 12 > len(data):
            raise Unreadable("truncated", "the PNG ends before its last chunk")
        length, kind = struct.unpack_from(">I4s", data, offset)
        end = offset + 12 + length
        if end > len(data):
            raise Unreadable("truncated", "the PNG ends inside a chunk")
        if zlib.crc32(memoryview(data)[offset + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise Unreadable("corrupt", "a PNG chunk has a wrong checksum")
        if offset == len(PNG_MAGIC):
            if kind != b"IHDR" or length != 13:
                raise Unreadable("corrupt", "the PNG does not begin with its header chunk")
            size = struct.unpack_from(">II", data, offset + 8)
        if kind == b"IEND":
            return size
        offset = end


def _as_grey(pixels: Plane) -> Grey:
    return pixels.astype(np.uint16) if pixels.dtype == np.uint16 else pixels.astype(np.uint8)
