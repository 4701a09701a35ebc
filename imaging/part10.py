"""Read a DICOM file: the data set up to the pixels, and the pixels as they lie in the file, without a copy."""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset as parse_dataset

from imaging.attributes import header_of
from imaging.guard import LARGE_VALUE, LONG_VRS, UNDEFINED, Buffer, Layout, encoding_of, layout, meta_of
from imaging.limits import DEFAULT_LIMITS, Limits
from imaging.refusal import Unreadable

if TYPE_CHECKING:
    from pydicom.tag import BaseTag

AFTER_IDENTITY = 0x00280000
"""Elements of lower groups say whose image it is; those from here on say how the pixels are read."""
IDENTITY_WITHIN = 64 * 1024
"""First bytes of a data set that are looked at for whose image it is, where the rest is refused."""


@dataclass(frozen=True)
class DicomFile:
    """A DICOM file that was read up to its pixels."""

    dataset: Dataset
    """The elements before PixelData; `file_meta` holds the transfer syntax only."""
    syntax: uid.UID
    """The transfer syntax; Implicit VR Little Endian where none is declared (PS3.5 chapter 10)."""
    header: dict[str, str]
    """The keywords of the worklist; patient data."""
    little_endian: bool
    pixels: memoryview | None
    """The value of PixelData (7FE0,0010), None where there is none."""
    declared: int | None
    """Length of PixelData in bytes; None where it is undefined (encapsulated)."""
    vr: str | None
    """VR of PixelData, None where the data set is implicit."""


def read_dicom(data: Buffer, limits: Limits = DEFAULT_LIMITS) -> DicomFile:
    """Check and read a DICOM file in memory.

    Raises Unreadable. Its `header` holds whose image it is wherever these elements could be parsed.
    """
    try:
        return _read(layout(data, limits))
    except Unreadable as refusal:
        refusal.header = refusal.header or _identity(data)
        raise


def whose(data: Buffer, limits: Limits = DEFAULT_LIMITS) -> dict[str, str]:
    """Return the worklist's keywords of whatever file this is; empty where it does not say. Raises nothing."""
    try:
        return read_dicom(data, limits).header
    except Unreadable as refusal:
        return refusal.header
    except Exception:  # noqa: BLE001 - the image was refused already; this only tries to tell whose it is
        return {}


def _read(found: Layout) -> DicomFile:
    _silence_pydicom()
    end = found.end if found.pixels is None else found.pixels
    dataset = _parse(found, end)
    syntax = uid.UID(found.syntax) if found.syntax else uid.ImplicitVRLittleEndian
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    header = header_of(dataset)
    if found.truncated:
        raise Unreadable("truncated", "the DICOM data end inside an element", header)
    if found.pixels is None and found.floats:
        raise Unreadable("unsupported", "Float or Double Float Pixel Data (7FE0,0008 and 0009)", header)
    if "SOPClassUID" not in dataset and "Rows" not in dataset:
        raise Unreadable("corrupt", "the data set names neither a SOP class nor an image", header)
    if found.pixels is None:
        return DicomFile(dataset, syntax, header, found.little_endian, None, None, None)
    try:
        value, length, vr = _pixel_element(found, found.pixels)
    except struct.error:
        raise Unreadable("truncated", "the DICOM data end inside PixelData (7FE0,0010)", header) from None
    view = memoryview(found.body)[value:]
    declared = None if length == UNDEFINED else length
    return DicomFile(
        dataset, syntax, header, found.little_endian, view if declared is None else view[:declared], declared, vr
    )


class _Part:
    """A part of a buffer as a file to read: a large one is not copied."""

    def __init__(self, body: Buffer, start: int, end: int) -> None:
        self._body, self._start, self._end, self._at = body, start, end, start

    def read(self, size: int = -1) -> bytes:
        last = self._end if size < 0 else min(self._at + size, self._end)
        data, self._at = bytes(self._body[self._at : last]), max(self._at, last)
        return data

    def seek(self, offset: int) -> int:
        self._at = self._start + offset
        return offset

    def tell(self) -> int:
        return self._at - self._start


def _parse(found: Layout, end: int) -> Dataset:
    def elements() -> Any:
        if end - found.start <= LARGE_VALUE:
            return BytesIO(bytes(found.body[found.start : end]))
        return _Part(found.body, found.start, end)

    how: dict[str, Any] = {"is_implicit_VR": found.implicit, "is_little_endian": found.little_endian}
    try:
        return parse_dataset(elements(), **how, defer_size=LARGE_VALUE)
    except Exception as error:  # noqa: BLE001 - pydicom raises many types, and their texts may quote values
        detail = f"the DICOM data set does not parse ({type(error).__name__})"
    try:  # whose image it is stands first: it may parse though what follows does not
        identity = parse_dataset(elements(), **how, defer_size=LARGE_VALUE, stop_when=_after_identity)
    except Exception:  # noqa: BLE001 - as above
        raise Unreadable("corrupt", detail) from None
    raise Unreadable("corrupt", detail, header_of(identity))


def _identity(data: Buffer) -> dict[str, str]:
    """Return whose image a file is whose structure is refused, from its first bytes; empty where they do not say."""
    try:
        syntax, start = meta_of(data)
        first = bytes(data[start : start + IDENTITY_WITHIN])
        if syntax == uid.DeflatedExplicitVRLittleEndian:
            first = zlib.decompressobj(-zlib.MAX_WBITS).decompress(first, IDENTITY_WITHIN)
        implicit, little = encoding_of(syntax, first, 0)
        return header_of(parse_dataset(BytesIO(first), implicit, little, stop_when=_after_identity))
    except Exception:  # noqa: BLE001 - the file was refused already; this only tries to tell whose it is
        return {}


def _after_identity(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return int(tag) >= AFTER_IDENTITY


def _pixel_element(found: Layout, at: int) -> tuple[int, int, str | None]:
    """Return where the value of PixelData begins, its declared length and VR."""
    order = "<" if found.little_endian else ">"
    vr = bytes(found.body[at + 4 : at + 6])
    if found.implicit:
        return at + 8, int(struct.unpack_from(f"{order}I", found.body, at + 4)[0]), None
    if vr in LONG_VRS:
        return at + 12, int(struct.unpack_from(f"{order}I", found.body, at + 8)[0]), vr.decode()
    return at + 8, int(struct.unpack_from(f"{order}H", found.body, at + 6)[0]), vr.decode("ascii", "replace")


def _silence_pydicom() -> None:
    """Keep pydicom from quoting header values, which are patient data, in warnings and logs.

    Repeated at every call, because anyone may reset the warning filters in between.
    """
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
