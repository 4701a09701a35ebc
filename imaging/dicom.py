"""A DICOM object from bytes to grey values: header, checks, pixels, grey-scale pipeline; a refusal keeps the header."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from imaging.greyscale import Rendering, applied_to, fill_padding, pipeline_of, render
from imaging.limits import DEFAULT_LIMITS, Limits
from imaging.part10 import DicomFile, read_dicom
from imaging.refusal import Unreadable
from imaging.resample import reduce_pixels
from imaging.stored import RGB, Image, stored_pixels

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from imaging.guard import Buffer

MAGIC_STARTS = (b"\x08\x00", b"\x02\x00")
"""First bytes of DICOM data without a preamble: an element of group 0008 or 0002, little endian."""


@dataclass(frozen=True)
class DicomImage:
    """A DICOM image: either a grey `rendering`, or colours `rgb` [rows, columns, 3]; `header` is patient data."""

    image: Image
    header: dict[str, str]
    rendering: Rendering | None
    rgb: RGB | None


def is_dicom(data: Buffer) -> bool:
    """Return whether data begin like a DICOM file, with or without preamble."""
    return data[128:132] == b"DICM" or bytes(data[:2]) in MAGIC_STARTS


def dicom_image(
    data: Buffer, limits: Limits = DEFAULT_LIMITS, gate: Callable[[Dataset], None] = lambda _: None
) -> DicomImage:
    """Read a DICOM image; `gate` may refuse a data set before its pixels are decoded.

    Raises Unreadable and nothing else. Whatever goes wrong after the header was read, the refusal keeps the header.
    """
    file = read_dicom(data, limits)
    try:
        gate(file.dataset)
        return _image(file, limits)
    except Unreadable as refusal:
        refusal.header = file.header
        raise
    except MemoryError:
        raise Unreadable("too-large", "not enough memory to decode the pixels", file.header) from None
    except Exception as error:  # noqa: BLE001 - a fault of ours; its text may quote the header
        raise Unreadable("corrupt", f"the image cannot be read ({type(error).__name__})", file.header) from None


def _image(file: DicomFile, limits: Limits) -> DicomImage:
    found = stored_pixels(file, limits)
    if found.cells is None:
        assert found.rgb is not None  # noqa: S101 - one of the two is there
        return DicomImage(found.image, file.header, None, np.asarray(reduce_pixels(found.rgb, limits.reduce_to)))
    steps = pipeline_of(file.dataset, signed=found.cells.signed, little_endian=file.little_endian)
    pipeline = applied_to(steps, found.cells)
    # Reducing before the tables saves most of the time: on neighbouring pixels the tables are as good as linear.
    values, image = reduce_pixels(fill_padding(pipeline, found.cells, in_place=True), limits.reduce_to), found.image
    del found  # the pixels at full resolution
    return DicomImage(image, file.header, render(pipeline, values), None)
