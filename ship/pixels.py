"""Pixels in and out: strict decoding, a constant in the place of text, and the proof that nothing else changed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from pydicom import Dataset

from imaging.attributes import named
from imaging.depth import Cells, declared_depth
from imaging.greyscale import applied_to, pipeline_of
from imaging.limits import Limits, check_size
from imaging.part10 import DicomFile
from imaging.pictures import check_jpeg_memory, check_png_memory
from imaging.refusal import Unreadable
from imaging.stored import stored_pixels
from ship.boxes import Box
from ship.tone import PLAIN, Tone

Pixels = npt.NDArray[Any]

LOSSY = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}
"""Transfer syntaxes that may lose something, each with its LossyImageCompressionMethod (PS3.3 C.7.6.1.1.5.1)."""
PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


@dataclass(frozen=True)
class Source:
    """Pixels as they were read: rows × columns of values, right-justified, or × 3 (RGB); what they take and show."""

    pixels: Pixels
    photometric: str
    """PhotometricInterpretation (0028,0004) of these pixels."""
    bits: int
    signed: bool
    tone: Tone = PLAIN

    def is_like(self, other: Source) -> bool:
        """Return whether equal pixels of both mean and show the same."""
        mine, others = ((one.photometric, one.bits, one.signed) for one in (self, other))
        return mine == others and self.tone.is_like(other.tone)


def decode_dicom(file: DicomFile, limits: Limits) -> Source:
    """Read the single frame of a grey or colour image as scoring does; raises Unreadable."""
    found = stored_pixels(file, limits)
    if found.cells is None:
        rgb = np.ascontiguousarray(found.rgb)
        return Source(rgb, "RGB", 8 * rgb.dtype.itemsize, False)
    cells = found.cells
    _check_overlays(file.dataset, cells)
    pipeline = pipeline_of(file.dataset, signed=cells.signed, little_endian=file.little_endian)
    tone = Tone(applied_to(pipeline, cells), _within_bits(cells))
    return Source(np.ascontiguousarray(cells.values), found.image.photometric, cells.bits, cells.signed, tone)


def _within_bits(cells: Cells) -> tuple[int, int] | None:
    """Return the padding that pixels of so many bits can hold; what lies outside is no pixel's value."""
    if cells.padding is None:
        return None
    low, high = (-(1 << (cells.bits - 1)), (1 << (cells.bits - 1)) - 1) if cells.signed else (0, (1 << cells.bits) - 1)
    first, last = max(cells.padding[0], low), min(cells.padding[1], high)
    return (first, last) if first <= last else None


def _check_overlays(dataset: Dataset, cells: Cells) -> None:
    """Refuse a retired overlay in the bits of the values: it may be a text that nobody sees, and would stay.

    An overlay with data of its own (60xx,3000), or of a single bit allocated (60xx,0100), lies elsewhere (PS3.3 C.9.2).
    """
    depth = declared_depth(dataset, 8 * cells.values.dtype.itemsize)
    for group in range(0x6000, 0x6100, 2):
        if (group, 0x3000) in dataset:
            continue
        position, allocated = (_whole_number(dataset, group, number) for number in (0x0102, 0x0100))
        if position is not None and allocated != 1 and depth.shift <= position <= depth.high:
            what = f"OverlayBitPosition ({group:04X},0102) {position} is a bit of the pixel values"
            raise Unreadable("contradiction", f"{what} ({named('HighBit')} {depth.high})")


def _whole_number(dataset: Dataset, group: int, number: int) -> int | None:
    try:
        return int(dataset[group, number].value)
    except (KeyError, TypeError, ValueError, NotImplementedError):
        return None


def decode_picture(data: bytes, limits: Limits) -> Pixels:
    """A JPEG or PNG as rows × columns (× 3, RGB), 8 or 16 bits, without any orientation applied.

    Three equal channels become one. Raises Unreadable.
    """
    pixels = _decode_png(data, limits) if data.startswith(PNG) else _decode_jpeg(data, limits)
    if (
        pixels.ndim == 3
        and np.array_equal(pixels[..., 0], pixels[..., 1])
        and np.array_equal(pixels[..., 0], pixels[..., 2])
    ):
        return np.ascontiguousarray(pixels[..., 0])
    return np.ascontiguousarray(pixels)


def _decode_jpeg(data: bytes, limits: Limits) -> Pixels:
    try:
        rows, columns, space, _ = simplejpeg.decode_jpeg_header(data, strict=True)
    except ValueError:
        raise Unreadable("corrupt", "the JPEG header is damaged") from None
    check_size(rows, columns, limits)
    check_jpeg_memory(data, rows * columns, limits)
    if space not in ("Gray", "YCbCr", "RGB"):
        raise Unreadable("unsupported", "colour space")
    try:
        pixels = simplejpeg.decode_jpeg(data, "GRAY" if space == "Gray" else "RGB", strict=True)
    except ValueError:
        raise Unreadable("corrupt", "the JPEG stream is damaged") from None
    return np.asarray(pixels[..., 0] if space == "Gray" else pixels)


def _decode_png(data: bytes, limits: Limits) -> Pixels:
    """libpng answers a damaged stream with a guess: lengths and checksums are checked before it is asked."""
    chunks = png_chunks(data)
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13 or chunks[-1][0] != b"IEND":
        raise Unreadable("corrupt", "the PNG is damaged")
    columns, rows, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    check_size(rows, columns, limits)
    check_png_memory(data, limits)
    if interlaced or kind not in _PNG_CHANNELS:
        raise Unreadable("unsupported", "kind of PNG")
    expected = rows * (1 + (columns * depth * _PNG_CHANNELS[kind] + 7) // 8)
    inflate = zlib.decompressobj()
    try:
        raw = inflate.decompress(b"".join(body for name, body in chunks if name == b"IDAT"), expected + 1)
    except zlib.error:
        raise Unreadable("corrupt", "the PNG stream is damaged") from None
    if len(raw) != expected:
        raise Unreadable("corrupt", "the PNG stream has not the announced length")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.shape[:2] != (rows, columns) or pixels.dtype not in (np.uint8, np.uint16):
        raise Unreadable("corrupt", "the PNG cannot be decoded")
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        if int(pixels[..., 3].min()) != (255 if pixels.dtype == np.uint8 else 65535):
            raise Unreadable("unsupported", "transparency")
        pixels = pixels[..., :3]
    return np.asarray(pixels[..., ::-1] if pixels.ndim == 3 else pixels)


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and body of every chunk; an empty list when the file is cut, a checksum fails, or bytes follow the end."""
    chunks, position = [], len(PNG)
    while position + 12 <= len(data):
        length, name = struct.unpack(">I4s", data[position : position + 8])
        body = data[position + 8 : position + 8 + length]
        check = data[position + 8 + length : position + 12 + length]
        if len(check) != 4 or zlib.crc32(name + body) != struct.unpack(">I", check)[0]:
            return []
        chunks.append((name, body))
        position += 12 + length
        if name == b"IEND":
            break
    return chunks if position == len(data) else []


def encode_png(pixels: Pixels) -> bytes:
    """Pixels (RGB when colour) as a PNG that holds nothing else."""
    done, data = cv2.imencode(
        ".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels, [cv2.IMWRITE_PNG_COMPRESSION, 4]
    )
    if not done:
        raise Unreadable("unsupported", "encoding")
    return bytes(data.tobytes())


def redact(pixels: Pixels, boxes: Sequence[Box], tone: Tone = PLAIN) -> tuple[Pixels, int]:
    """A copy whose boxes hold one constant, and that constant: what displays darkest among the pixels outside them.

    A constant carries nothing of what it covers; a blur does. A value that the image has, and that is no padding, does
    not widen its range: a display window computed from it stays.
    """
    result = pixels.copy()
    fill = tone.darkest(pixels, ~mask(pixels, boxes))
    for box in boxes:
        result[box.slices] = fill
    return result, fill


def mask(pixels: Pixels, boxes: Sequence[Box]) -> npt.NDArray[np.bool_]:
    """True inside the boxes; rows × columns."""
    covered = np.zeros(pixels.shape[:2], dtype=bool)
    for box in boxes:
        covered[box.slices] = True
    return covered


def proven(source: Pixels, result: Pixels, boxes: Sequence[Box]) -> bool:
    """Whether the boxes of `result` hold one constant and every other pixel is that of `source`, bit by bit."""
    if source.ndim == 3 and result.ndim == 2:
        # Without its text the picture is grey, and a reader makes one channel of three equal ones.
        result = np.broadcast_to(result[..., None], (*result.shape, 3))
    if source.shape != result.shape or source.dtype != result.dtype:
        return False
    covered = mask(source, boxes)
    inside = result[covered]
    same = source == result
    same |= covered[..., None] if source.ndim == 3 else covered
    return bool(same.all() and (inside.size == 0 or (inside == inside.flat[0]).all()))
