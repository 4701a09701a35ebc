"""Decode an uploaded object to grey pixels that can be judged, or say why not: JPEG, PNG or DICOM."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from imaging.colour import chroma
from imaging.dicom import DicomImage, dicom_image, is_dicom
from imaging.limits import DEFAULT_LIMITS, Limits
from imaging.pictures import JPEG_MAGIC, PNG_MAGIC, Grey, GreyPicture, read_jpeg, read_png
from imaging.refusal import Unreadable
from imaging.resample import Plane
from serve.kind import KindGate
from serve.preprocess import to_grid
from serve.screen import check_pixels

DEFAULT_GATE = KindGate()


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


def decode(data: bytes, limits: Limits = DEFAULT_LIMITS, gate: KindGate = DEFAULT_GATE) -> DecodedImage:
    """Decode one object to grey pixels.

    Raises Unreadable with a reason code of `edgerad.reasons`; nothing else is raised for bad data.
    """
    if not data:
        raise Unreadable("empty", "the object has 0 bytes")
    if len(data) > limits.max_bytes:
        raise Unreadable("too-large", f"{len(data)} bytes, the limit is {limits.max_bytes}")
    if data.startswith(JPEG_MAGIC):
        image, colour = _of_picture(read_jpeg(data, limits), "jpeg")
    elif data.startswith(PNG_MAGIC):
        image, colour = _of_picture(read_png(data, limits), "png")
    elif is_dicom(data):
        image, colour = _of_dicom(dicom_image(data, limits, gate))
    elif len(data) < 132 and not data.strip(b"\0"):
        raise Unreadable("truncated", f"{len(data)} bytes, all of them 0")
    else:
        raise Unreadable("unsupported", "the first bytes are not those of DICOM, JPEG or PNG")
    try:
        check_pixels(image.pixels, colour, image.grid)
    except Unreadable as refusal:
        refusal.header = image.header
        raise
    return image


def _of_picture(picture: GreyPicture, name: str) -> tuple[DecodedImage, float]:
    return DecodedImage(picture.pixels, name, picture.rows, picture.columns), picture.colour


def _of_dicom(found: DicomImage) -> tuple[DecodedImage, float]:
    colour, image = 0.0, found.image
    if found.rgb is not None:
        rgb = np.ascontiguousarray(found.rgb)
        colour, grey = chroma(rgb), cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    else:
        assert found.rendering is not None  # noqa: S101 - one of the two is there
        grey = found.rendering.displayed
    return DecodedImage(_to_uint16(grey), "dicom", image.rows, image.columns, found.header), colour


def _to_uint16(values: Plane) -> npt.NDArray[np.uint16]:
    plain = values.astype(np.float64)
    low, high = float(plain.min()), float(plain.max())
    if high <= low:
        return np.zeros(plain.shape, np.uint16)
    if values.dtype == np.uint8:  # colour turned grey: keep its scale, so that a blank picture stays blank
        return (plain * 257).astype(np.uint16)
    return np.rint((plain - low) * (65535 / (high - low))).astype(np.uint16)
