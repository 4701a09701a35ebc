"""An image for a person: 8-bit grey by an interactive window, in the polarity that the model saw."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from imaging.dicom import dicom_image, is_dicom
from imaging.greyscale import Rendering, Window
from imaging.limits import Limits
from imaging.pictures import JPEG_MAGIC, PNG_MAGIC, read_jpeg, read_png
from imaging.refusal import Unreadable

LIMITS = Limits(min_side=1, reduce_to=2048)
"""An image with a shorter side of up to 4,095 pixels is shown as it is."""
Grey = npt.NDArray[np.uint8]
Values = npt.NDArray[Any]


class NotDisplayable(ValueError):
    """The object cannot be shown; the text says why."""


@dataclass(frozen=True)
class Picture:
    """Values [rows, columns] of a number type, with the window that a reader sees first: from `low` to `high`."""

    values: Values
    low: float
    high: float
    inverted: bool = False
    """Whether the lowest value shows white."""
    shape: tuple[int, int] = (0, 0)
    """Rows and columns of the original, of which `values` may be a reduction."""
    note: str = ""
    """What a reader should know of how the image is shown."""

    @property
    def span(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        return float(self.values.min()), float(self.values.max())

    def window(self, center: float, width: float, *, invert: bool = False) -> Grey:
        """Return 8-bit grey by a linear window (DICOM PS3.3 C.11.2.1.2.1); `invert` turns the shown polarity."""
        width = max(width, 1.0)
        values = self.values if self.values.dtype == np.float64 else self.values.astype(np.float32)
        scaled = (values - (center - 0.5)) / max(width - 1.0, 1e-6) + 0.5
        grey = (np.clip(scaled, 0, 1) * 255).astype(np.uint8)
        return np.asarray(255 - grey if invert != self.inverted else grey, np.uint8)

    def part(self, zoom: float, x: float, y: float, side: int) -> Picture:
        """Return the part around (x, y), both from 0 to 1, at a zoom of 1 or more, no longer than `side` pixels."""
        rows, columns = (max(1, round(length / max(zoom, 1.0))) for length in self.values.shape)
        top = round((self.values.shape[0] - rows) * min(max(y, 0.0), 1.0))
        left = round((self.values.shape[1] - columns) * min(max(x, 0.0), 1.0))
        values = self.values[top : top + rows, left : left + columns]
        scale = side / max(rows, columns)
        if scale < 1:
            size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
            values = cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        return replace(self, values=values)


def png(grey: Grey) -> bytes:
    """Return 8-bit grey as PNG: lossless, and fast rather than small."""
    _, encoded = cv2.imencode(".png", grey, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return encoded.tobytes()


def picture(data: bytes, limits: Limits = LIMITS) -> Picture:
    """Decode a JPEG, PNG or DICOM object to show it; sizes are checked before decoding. Raises NotDisplayable."""
    try:
        if data.startswith(JPEG_MAGIC):
            found = read_jpeg(data, limits)
            return _plain(found.pixels, (found.rows, found.columns))
        if data.startswith(PNG_MAGIC):
            found = read_png(data, limits)
            return _plain(found.pixels, (found.rows, found.columns))
        if is_dicom(data):
            return _dicom(data, limits)
    except Unreadable as refusal:
        raise NotDisplayable(refusal.detail) from None
    msg = "this is no JPEG, PNG or DICOM image"
    raise NotDisplayable(msg)


def _dicom(data: bytes, limits: Limits) -> Picture:
    found = dicom_image(data, limits)
    shape = (found.image.rows, found.image.columns)
    if found.rendering is not None:
        return _rendered(found.rendering, shape)
    rgb = np.ascontiguousarray(found.rgb)
    return _plain(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), shape)


def _rendered(rendering: Rendering, shape: tuple[int, int]) -> Picture:
    note = ""
    if isinstance(rendering.ignored, Window):
        center, width = rendering.ignored.center, rendering.ignored.width
        note = f"The file's window (center {center:g}, width {width:g}) hides most of the image and is not applied."
    elif rendering.ignored is not None:
        note = "The file's VOI look-up table hides most of the image and is not applied."
    voi = rendering.voi
    if isinstance(voi, Window) and voi.function != "SIGMOID":
        # `Picture.window` computes LINEAR.
        center, width = (voi.center + 0.5, voi.width + 1) if voi.function == "LINEAR_EXACT" else (voi.center, voi.width)
        half = max(width, 1.0) / 2
        return Picture(rendering.modality, center - half, center + half, rendering.inverted, shape)
    base = rendering.modality if voi is None else voi(rendering.modality)
    return replace(_plain(base, shape), inverted=rendering.inverted, note=note)


def _plain(values: Values, shape: tuple[int, int]) -> Picture:
    low, high = (float(value) for value in np.percentile(values[:: max(1, len(values) // 512)], (0.5, 99.5)))
    return Picture(values, low, max(high, low + 1.0), False, shape)
