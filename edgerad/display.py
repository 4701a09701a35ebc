"""An object as a picture for a person: 8-bit grey by window centre and width; patient data stay with the caller."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

MAX_PIXELS = 64_000_000
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
Grey = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]


class NotDisplayable(ValueError):
    """The object cannot be shown; the text says why."""


@dataclass(frozen=True)
class Picture:
    """Grey values [rows, columns], float32, bright where the body is dense; from `low` to `high` is worth showing."""

    values: Values
    low: float
    high: float

    def window(self, center: float, width: float, *, invert: bool = False) -> Grey:
        """Return 8-bit grey by a linear window (DICOM PS3.3 C.11.2.1.2.1)."""
        width = max(width, 1.0)
        scaled = (self.values - (center - 0.5)) / max(width - 1.0, 1e-6) + 0.5
        grey = (np.clip(scaled, 0, 1) * 255).astype(np.uint8)
        return np.asarray(255 - grey if invert else grey, np.uint8)

    def part(self, zoom: float, x: float, y: float, side: int) -> Picture:
        """Return the part around (x, y), both from 0 to 1, at a zoom of 1 or more, no longer than `side` pixels."""
        rows, columns = (max(1, round(length / max(zoom, 1.0))) for length in self.values.shape)
        top = round((self.values.shape[0] - rows) * min(max(y, 0.0), 1.0))
        left = round((self.values.shape[1] - columns) * min(max(x, 0.0), 1.0))
        values = self.values[top : top + rows, left : left + columns]
        scale = side / max(rows, columns)
        if scale < 1:
            size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
            values = cv2.resize(values, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        return Picture(values, self.low, self.high)


def png(grey: Grey) -> bytes:
    """Return 8-bit grey as PNG: lossless, and fast rather than small."""
    _, encoded = cv2.imencode(".png", grey, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return encoded.tobytes()


def picture(data: bytes, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode a JPEG, PNG or DICOM object to show it; sizes are checked before decoding. Raises NotDisplayable."""
    if data.startswith(b"\xff\xd8\xff"):
        values = _jpeg(data, max_pixels)
    elif data.startswith(PNG_MAGIC):
        values = _png(data, max_pixels)
    elif data[128:132] == b"DICM" or data[:2] in (b"\x08\x00", b"\x02\x00"):
        values = _dicom(data, max_pixels)
    else:
        msg = "this is no JPEG, PNG or DICOM image"
        raise NotDisplayable(msg)
    low, high = (float(value) for value in np.percentile(values[:: max(1, len(values) // 512)], (0.5, 99.5)))
    return Picture(values, low, max(high, low + 1.0))


def _check_size(pixels: int, most: int) -> None:
    if pixels > most:
        msg = f"it has {pixels / 1e6:.0f} megapixels; up to {most / 1e6:.0f} are shown here"
        raise NotDisplayable(msg)


def _jpeg(data: bytes, max_pixels: int) -> Values:
    import simplejpeg

    try:
        rows, columns, _, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        _check_size(rows * columns, max_pixels)
        return np.asarray(simplejpeg.decode_jpeg(data, "GRAY")[:, :, 0], np.float32)
    except NotDisplayable:
        raise
    except (ValueError, KeyError):  # KeyError: a header without a frame
        msg = "this JPEG does not decode"
        raise NotDisplayable(msg) from None


def _png(data: bytes, max_pixels: int) -> Values:
    if len(data) < 24:
        msg = "this PNG does not decode"
        raise NotDisplayable(msg)
    columns, rows = struct.unpack(">II", data[16:24])  # IHDR is the first chunk (ISO/IEC 15948 11.2.2)
    _check_size(rows * columns, max_pixels)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        msg = "this PNG does not decode"
        raise NotDisplayable(msg)
    if image.ndim == 3:
        image = cv2.cvtColor(np.ascontiguousarray(image[:, :, :3]), cv2.COLOR_BGR2GRAY)
    return image.astype(np.float32)


def _dicom(data: bytes, max_pixels: int) -> Values:
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut

    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=data[128:132] != b"DICM")
        frames = int(dataset.get("NumberOfFrames") or 1)
        _check_size(int(dataset.Rows) * int(dataset.Columns) * frames, max_pixels)
        values = np.asarray(apply_modality_lut(dataset.pixel_array, dataset), np.float32)
    except (NotDisplayable, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001
        # pydicom's and its plugins' errors are many, and can quote header values; the RLE decoder, in Rust, panics past
        # Exception.
        msg = f"this DICOM file cannot be decoded ({type(error).__name__})"
        raise NotDisplayable(msg) from None
    if values.ndim == 3 and values.shape[-1] == 3:
        values = values.mean(axis=-1, dtype=np.float32)
    if values.ndim != 2:
        msg = "it has several frames; only single images are shown"
        raise NotDisplayable(msg)
    if str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1":
        values = values.max() + values.min() - values
    return values
