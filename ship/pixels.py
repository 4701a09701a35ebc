"""Pixels in and out: strict decoding, a constant in the place of text, and the proof that nothing else changed."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from ship.boxes import Box
from ship.frames import announced_sizes

Pixels = npt.NDArray[Any]

_UNCOMPRESSED = frozenset((ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian))
SYNTAXES: frozenset[UID] = frozenset((
    *_UNCOMPRESSED,
    RLELossless,
    *JPEGTransferSyntaxes,
    *JPEGLSTransferSyntaxes,
    *JPEG2000TransferSyntaxes,
))  # fmt: skip
"""What is decoded. The deflated syntax is not: a parser would inflate it without bound before anything could look."""

LOSSY: frozenset[str] = frozenset(
    ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91")
)
PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


class Undecodable(Exception):
    """The pixels cannot be read without doubt; the text names the reason, never a value."""


class Unsupported(Exception):
    """The pixels are of a kind that is not handled."""


def decode_dicom(dataset: Dataset, max_pixels: int) -> Pixels:
    """The single frame of a grey or colour image, rows × columns (× 3, RGB), at native depth and byte order.

    Raises Unsupported for a kind that is not handled, Undecodable for whatever a decoder refuses or only warns of.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in SYNTAXES:
        raise Unsupported("transfer syntax")
    try:
        frames, samples = int(dataset.get("NumberOfFrames") or 1), int(dataset.SamplesPerPixel)
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        allocated, stored, high = int(dataset.BitsAllocated), int(dataset.BitsStored), int(dataset.HighBit)
        signed, photometric = int(dataset.PixelRepresentation), str(dataset.PhotometricInterpretation)
    except (AttributeError, TypeError, ValueError):
        raise Undecodable("an attribute of the image pixel module is missing or wrong") from None
    if frames != 1:
        raise Unsupported("more than one frame")
    if allocated not in (8, 16) or not 1 <= stored <= allocated or high != stored - 1:
        raise Unsupported("bits allocated, stored or high bit")
    grey = samples == 1 and photometric in ("MONOCHROME1", "MONOCHROME2")
    colour = samples == 3 and allocated == 8 and (photometric == "RGB" or photometric.startswith("YBR_"))
    if not (grey or colour):
        raise Unsupported("photometric interpretation")
    if not 0 < rows * columns <= max_pixels:
        raise Unsupported("image size")
    if syntax not in _UNCOMPRESSED and syntax != RLELossless:
        _must_announce(dataset, rows, columns)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pixels, made = get_decoder(syntax).as_array(dataset)
    except Exception as error:  # noqa: BLE001 - decoders raise what they like; a warning counts as failure
        raise Undecodable(f"the decoder raised {type(error).__name__}") from None
    if pixels.shape != ((rows, columns) if grey else (rows, columns, 3)):
        raise Undecodable("the decoded shape is not the announced one")
    if colour and made["photometric_interpretation"] != "RGB":
        raise Unsupported("colour space")
    low, limit = (-(1 << (stored - 1)), (1 << (stored - 1)) - 1) if signed else (0, (1 << stored) - 1)
    # Retired overlays sit in the bits above the stored ones: a value that reaches them is no pixel value.
    if int(pixels.min()) < low or int(pixels.max()) > limit:
        raise Undecodable("values outside the stored bits")
    return np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("="))


def _must_announce(dataset: Dataset, rows: int, columns: int) -> None:
    """A frame that says it is larger than the data set says would make a decoder allocate what the frame says."""
    try:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    except Exception as error:  # noqa: BLE001 - as with decoders
        raise Undecodable(f"taking the frame out raised {type(error).__name__}") from None
    if announced_sizes(frame) != {(rows, columns)}:
        raise Undecodable("the compressed frame announces another size")


def decode_picture(data: bytes, max_pixels: int) -> Pixels:
    """A JPEG or PNG as rows × columns (× 3, RGB), 8 or 16 bits, without any orientation applied.

    Three equal channels become one. Raises as `decode_dicom` does.
    """
    pixels = _decode_png(data, max_pixels) if data.startswith(PNG) else _decode_jpeg(data, max_pixels)
    if (
        pixels.ndim == 3
        and np.array_equal(pixels[..., 0], pixels[..., 1])
        and np.array_equal(pixels[..., 0], pixels[..., 2])
    ):
        return np.ascontiguousarray(pixels[..., 0])
    return np.ascontiguousarray(pixels)


def _decode_jpeg(data: bytes, max_pixels: int) -> Pixels:
    try:
        rows, columns, space, _ = simplejpeg.decode_jpeg_header(data, strict=True)
    except ValueError:
        raise Undecodable("the JPEG header is damaged") from None
    if not 0 < rows * columns <= max_pixels:
        raise Unsupported("image size")
    if space not in ("Gray", "YCbCr", "RGB"):
        raise Unsupported("colour space")
    try:
        pixels = simplejpeg.decode_jpeg(data, "GRAY" if space == "Gray" else "RGB", strict=True)
    except ValueError:
        raise Undecodable("the JPEG stream is damaged") from None
    return np.asarray(pixels[..., 0] if space == "Gray" else pixels)


def _decode_png(data: bytes, max_pixels: int) -> Pixels:
    """libpng answers a damaged stream with a guess: lengths and checksums are checked before it is asked."""
    chunks = png_chunks(data)
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13 or chunks[-1][0] != b"IEND":
        raise Undecodable("the PNG is damaged")
    columns, rows, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    if not 0 < rows * columns <= max_pixels:
        raise Unsupported("image size")
    if interlaced or kind not in _PNG_CHANNELS:
        raise Unsupported("kind of PNG")
    expected = rows * (1 + (columns * depth * _PNG_CHANNELS[kind] + 7) // 8)
    inflate = zlib.decompressobj()
    try:
        raw = inflate.decompress(b"".join(body for name, body in chunks if name == b"IDAT"), expected + 1)
    except zlib.error:
        raise Undecodable("the PNG stream is damaged") from None
    if len(raw) != expected:
        raise Undecodable("the PNG stream has not the announced length")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.shape[:2] != (rows, columns) or pixels.dtype not in (np.uint8, np.uint16):
        raise Undecodable("the PNG cannot be decoded")
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        if int(pixels[..., 3].min()) != (255 if pixels.dtype == np.uint8 else 65535):
            raise Unsupported("transparency")
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
        raise Unsupported("encoding")
    return bytes(data.tobytes())


def redact(pixels: Pixels, boxes: Sequence[Box], *, inverted: bool = False) -> tuple[Pixels, int]:
    """A copy whose boxes hold one constant, and that constant: what displays darkest among the pixels outside them.

    A constant carries nothing of what it covers; a blur does. `inverted` is MONOCHROME1, where dark is high. A value
    that the image has does not widen its range, so that a display window computed from it stays.
    """
    result = pixels.copy()
    outside = pixels[~mask(pixels, boxes)]
    fill = 0 if outside.size == 0 else int(outside.max() if inverted else outside.min())
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
        result = np.repeat(result[..., None], 3, axis=2)
    if source.shape != result.shape or source.dtype != result.dtype:
        return False
    covered = mask(source, boxes)
    inside = result[covered]
    return bool(
        np.array_equal(source[~covered], result[~covered]) and (inside.size == 0 or (inside == inside.flat[0]).all())
    )


def attach(dataset: Dataset, pixels: Pixels, source: Dataset) -> None:
    """Put uncompressed pixels and their module (PS3.3 C.7.6.3) into `dataset`; `source` gives bits and photometry."""
    colour = pixels.ndim == 3
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else str(source.PhotometricInterpretation)
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored = int(source.BitsStored)
    dataset.HighBit = int(source.BitsStored) - 1
    dataset.PixelRepresentation = int(source.PixelRepresentation)
    data = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 else "OW"
