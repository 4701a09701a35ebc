"""Read the stored pixels of a DICOM file: sizes and depths are checked before native or compressed data are decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydicom import uid

from imaging.attributes import code, integer, named, unusable
from imaging.codecs import COMPRESSED, check_decoding, declared_by, decode_frame, decode_rle
from imaging.depth import ROWS_AT_A_TIME, Cells, Depth, cells_of, cells_of_codestream, declared_depth
from imaging.encapsulated import ITEM, only_frame
from imaging.limits import Limits, check_memory, check_size
from imaging.refusal import Unreadable

if TYPE_CHECKING:
    from imaging.part10 import DicomFile

NATIVE = frozenset(
    (
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    )
)
GREY = ("MONOCHROME1", "MONOCHROME2")
FEW_BYTES = 16
"""Fewer than one more column or row would take."""
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
RGB = npt.NDArray[np.uint8 | np.uint16]


@dataclass(frozen=True)
class Image:
    """What the header says of the image, as far as it decides how pixels are read."""

    rows: int
    columns: int
    samples: int
    photometric: str


@dataclass(frozen=True)
class StoredPixels:
    """Either grey `cells`, or `rgb` [rows, columns, 3]."""

    image: Image
    cells: Cells | None
    rgb: RGB | None


def stored_pixels(file: DicomFile, limits: Limits) -> StoredPixels:
    """Read the pixels of a single-frame image; raises Unreadable."""
    image = checked_image(file, limits)
    if file.syntax in NATIVE and file.declared is not None:
        return _native(file, image, limits)
    return _encapsulated(file, image, limits)  # fragments, whatever the transfer syntax says


def checked_image(file: DicomFile, limits: Limits) -> Image:
    """Check frames, sizes and kinds by the header alone; raises Unreadable."""
    dataset = file.dataset
    if (frames := integer(dataset, "NumberOfFrames") or 1) > 1:
        raise Unreadable("multi-frame", f"{frames} frames")
    rows, columns = integer(dataset, "Rows"), integer(dataset, "Columns")
    if rows is None or columns is None:
        raise Unreadable("no-pixels", f"no {named('Rows')} and {named('Columns')}")
    check_size(rows, columns, limits)
    if file.pixels is None:
        raise Unreadable("no-pixels", f"no {named('PixelData')}: an object without image, or cut off before it")
    if file.syntax not in NATIVE and file.syntax not in COMPRESSED:
        raise Unreadable("unsupported", f"no decoder for transfer syntax {uid_name(file.syntax)}")
    photometric = code(dataset, "PhotometricInterpretation")
    if not photometric:
        raise Unreadable("bad-attribute", f"{named('PhotometricInterpretation')} is missing")
    if photometric not in (*GREY, *COLOURS, "PALETTE COLOR"):
        raise Unreadable("unsupported", f"{named('PhotometricInterpretation')}: neither grey, RGB, YBR nor palette")
    samples = integer(dataset, "SamplesPerPixel")
    expected = 3 if photometric in COLOURS else 1
    return Image(rows, columns, expected if samples is None else samples, photometric)


def uid_name(value: str) -> str:
    """Return a standard UID's name; another could hold anything, so it is not repeated."""
    name = uid.UID(value).name
    return "unknown" if name == value else name


def _native(file: DicomFile, image: Image, limits: Limits) -> StoredPixels:
    _check_samples(image, image.samples)
    depth = declared_depth(file.dataset)
    if depth.allocated not in (8, 16):
        raise Unreadable("unsupported", f"{named('BitsAllocated')} {depth.allocated}: 8 and 16 are read")
    halved = image.photometric == "YBR_FULL_422"  # two pixels share their chrominance (PS3.3 C.7.6.3.1.2)
    per_pixel = 2 if halved else image.samples
    words = image.rows * image.columns * per_pixel
    data = _native_words(file, image, depth, words)
    if image.samples == 1:
        return _grey(file, image, cells_of(data.reshape(image.rows, image.columns), depth, file.dataset))
    check_memory(2 * data.nbytes, limits)
    if halved:
        from pydicom.pixels.utils import expand_ybr422

        data = np.frombuffer(expand_ybr422(data.tobytes(), depth.allocated), data.dtype)
    return _colour(image, _interleaved(file, image, data))


def _is_more(rest: memoryview, column: int) -> bool:
    """Return whether what stands behind the pixels is more than padding: then they are not what the header says.

    A few bytes of anything are padding, and so are zeros, unless they make up whole columns: with another number of
    columns than the header's, the end of a dark image would look so.
    """
    if len(rest) <= FEW_BYTES:
        return False
    return bool(np.frombuffer(rest, np.uint8).any()) or len(rest) % column <= 1


def _native_words(file: DicomFile, image: Image, depth: Depth, words: int) -> npt.NDArray[Any]:
    """Return the words of native pixel data as a view; their number must be what the header says."""
    pixels = file.pixels
    assert pixels is not None  # noqa: S101 - `checked_image` refuses it
    expected = words * depth.allocated // 8
    if len(pixels) < min(expected, file.declared or 0):
        raise Unreadable("truncated", f"{len(pixels)} bytes of pixels, {expected} expected")
    if len(pixels) < expected or _is_more(pixels[expected:], image.rows * depth.allocated // 8):
        what = f"{len(pixels)} bytes of pixels, but {named('Rows')}, {named('Columns')} and {named('BitsAllocated')}"
        raise Unreadable("contradiction", f"{what} give {expected}")
    if depth.allocated == 8:
        if not file.little_endian and file.vr == "OW":  # bytes lie in words of the other order (PS3.5 A.3)
            even = np.frombuffer(pixels[: expected + expected % 2], ">u2").astype("<u2").view(np.uint8)
            return even[:words]
        return np.frombuffer(pixels[:expected], np.uint8)
    return np.frombuffer(pixels[:expected], "<u2" if file.little_endian else ">u2").astype(np.uint16, copy=False)


def _encapsulated(file: DicomFile, image: Image, limits: Limits) -> StoredPixels:
    assert file.pixels is not None  # noqa: S101 - `checked_image` refuses it
    if bytes(file.pixels[:4]) != ITEM:
        raise Unreadable("contradiction", f"{named('PixelData')} holds no fragments, its transfer syntax asks for them")
    frame = only_frame(file.pixels)
    if file.syntax == uid.RLELossless:
        _check_samples(image, image.samples)
        depth = declared_depth(file.dataset)
        if depth.allocated not in (8, 16):
            raise Unreadable("unsupported", f"{named('BitsAllocated')} {depth.allocated}: 8 and 16 are read")
        check_memory(2 * image.rows * image.columns * image.samples * depth.allocated // 8, limits)
        words = decode_rle(frame, image.rows, image.columns, depth.allocated, image.samples)
        if image.samples == 1:
            return _grey(file, image, cells_of(words[0], depth, file.dataset))
        return _colour(image, np.moveaxis(words, 0, -1))
    stream = declared_by(frame)
    if (stream.rows, stream.columns) != (image.rows, image.columns):
        what = f"the codestream is {stream.rows} x {stream.columns}, {named('Rows')} and {named('Columns')} say"
        raise Unreadable("contradiction", f"{what} {image.rows} x {image.columns}")
    if stream.precision > 16:
        raise Unreadable("unsupported", f"{stream.precision} bits a sample; up to 16 are read")
    _check_samples(image, stream.components)
    check_decoding(stream, len(frame.data), limits)
    samples = decode_frame(frame, stream, image.photometric)
    if stream.components == 1:
        depth = declared_depth(file.dataset, stream.precision)
        knows_sign = stream.family == "jpeg-2000"
        cells = cells_of_codestream(samples, stream.precision, depth, file.dataset, knows_sign=knows_sign)
        return _grey(file, image, cells)
    if samples.dtype not in (np.uint8, np.uint16):
        raise Unreadable("unsupported", "signed colours")
    return StoredPixels(image, None, _full_range(samples, stream.precision))


def _check_samples(image: Image, samples: int) -> None:
    """Refuse a number of samples that does not fit the photometric interpretation."""
    if samples != (3 if image.photometric in COLOURS else 1):
        what = f"{samples} samples a pixel ({named('SamplesPerPixel')})"
        raise Unreadable("contradiction", f"{what} do not fit {named('PhotometricInterpretation')} {image.photometric}")


def _grey(file: DicomFile, image: Image, cells: Cells) -> StoredPixels:
    if image.photometric != "PALETTE COLOR":
        return StoredPixels(image, cells, None)
    from pydicom.pixels.processing import apply_color_lut

    try:
        rgb = np.asarray(apply_color_lut(cells.values, file.dataset))
    except Exception:  # noqa: BLE001 - pydicom's errors are many, and may quote values
        raise Unreadable("bad-table", "the palette (0028,1101 to 0028,1203) cannot be applied") from None
    return StoredPixels(image, None, rgb[..., :3])


def _interleaved(file: DicomFile, image: Image, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    planar = integer(file.dataset, "PlanarConfiguration") or 0
    if planar not in (0, 1):
        raise unusable("PlanarConfiguration", "is neither 0 nor 1")
    if planar == 1 and image.photometric != "YBR_FULL_422":
        return np.moveaxis(data.reshape(3, image.rows, image.columns), 0, -1)
    return data.reshape(image.rows, image.columns, 3)


def _colour(image: Image, samples: npt.NDArray[Any]) -> StoredPixels:
    if image.photometric in ("YBR_FULL", "YBR_FULL_422"):
        from pydicom.pixels.processing import convert_color_space

        rgb = np.empty(samples.shape, samples.dtype)
        for start in range(0, image.rows, ROWS_AT_A_TIME):  # it computes in 64 bits a sample
            strip = np.ascontiguousarray(samples[start : start + ROWS_AT_A_TIME])
            rgb[start : start + ROWS_AT_A_TIME] = convert_color_space(strip, "YBR_FULL", "RGB")
        return StoredPixels(image, None, rgb)
    return StoredPixels(image, None, np.ascontiguousarray(samples))


def _full_range(samples: npt.NDArray[Any], precision: int) -> RGB:
    """Scale colours of 9 to 15 bits to the range of their 16-bit type."""
    missing = 8 * samples.dtype.itemsize - precision
    return np.asarray(samples << missing if missing else samples)
