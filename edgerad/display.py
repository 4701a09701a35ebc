"""An object as a picture for a person: 8-bit grey by window centre and width; patient data stay with the caller."""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

MAX_PIXELS = 64_000_000
Grey = npt.NDArray[np.uint8]


class NotDisplayable(ValueError):
    """The object cannot be shown; the text says why."""


@dataclass(frozen=True)
class Picture:
    """Grey values [rows, columns], float32, bright where the body is dense; from `low` to `high` is worth showing."""

    values: npt.NDArray[np.float32]
    low: float
    high: float

    def window(self, center: float, width: float, *, invert: bool = False) -> Grey:
        """Return 8-bit grey by a linear window (DICOM PS3.3 C.11.2.1.2.1)."""
        width = max(width, 1.0)
        scaled = (self.values - (center - 0.5)) / max(width - 1.0, 1e-6) + 0.5
        grey = (np.clip(scaled, 0, 1) * 255).astype(np.uint8)
        return np.asarray(255 - grey if invert else grey, np.uint8)


def picture(data: bytes) -> Picture:
    """Decode a JPEG, PNG or DICOM object to show it. Raises NotDisplayable."""
    values = _dicom(data) if data[128:132] == b"DICM" else _raster(data)
    low, high = (float(value) for value in np.percentile(values[:: max(1, len(values) // 512)], (0.5, 99.5)))
    return Picture(values, low, max(high, low + 1.0))


def _check_size(pixels: int) -> None:
    if pixels > MAX_PIXELS:
        msg = "this image is too large to be shown here"
        raise NotDisplayable(msg)


def _raster(data: bytes) -> npt.NDArray[np.float32]:
    buffer = np.frombuffer(data, np.uint8)
    image = cv2.imdecode(buffer, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH) if buffer.size else None
    if image is None:
        msg = "this is no JPEG, PNG or DICOM image that can be shown"
        raise NotDisplayable(msg)
    return image.astype(np.float32)


def _dicom(data: bytes) -> npt.NDArray[np.float32]:
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut

    try:
        dataset = pydicom.dcmread(io.BytesIO(data))
        _check_size(int(dataset.Rows) * int(dataset.Columns))
        values = np.asarray(apply_modality_lut(dataset.pixel_array, dataset), np.float32)
    except NotDisplayable:
        raise
    except Exception as error:  # noqa: BLE001
        # pydicom's and its plugins' errors are many, and can quote header values.
        msg = f"this DICOM file cannot be shown ({type(error).__name__})"
        raise NotDisplayable(msg) from None
    if values.ndim == 3 and values.shape[-1] == 3:
        values = values.mean(axis=-1)
    if values.ndim != 2:
        msg = "only single images are shown"
        raise NotDisplayable(msg)
    if str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1":
        values = values.max() + values.min() - values
    return values
