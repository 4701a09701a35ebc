"""An independent look at what is about to leave: it shares no rule table with the engine that made it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from pydicom.uid import ExplicitVRLittleEndian

from imaging.limits import Limits
from imaging.part10 import read_dicom
from imaging.refusal import Unreadable
from ship import elements
from ship import pixels as px
from ship.boxes import Box
from ship.elements import Element
from ship.headers import constants
from ship.identity import LONG, Identity

IN_PIXELS = 10
"""From this length on a value is looked for among the pixels as well, where short ones occur by chance."""
MIN_DISTINCT = 4
_BLOCK = 2**20
"""Bytes of pixels that are searched at a time."""

_FREE_TEXT = frozenset(("LT", "ST", "UT", "UC", "UR", "UN", "AE", "OB", "OD", "OF", "OL", "OV", "TM", "AT", "SV", "UV"))
_CODES = frozenset((0x00080100, 0x00080102, 0x00080104))
"""CodeValue, CodingSchemeDesignator, CodeMeaning: only inside the sequences of codes."""
_CODE_SEQUENCES = frozenset((0x00082218, 0x00540220, 0x00120064))
"""AnatomicRegionSequence, ViewCodeSequence, DeidentificationMethodCodeSequence."""
_SEQUENCES = _CODE_SEQUENCES | {0x00081140, 0x00082112, 0x00283000, 0x00283010, 0x00400555}
"""Also ReferencedImage, SourceImage, ModalityLUT, VOILUT and AcquisitionContext (which must be empty)."""
_WORDS = frozenset((0x00081030, 0x0008103E, 0x00181030, 0x00400254))
"""StudyDescription, SeriesDescription, ProtocolName, PerformedProcedureStepDescription."""
_TOKENS = frozenset((0x00281054, 0x00181160, 0x00283004))
"""RescaleType, FilterType, ModalityLUTType: defined terms in text attributes."""
_DEVICE = frozenset((
    *(0x00080070, 0x00081010, 0x00081090, 0x00181000, 0x00181004, 0x00181005, 0x00181007, 0x00181008, 0x00181020),
    *(0x0018700A, 0x0018702A, 0x0018702B),
))  # fmt: skip
"""Names of the device and its parts: Retain Device Identity Option, where the site chose it."""
_PATIENT_ID, _PATIENT_NAME, _METHOD, _PIXEL_DATA = 0x00100020, 0x00100010, 0x00120063, 0x7FE00010
_LUT_DATA, _META_VERSION = 0x00283006, 0x00020001
_GROUPS = frozenset((0x0002, 0x0008, 0x0010, 0x0012, 0x0018, 0x0020, 0x0028, 0x0040, 0x0054, 0x2050, 0x7FE0))
_UNICODE = ("utf-8", "utf-16-le", "utf-16-be")
_NATIONAL = (
    *("latin-1", "iso8859-2", "iso8859-4", "iso8859-5", "iso8859-6", "iso8859-7"),
    *("iso8859-8", "iso8859-9", "tis-620", "shift_jis", "euc_jp", "iso2022_jp_2", "euc_kr", "gb18030"),
)
"""The character sets of SpecificCharacterSet (0008,0005), PS3.3 C.12.1.1.2; all of them write ASCII alike."""
_MAX_DEPTH = 1


class NotClean(Exception):
    """A check hit; the text says which, and where, never what."""


def verify_dicom(
    data: bytes,
    source: px.Source,
    boxes: Sequence[Box],
    identity: Identity,
    limits: Limits,
    *,
    keep_device: bool = False,
) -> px.Pixels:
    """Read the new file as a stranger would and return its pixels; raises NotClean.

    `source` is what was read of the original: all values outside the boxes, and what they show, must be the same.
    """
    try:
        found = list(elements.read(data))
        walk(found, identity, _DEVICE if keep_device else frozenset())
    except elements.Malformed as why:
        raise NotClean(str(why)) from None
    try:
        file = read_dicom(data, limits)
        result = px.decode_dicom(file, limits)
    except Exception as error:  # noqa: BLE001 - unreadable is not clean, however it shows
        raise NotClean(f"reading it back raised {type(error).__name__}") from None
    if file.syntax != ExplicitVRLittleEndian:
        raise NotClean("transfer syntax")
    _must_say(found)
    if not px.proven(source.pixels, result.pixels, boxes):
        raise NotClean("pixels outside the boxes changed, or a box is not constant")
    if not result.is_like(source):
        raise NotClean("the values mean or show something else")
    last, padding = found[-1], len(found[-1].value) - result.pixels.nbytes
    if last.tag != _PIXEL_DATA or memoryview(last.value) != file.pixels or padding not in (0, 1):
        raise NotClean("bytes after the pixels")
    scan(b"\\".join(_unknown_values(found)), last.value, identity)
    return result.pixels


def verify_png(data: bytes, source: px.Pixels, boxes: Sequence[Box], identity: Identity, limits: Limits) -> px.Pixels:
    """The same for a PNG: image chunks and nothing else; raises NotClean."""
    chunks = px.png_chunks(data)
    if not chunks or {name for name, _ in chunks} - {b"IHDR", b"IDAT", b"IEND"}:
        raise NotClean("chunks beside the image")
    try:
        result = px.decode_picture(data, limits)
    except Unreadable as error:
        raise NotClean(f"reading it back raised {type(error).__name__}") from None
    if not px.proven(source, result, boxes):
        raise NotClean("pixels outside the boxes changed, or a box is not constant")
    scan(b"", data, identity)
    return result


def _must_say(found: Sequence[Element]) -> None:
    """PatientIdentityRemoved, BurnedInAnnotation, the method's codes; meta information and data set name one object."""
    values = {element.tag: element.value.strip(b" \0") for element in found if not element.path}
    if values.get(0x00120062) != b"YES" or values.get(0x00280301) != b"NO" or 0x00120064 not in values:
        raise NotClean("it does not say that it is de-identified")
    if not values.get(0x00080018) or values.get(0x00020003) != values[0x00080018]:
        raise NotClean("file meta information of another object")


def walk(found: Sequence[Element], identity: Identity, labels: Collection[int] = ()) -> None:
    """Look at every element at every depth; raises NotClean with the tag of the first that must not be there.

    `labels` are the texts besides the usual that may be there, at the top level.
    """
    pseudonym = next((e.value for e in found if e.tag == _PATIENT_ID and not e.path), None)
    for element in found:
        group = element.tag >> 16
        if group % 2:
            raise NotClean(f"private attribute {element.name}")
        if group not in _GROUPS:
            raise NotClean(f"group of {element.name}")
        if len(element.path) > _MAX_DEPTH or any(tag not in _SEQUENCES for tag in element.path):
            raise NotClean(f"{element.name} in a sequence that must not be there")
        if element.vr == "SQ":
            if element.tag not in _SEQUENCES:
                raise NotClean(f"sequence {element.name}")
        elif element.tag in (_PATIENT_ID, _PATIENT_NAME):
            if element.value != pseudonym or not re.fullmatch(rb"[A-Z2-7]{16}", element.value):
                raise NotClean(f"a name or id in {element.name}")
        elif element.tag in labels and not element.path:
            if not re.fullmatch(rb"[A-Za-z0-9 ._,+/()&\\-]*", element.value):
                raise NotClean(f"text in {element.name}")
        elif element.value:
            _judge(element, identity)


def _judge(element: Element, identity: Identity) -> None:  # noqa: PLR0912 - one branch a value representation
    where, tag = element.name, element.tag
    match element.vr:
        case "OW" | "OB":
            if tag not in (_PIXEL_DATA, _LUT_DATA) and (tag, element.value) != (_META_VERSION, b"\x00\x01"):
                raise NotClean(f"opaque bytes in {where}")
        case "PN":
            raise NotClean(f"a name in {where}")
        case vr if vr in _FREE_TEXT:
            raise NotClean(f"free text or opaque bytes in {where}")
        case "LO" | "SH":
            if not _text_may_stay(element):
                raise NotClean(f"text in {where}")
        case "CS":
            if not all(re.fullmatch(r"[A-Z0-9_ -]{0,16}", text) for text in element.texts):
                raise NotClean(f"no coded string in {where}")
        case "UI":
            for text in element.texts:
                if not re.fullmatch(r"(1\.2\.840\.10008|2\.25)\.[0-9.]+", text) or text in identity.uids:
                    raise NotClean(f"UID in {where}")
        case "DA" | "DT":
            originals = {date.strftime("%Y%m%d") for date in identity.dates}
            if any(not re.fullmatch(r"\d{8}", text) or text in originals for text in element.texts):
                raise NotClean(f"an original date, or more than a date, in {where}")
        case "IS" | "DS":
            if not all(re.fullmatch(r"[-+0-9.eE]{0,16}", text) for text in element.texts):
                raise NotClean(f"no number in {where}")
        case "AS":
            if not re.fullmatch(rb"0\d\d[DWMY]", element.value) or (
                element.value[3:] == b"Y" and element.value > b"090Y"
            ):
                raise NotClean(f"an age in {where}")


def _text_may_stay(element: Element) -> bool:
    if element.tag in _CODES and element.path and element.path[-1] in _CODE_SEQUENCES:
        return True
    if element.tag in _WORDS:
        return all(re.fullmatch(r"([A-Z]+|\dV?)( ([A-Z]+|\dV?))*", text) for text in element.texts)
    if element.tag in _TOKENS:
        return all(re.fullmatch(r"[A-Z_]{2,9}", text) for text in element.texts)
    return element.tag in (_METHOD, 0x00020013)  # DeidentificationMethod, ImplementationVersionName


def _unknown_values(found: Sequence[Element]) -> Iterator[bytes]:
    """The values that are not, as a whole, one of our own constants, which hold words that are names too (a Ms Clean).

    A short number that is a measurement is left out as well: the kilovolts of many are some patient's id.
    """
    known = {constant.encode() for constant in constants()}
    for element in found:
        value = element.value.rstrip(b" \0")
        if element.tag == _PIXEL_DATA or not value or value in known:
            continue
        if element.vr not in ("DS", "IS", "AS") or any(len(part) >= LONG for part in value.split(b"\\")):
            yield value


def scan(header: bytes, pixels: bytes, identity: Identity) -> None:
    """Look for the patient's values in raw bytes, whatever any parser makes of them; raises NotClean."""
    lowered, long = header.lower(), set()
    for text, anywhere in identity.spellings().items():
        encodings = _UNICODE if text.isascii() else _UNICODE + _NATIONAL
        for needle in {raw for encoding in encodings if (raw := _encoded(text, encoding))}:
            if _is_no_pattern(text, needle):
                long.add(needle)
            position = lowered.find(needle)
            while position >= 0:
                if anywhere or _alone(lowered, position, len(needle)):
                    raise NotClean("one of the patient's values in the bytes of the header")
                position = lowered.find(needle, position + 1)
    if among(pixels, long):
        raise NotClean("one of the patient's values among the pixel bytes")


def _is_no_pattern(text: str, needle: bytes) -> bool:
    """Whether bytes are long and varied enough not to be pixels: "12345" in UTF-16 is a ramp of five grey values."""
    enough = len(text) >= IN_PIXELS or (
        not text.isascii() and needle == text.lower().encode() and len(needle) >= IN_PIXELS
    )
    return enough and len(set(needle)) >= MIN_DISTINCT


def among(data: bytes, needles: Iterable[bytes]) -> bool:
    """Whether one of the needles (lower case, each of at least 10 bytes) is in the data, whatever its case."""
    needles = list(needles)
    if not needles:
        return False
    # A table of which pairs of bytes occur at each place of a needle: five of them leave hardly a candidate.
    tables = np.zeros((IN_PIXELS // 2, 1 << 16), dtype=bool)
    for place, table in enumerate(tables):
        table[[needle[2 * place] | needle[2 * place + 1] << 8 for needle in needles]] = True
    longest = max(len(needle) for needle in needles)
    return any(
        _in_block(data[start : start + _BLOCK + longest - 1].lower(), needles, tables)
        for start in range(0, len(data), _BLOCK)
    )


def _in_block(data: bytes, needles: Sequence[bytes], tables: npt.NDArray[np.bool_]) -> bool:
    if len(data) < IN_PIXELS:
        return False
    raw = np.frombuffer(data, np.uint8)
    pairs = raw[:-1].astype(np.uint16) | raw[1:].astype(np.uint16) << 8
    starts = np.flatnonzero(tables[0][pairs[: len(data) - IN_PIXELS + 1]])
    for place, table in enumerate(tables[1:], 1):
        starts = starts[table[pairs[starts + 2 * place]]]
    return any(data.startswith(needle, int(start)) for start in starts for needle in needles)


def _encoded(text: str, encoding: str) -> bytes | None:
    """The bytes of a text, lowered as the bytes that are searched are: as ASCII, whatever they stand for."""
    try:
        return text.lower().encode(encoding).lower()
    except UnicodeEncodeError:
        return None


def _alone(data: bytes, position: int, length: int) -> bool:
    """Whether a word stands between other signs than letters and digits; a number, between others than digits."""
    before, after = data[max(position - 1, 0) : position], data[position + length : position + length + 1]
    if data[position : position + length].isdigit():
        return not before.isdigit() and not after.isdigit()
    return not before.isalnum() and not after.isalnum()
