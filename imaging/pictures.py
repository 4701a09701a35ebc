"""Decode a JPEG or PNG picture to grey; sizes are checked in the headers before anything is decoded."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from imaging.codestream import BadCodestream, read_codestream
from imaging.colour import chroma
from imaging.limits import Limits, check_memory, check_size
from imaging.refusal import Unreadable
from imaging.resample import Plane, reduce_pixels

Grey = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"


@dataclass(frozen=True)
class GreyPicture:
    """Grey pixels [rows, columns], at most as large as the original, whose size `rows` and `columns` are.

    `colour` is the measured chroma (`imaging.colour`): 0 for a grey original.
    """

    pixels: Grey
    rows: int
    columns: int
    colour: float


def read_jpeg(data: bytes, limits: Limits) -> GreyPicture:
    """Decode a JPEG to grey; raises Unreadable."""
    try:
        rows, columns, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except Exception as error:  # noqa: BLE001 - simplejpeg raises KeyError for some damage
        raise Unreadable(_jpeg_reason(data, error), "the JPEG header does not decode") from None
    check_size(rows, columns, limits)
    check_jpeg_memory(data, rows * columns, limits)
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
    return GreyPicture(grey[:, :, 0], rows, columns, colour)


def check_jpeg_memory(data: bytes, pixels: int, limits: Limits) -> None:
    """Refuse a JPEG that takes too much memory to decode, as a large progressive one does; raises Unreadable."""
    if len(data) + 9 * pixels <= limits.max_memory:  # three components, and their coefficients
        return
    try:
        stream = read_codestream(data)
    except BadCodestream:
        return  # the decoder says what is wrong with it
    check_memory(len(data) + stream.decoding_bytes, limits)


def check_png_memory(data: bytes, limits: Limits) -> None:
    """Refuse a PNG that takes too much memory to decode; colours are copied once. Raises Unreadable."""
    columns, rows, depth, kind = struct.unpack_from(">IIBB", data, 16)
    channels = {0: 1, 2: 3, 3: 3, 4: 4, 6: 4}.get(kind, 4)
    check_memory(
        len(data) + rows * columns * (2 if depth == 16 else 1) * (1 if channels == 1 else channels + 4), limits
    )


def _jpeg_reason(data: bytes, error: Exception) -> str:
    text = str(error)
    if "Unsupported" in text or "not supported" in text:
        return "unsupported"
    early = "Premature end" in text or data.rstrip(b"\0")[-2:] != b"\xff\xd9"
    return "truncated" if early else "corrupt"


def read_png(data: bytes, limits: Limits) -> GreyPicture:
    """Decode a PNG to grey; raises Unreadable."""
    columns, rows = _check_png(data)
    check_size(rows, columns, limits)
    check_png_memory(data, limits)
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
    return GreyPicture(_as_grey(reduced), rows, columns, colour)


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
