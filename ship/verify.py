"""An independent look at what is about to leave: it shares no rule table with the engine that made it."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence

from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian

from ship import pixels as px
from ship.boxes import Box
from ship.headers import CONSTANTS
from ship.identity import Identity

LONG = 6
"""From this length on a value is looked for anywhere; a shorter one only where it stands alone, as a word."""
IN_PIXELS = 10
"""From this length on a value is looked for among the pixels as well, where short ones occur by chance."""

_FREE_TEXT = frozenset(("LT", "ST", "UT", "UC", "UR", "UN", "AE", "DT", "OB", "OD", "OF", "OL", "OV"))
_TEXT_TAGS = frozenset((
    0x00100020,  # PatientID
    0x00120063,  # DeidentificationMethod
    0x00080100,  # CodeValue
    0x00080102,  # CodingSchemeDesignator
    0x00080104,  # CodeMeaning
    0x00080050, 0x00200010, 0x00080070,  # AccessionNumber, StudyID, Manufacturer: empty
    0x00283004,  # ModalityLUTType
))  # fmt: skip
_VIEW = frozenset((0x00540220, 0x00540222))
"""ViewCodeSequence and its modifier: codes of a closed list, and all that may come from beyond group 0040."""
_MAX_DEPTH = 2
_PIXEL_DATA = 0x7FE00010
_ENCODINGS = ("utf-8", "latin-1", "utf-16-le", "utf-16-be")


class NotClean(Exception):
    """A check hit; the text says which, and where, never what."""


def verify_dicom(
    data: bytes, source: px.Pixels, boxes: Sequence[Box], identity: Identity, max_pixels: int
) -> px.Pixels:
    """Read the new file as a stranger would and return its pixels; raises NotClean."""
    if data[:128] != bytes(128) or data[128:132] != b"DICM":
        raise NotClean("preamble")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dataset = dcmread(io.BytesIO(data))
            walk(dataset.file_meta, identity, depth=0)
            walk(dataset, identity, depth=0)
            result = px.decode_dicom(dataset, max_pixels)
    except NotClean:
        raise
    except Exception as error:  # noqa: BLE001 - unreadable is not clean, however it shows
        raise NotClean(f"reading it back raised {type(error).__name__}") from None
    if dataset.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian:
        raise NotClean("transfer syntax")
    for keyword in ("PatientIdentityRemoved", "BurnedInAnnotation", "DeidentificationMethodCodeSequence"):
        if keyword not in dataset:
            raise NotClean(f"{keyword} is missing")
    if not px.proven(source, result, boxes):
        raise NotClean("pixels outside the boxes changed, or a box is not constant")
    body = bytes(dataset.PixelData)
    position = data.rfind(body)
    if position < 0 or position + len(body) != len(data):
        raise NotClean("bytes after the pixels")
    scan(data[:position], body, identity)
    return result


def verify_png(data: bytes, source: px.Pixels, boxes: Sequence[Box], identity: Identity, max_pixels: int) -> px.Pixels:
    """The same for a PNG: image chunks and nothing else; raises NotClean."""
    chunks = px.png_chunks(data)
    if not chunks or {name for name, _ in chunks} - {b"IHDR", b"IDAT", b"IEND"}:
        raise NotClean("chunks beside the image")
    try:
        result = px.decode_picture(data, max_pixels)
    except (px.Undecodable, px.Unsupported) as error:
        raise NotClean(f"reading it back raised {type(error).__name__}") from None
    if not px.proven(source, result, boxes):
        raise NotClean("pixels outside the boxes changed, or a box is not constant")
    scan(b"", data, identity)
    return result


def walk(dataset: Dataset, identity: Identity, *, depth: int) -> None:
    """Look at every element at every depth; raises NotClean with the tag of the first that must not be there."""
    if depth > _MAX_DEPTH:
        raise NotClean("sequences nested too deep")
    for element in dataset:
        tag, where = element.tag, f"({element.tag.group:04X},{element.tag.element:04X})"
        if tag.is_private:
            raise NotClean(f"private attribute {where}")
        if (
            0x5000 <= tag.group <= 0x50FF
            or 0x6000 <= tag.group <= 0x60FF
            or (0x0040 < tag.group < 0x2000 and tag not in _VIEW)
        ):
            raise NotClean(f"group of {where}")
        if element.VR == "SQ":
            for item in element.value:
                walk(item, identity, depth=depth + 1)
            continue
        if tag == _PIXEL_DATA or tag.group == 2:
            continue
        values = [] if element.is_empty else element.value if element.VM > 1 else [element.value]
        if element.VR in _FREE_TEXT and values:
            raise NotClean(f"free text or opaque bytes in {where}")
        for value in values:
            _judge(element.VR, str(value), int(tag), where, identity)


def _judge(vr: str, text: str, tag: int, where: str, identity: Identity) -> None:
    match vr:
        case "PN":
            if not re.fullmatch(r"[A-Z2-7]{16}", text):
                raise NotClean(f"a name in {where}")
        case "LO" | "SH":
            if tag not in _TEXT_TAGS:
                raise NotClean(f"text in {where}")
        case "UI":
            if not text.startswith(("1.2.840.10008.", "2.25.")) or text in identity.uids:
                raise NotClean(f"UID in {where}")
        case "DA":
            if text in {date.strftime("%Y%m%d") for date in identity.dates}:
                raise NotClean(f"an original date in {where}")
        case "TM":
            raise NotClean(f"a time in {where}")


def scan(header: bytes, pixels: bytes, identity: Identity) -> None:
    """Look for the patient's values in raw bytes, whatever any parser makes of them; raises NotClean."""
    # Our own constants hold words that are names too (a Mr Long, a Ms Clean).
    for constant in sorted(CONSTANTS, key=len, reverse=True):
        header = header.replace(constant.encode(), b"\0" * len(constant))
    lowered, lowered_pixels = header.lower(), pixels.lower()
    for spelling in identity.spellings():
        for encoding in _ENCODINGS:
            try:
                needle = spelling.lower().encode(encoding)
            except UnicodeEncodeError:
                continue
            if len(spelling) >= IN_PIXELS and needle in lowered_pixels:
                raise NotClean("one of the patient's values among the pixel bytes")
            position = lowered.find(needle)
            while position >= 0:
                if len(spelling) >= LONG or _alone(lowered, position, len(needle)):
                    raise NotClean("one of the patient's values in the bytes of the header")
                position = lowered.find(needle, position + 1)


def _alone(data: bytes, position: int, length: int) -> bool:
    before, after = data[position - 1 : position], data[position + length : position + length + 1]
    return not before.isalnum() and not after.isalnum()
