"""The core's own look at what arrives: nothing that identifies a person may be in it. Shares no code with ship/.

It sees headers and containers, not pixels: text that is burned in was looked for at the edge, with the means for it.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator

from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement
from pydicom.multival import MultiValue

from imaging.guard import layout

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_CHUNKS = frozenset({b"IHDR", b"IDAT", b"IEND"})
"""The critical chunks of a grey picture (ISO/IEC 15948 clause 11.2): every other one can carry text or a date."""

STANDARD_ROOT = "1.2.840.10008."
DERIVED_ROOT = "2.25."
TEXT_VRS = frozenset({"AE", "AS", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT", "DA", "DT", "TM"})
BYTE_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
GROUPS = frozenset({0x0002, 0x0008, 0x0010, 0x0012, 0x0018, 0x0020, 0x0028, 0x0040, 0x0054, 0x2050, 0x7FE0})
"""Groups of the modules of a CR, DX or secondary capture image (PS3.3 A.2, A.8, A.26); no overlays (60xx)."""
TEXTS = frozenset({
    "CodeMeaning", "CodeValue", "CodingSchemeDesignator", "DeidentificationMethod",
    "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "AcquisitionDateTime", "PatientAge",
    "ImplementationVersionName",
})  # fmt: skip
"""Attributes that may hold a text, a (shifted) date or an age besides coded strings and the pseudonym."""
DESCRIPTIONS = frozenset({"StudyDescription", "SeriesDescription", "ProtocolName", "PerformedProcedureStepDescription"})
WORDS = frozenset({
    "CHEST", "THORAX", "THORACIC", "LUNG", "LUNGS", "RIB", "RIBS", "CLAVICLE", "STERNUM", "SPINE", "ABDOMEN", "HEART",
    "XR", "CR", "DX", "RX", "XRAY", "RADIOGRAPH", "RADIOGRAPHY", "PROJECTION", "IMAGE", "SERIES", "STUDY", "EXAM",
    "ROUTINE", "STANDARD", "SINGLE", "AP", "PA", "LAT", "LATERAL", "FRONTAL", "OBLIQUE", "LL", "RL", "DECUBITUS",
    "DECUB", "LEFT", "RIGHT", "BILATERAL", "BOTH", "SUPINE", "PRONE", "ERECT", "UPRIGHT", "STANDING", "SITTING",
    "SEMIERECT", "PORTABLE", "MOBILE", "BEDSIDE", "ICU", "INSPIRATION", "EXPIRATION", "INSP", "EXP", "VIEW", "VIEWS",
    "ADULT", "PAED", "PAEDIATRIC", "PEDIATRIC", "NEONATE", "INFANT", "GRID", "NONGRID", "1", "2", "3", "1V", "2V", "3V",
})  # fmt: skip
"""The only words that a description may have left: an examination is made of them, no name is."""
TERMS = frozenset({"RescaleType", "FilterType", "ModalityLUTType"})
"""Text attributes that hold a term (PS3.3 C.11.1.1.2, C.8.7.10)."""
DEVICE = frozenset({
    "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "StationName", "DeviceSerialNumber", "DetectorID",
    "DetectorManufacturerName", "DetectorManufacturerModelName", "PlateID", "CassetteID", "GantryID", "GeneratorID",
})  # fmt: skip
"""May be there where the object says so: Retain Device Identity Option (CID 7050)."""
DEVICE_OPTION = "113109"
PSEUDONYMS = frozenset({"PatientID", "PatientName"})
BYTES = frozenset({"PixelData", "LUTData", "FileMetaInformationVersion"})


class Unclean(Exception):
    """Something is left, or may be: `reason` is a code of docs/core.md; no value is ever quoted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def check(data: bytes, media_type: str, patient: str) -> None:
    """Raise Unclean unless the object is of `media_type` and holds nothing but pixels and harmless attributes.

    `patient` is the pseudonym of the manifest, the only thing that may stand where a name or an id stood.
    """
    if media_type == "application/dicom":
        _check_dicom(data, patient)
    elif media_type == "image/png":
        _check_png(data)
    else:
        raise Unclean("media-type")


def _check_dicom(data: bytes, patient: str) -> None:
    if data[128:132] != b"DICM":
        raise Unclean("media-type")
    if any(data[:128]):
        raise Unclean("preamble-not-empty")
    try:
        layout(data)  # before anything is inflated: pydicom has no limit
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's remarks quote values
            dataset = dcmread(io.BytesIO(data))
            texts = TEXTS | DEVICE if _keeps_device(dataset) else TEXTS
            for element in _elements(dataset):
                _check_element(element, patient, texts)
            identity_removed = str(dataset.get("PatientIdentityRemoved", ""))
            burned_in = str(dataset.get("BurnedInAnnotation", ""))
            pseudonym = str(dataset.get("PatientID", ""))
    except Unclean:
        raise
    except Exception:  # noqa: BLE001 - pydicom raises what its parsing meets; what can't be read isn't known to be clean
        raise Unclean("undecodable") from None
    if identity_removed != "YES":  # (0012,0062)
        raise Unclean("not-marked-deidentified")
    if burned_in != "NO":  # (0028,0301)
        raise Unclean("burned-in-annotation")
    if pseudonym != patient:  # (0010,0020)
        raise Unclean("patient-mismatch")


def _keeps_device(dataset: Dataset) -> bool:
    """Return whether the site chose the Retain Device Identity Option."""
    codes = dataset.get("DeidentificationMethodCodeSequence") or ()
    return any(str(item.get("CodeValue", "")) == DEVICE_OPTION for item in codes)


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    """Yield the elements at every depth, those of the file meta information (PS3.10 section 7.1) first."""
    yield from getattr(dataset, "file_meta", Dataset())
    for element in dataset:
        if element.VR == "SQ":
            if element.tag.is_private:
                raise Unclean("private-attribute")
            for item in element.value:
                yield from _elements(item)
        else:
            yield element


def _check_element(element: DataElement, patient: str, texts: frozenset[str]) -> None:
    if element.tag.is_private:
        raise Unclean("private-attribute")
    values = list(element.value) if isinstance(element.value, MultiValue | list) else [element.value]
    values = [value for value in values if value not in (None, "", b"")]
    if not values:
        return
    if element.tag.group not in GROUPS:
        raise Unclean("unexpected-attribute")
    if element.keyword in PSEUDONYMS:
        if [str(value) for value in values] != [patient]:
            raise Unclean("patient-mismatch")
    elif element.VR in BYTE_VRS:
        if element.keyword not in BYTES:
            raise Unclean("unexpected-attribute")
    elif element.VR == "UI":
        if not all(str(value).startswith((STANDARD_ROOT, DERIVED_ROOT)) for value in values):
            raise Unclean("identifying-attribute")
    elif element.VR in TEXT_VRS - {"CS"} and not _may_stay(element.keyword, values, texts):
        raise Unclean("identifying-attribute")


def _may_stay(keyword: str, values: list[object], texts: frozenset[str]) -> bool:
    """Return whether the values of a text, other than a coded string, tell of nobody."""
    if keyword in DESCRIPTIONS:
        return all(set(str(value).split()) <= WORDS for value in values)
    if keyword in TERMS:
        return all(re.fullmatch(r"[A-Z_]{2,9}", str(value)) for value in values)
    return keyword in texts


def _check_png(data: bytes) -> None:
    if not data.startswith(PNG_MAGIC):
        raise Unclean("media-type")
    offset = len(PNG_MAGIC)
    while True:
        if offset + 12 > len(data):
            raise Unclean("undecodable")
        length, kind = struct.unpack_from(">I4s", data, offset)
        end = offset + 12 + length
        if end > len(data):
            raise Unclean("undecodable")
        if kind not in PNG_CHUNKS:
            raise Unclean("unexpected-chunk")
        if zlib.crc32(memoryview(data)[offset + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise Unclean("undecodable")
        offset = end
        if kind == b"IEND":
            break
    if offset != len(data):
        raise Unclean("unexpected-chunk")
