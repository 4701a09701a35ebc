"""Attributes, read the same way by everybody: an empty one counts as absent, an unusable one is refused by name."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydicom.datadict import tag_for_keyword
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence

from imaging.refusal import Unreadable

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

HEADER_KEYWORDS = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyInstanceUID",
    "SOPInstanceUID", "StudyDate", "StudyTime", "Modality", "ViewPosition", "BodyPartExamined", "InstitutionName",
)  # fmt: skip
"""What the worklist shows."""
DATES, TIMES = frozenset({"PatientBirthDate", "StudyDate"}), frozenset({"StudyTime"})
LONGEST = 256
"""Characters of one header value that are kept."""


def named(keyword: str) -> str:
    """Return an attribute's keyword and tag as texts name it: `RescaleSlope (0028,1053)`."""
    tag = tag_for_keyword(keyword) or 0
    return f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def unusable(keyword: str, why: str) -> Unreadable:
    """Return the refusal for an attribute that is present and unusable."""
    return Unreadable("bad-attribute", f"{named(keyword)} {why}")


def value_of(dataset: Dataset, keyword: str) -> Any:
    """Return a value, None when the attribute is absent or empty; Unreadable when it does not parse."""
    try:
        value = dataset.get(keyword)
    except Exception:  # noqa: BLE001 - pydicom converts when asked, and raises what that meets; its text quotes the value
        raise unusable(keyword, "cannot be read") from None
    if value is None or (isinstance(value, str | bytes | Sequence | MultiValue) and len(value) == 0):
        return None
    return value


def text(dataset: Dataset, keyword: str) -> str:
    """Return a text as written, "" when absent, empty or unreadable.

    A backslash inside an identifier separates no values: what a reader took for a list is joined again.
    """
    try:
        value = value_of(dataset, keyword)
        if isinstance(value, MultiValue | list | tuple):
            value = "\\".join(str(part) for part in value)
        return "" if value is None else str(value).strip(" \0")
    except (Unreadable, ValueError, LookupError, TypeError, AttributeError):  # a name is decoded when it is printed
        return ""


def code(dataset: Dataset, keyword: str) -> str:
    """Return a coded string in capitals, "" when absent; the first where several equal ones stand.

    Raises Unreadable when several different ones do.
    """
    parts = {part.strip().upper() for part in text(dataset, keyword).split("\\")}
    parts.discard("")
    if len(parts) > 1:
        raise unusable(keyword, "has several values")
    return parts.pop() if parts else ""


def numbers(dataset: Dataset, keyword: str) -> list[float]:
    """Return all numbers of an attribute of any VR, [] when absent or empty; Unreadable when one is no number."""
    value = value_of(dataset, keyword)
    if value is None:
        return []
    parts = value if isinstance(value, MultiValue | list | tuple) else [value]
    if isinstance(value, str):
        parts = value.split("\\")
    found = []
    for part in parts:
        shown = part.decode("ascii", "replace") if isinstance(part, bytes) else part
        if isinstance(shown, str) and not shown.strip(" \0"):
            continue
        try:
            found.append(float(shown))
        except (TypeError, ValueError, OverflowError):
            raise unusable(keyword, "is no number") from None
        if not math.isfinite(found[-1]):
            raise unusable(keyword, "is no finite number")
    return found


def number(dataset: Dataset, keyword: str) -> float | None:
    """Return one number, None when absent or empty; a value that stands twice is one, different ones are refused."""
    found = set(numbers(dataset, keyword))
    if len(found) > 1:
        raise unusable(keyword, "has several values")
    return found.pop() if found else None


def integer(dataset: Dataset, keyword: str) -> int | None:
    """Return one whole number, None when absent or empty; Unreadable when it is none."""
    found = number(dataset, keyword)
    if found is not None and found != int(found):
        raise unusable(keyword, "is no whole number")
    return None if found is None else int(found)


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence, [] when absent or empty; Unreadable when it is none."""
    value = value_of(dataset, keyword)
    if value is None:
        return []
    if not isinstance(value, DicomSequence):
        raise unusable(keyword, "is no sequence")
    return list(value)


def header_of(dataset: Dataset) -> dict[str, str]:
    """Return the worklist's keywords that have a value, dates and times as DICOM writes them today; patient data."""
    values = {keyword: _printable(text(dataset, keyword))[:LONGEST] for keyword in HEADER_KEYWORDS}
    for keyword in DATES & values.keys():
        values[keyword] = _date(values[keyword])
    for keyword in TIMES & values.keys():
        values[keyword] = _time(values[keyword])
    return {keyword: value for keyword, value in values.items() if value}


def _printable(value: str) -> str:
    """Replace what no screen shows and some databases refuse: control characters and lone surrogates."""
    return "".join(" " if unicodedata.category(sign) in ("Cc", "Cs") else sign for sign in value).strip()


def _date(value: str) -> str:
    """ACR-NEMA wrote 2021.01.02 (PS3.5 table 6.2-1, DA, note)."""
    old = re.fullmatch(r"(\d{4})[.-](\d{2})[.-](\d{2})", value)
    return "".join(old.groups()) if old else value


def _time(value: str) -> str:
    """ACR-NEMA wrote 10:20:30.5 (PS3.5 table 6.2-1, TM, note)."""
    old = re.fullmatch(r"(\d{2}):(\d{2})(?::(\d{2}(?:\.\d+)?))?", value)
    return "".join(part for part in old.groups() if part) if old else value
