"""A small chest radiograph written as DICOM in many ways: what every test of this folder reads."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread, dcmwrite, uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from edgerad.phantom import random_spec, render

NAME, PATIENT, STUDY = "Testerson^Tessa", "T0471188", "2.25.770020001"
Change = Callable[[Dataset], object]


@cache
def chest(bits: int = 12) -> npt.NDArray[np.uint16]:
    """A normal chest [rows, columns], bright where it is dense, over the whole range of `bits`."""
    pixels = render(random_spec(10, finding="normal", size=240)).pixels.astype(float)
    whole = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    return np.asarray(np.rint(whole * ((1 << bits) - 1)), np.uint16)


@contextmanager
def as_written() -> Iterator[None]:
    """Let pydicom write what it warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def dataset(words: npt.NDArray[Any] | None = None, bits: int = 12, **changes: Any) -> Dataset:
    """Return a CR image of these words, MONOCHROME2, explicit little endian; `changes` are attributes by keyword."""
    words = chest(bits) if words is None else words
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = uid.ComputedRadiographyImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = uid.UID("2.25.770010001")
    made.StudyInstanceUID, made.SeriesInstanceUID = STUDY, "2.25.770030001"
    made.PatientName, made.PatientID, made.PatientBirthDate = NAME, PATIENT, "19610203"
    made.StudyDate, made.StudyTime, made.AccessionNumber = "20240517", "101530", "A77"
    made.Modality, made.BodyPartExamined, made.ViewPosition = "CR", "CHEST", "PA"
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.PixelRepresentation = 1 if words.dtype.kind == "i" else 0
    made.Rows, made.Columns = words.shape[:2]
    made.BitsAllocated, made.BitsStored, made.HighBit = words.dtype.itemsize * 8, bits, bits - 1
    data = words.tobytes()
    made.PixelData = data + b"\0" * (len(data) % 2)
    made["PixelData"].VR = "OB" if words.dtype.itemsize == 1 else "OW"
    for keyword, value in changes.items():
        setattr(made, keyword, value)
    return made


def put(made: Dataset, keyword: str, vr: str, value: Any) -> Dataset:
    """Set an attribute with any VR, right or wrong."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    with as_written():
        made[tag] = DataElement(tag, vr, value, validation_mode=0)
    return made


def written(made: Dataset) -> bytes:
    """Return the file's bytes."""
    out = io.BytesIO()
    with as_written():
        dcmwrite(out, made, enforce_file_format=True)
    return out.getvalue()


def in_fragments(made: Dataset, syntax: uid.UID, frame: bytes | bytearray) -> Dataset:
    """Put a compressed frame into a data set."""
    made.PixelData = encapsulate([bytes(frame) + b"\0" * (len(frame) % 2)])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    made.file_meta.TransferSyntaxUID = syntax
    return made


def table(descriptor: list[int], data: Any, vr: str = "US", descriptor_vr: str = "US") -> Sequence:
    """Return a sequence of one look-up table."""
    item = Dataset()
    with as_written():
        item.add_new(0x00283002, descriptor_vr, descriptor)
        item.add_new(0x00283006, vr, data)
    return Sequence([item])


def fragment_at(data: bytes) -> tuple[int, int]:
    """Return where the value of the first fragment begins, and its length."""
    at = data.index(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff") + 12
    at += 8 + struct.unpack_from("<I", data, at + 4)[0]
    return at + 8, struct.unpack_from("<I", data, at + 4)[0]


def reread(data: bytes) -> Dataset:
    """Return the data set of a file."""
    return dcmread(io.BytesIO(data))
