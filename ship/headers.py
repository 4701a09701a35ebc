"""A new header that holds only what the rules allow, made from one that may hold anything."""

from __future__ import annotations

import datetime as dt
import functools
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

from edgerad import __version__
from imaging import attributes
from ship.decimals import MAX_DECIMAL, decimal
from ship.header_rules import ANEW, CHARACTERISTICS, DEVICE, RULES, WORDS, Action, Rule, codes, meaning_of
from ship.keys import SiteKey

IMPLEMENTATION_UID = "2.25.298127389847318937465219834756183475610"
METHOD = "edgerad recursive allow-list"
_OPTIONS = {
    "113100": "Basic Application Confidentiality Profile",
    "113101": "Clean Pixel Data Option",
    "113103": "Clean Graphics Option",
    "113105": "Clean Descriptors Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
    "113109": "Retain Device Identity Option",
}
"""CID 7050, PS3.16."""


_MAX_VALUES = 64
_MAX_ITEMS = 64
_MAX_WORDS = 64
_MAX_LABELS = 8
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._,+/()&-]{0,63}")


class NoPatient(Exception):
    """PatientID (0010,0020) is missing or empty: nothing to key pseudonyms and dates on."""


@dataclass(slots=True)
class CleanHeader:
    """The new header, still without pixels, and how many attributes met which end."""

    dataset: Dataset
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Maps:
    key: SiteKey
    issuer: str
    patient_id: str
    names: frozenset[str]
    """The words of PatientName (0010,0010), in capitals: no description keeps one of them."""
    counts: Counter[str]


def clean_header(
    source: Dataset, key: SiteKey, *, keep_characteristics: bool = False, keep_device: bool = False
) -> CleanHeader:
    """Everything of `source` that the rules allow, mapped; raises NoPatient.

    Counts are by end: kept, mapped, emptied, removed (no rule), invalid (a rule, but a VR or value that it excludes).
    """
    # Values are checked one by one here; pydicom's own remarks would carry them into the log.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patient_id = attributes.text(source, "PatientID")
        if not patient_id:
            raise NoPatient
        counts: Counter[str] = Counter()
        names = frozenset(re.findall(r"\w+", attributes.text(source, "PatientName").upper()))
        maps = _Maps(key, attributes.text(source, "IssuerOfPatientID"), patient_id, names, counts)
        target = _clean(source, _rules(keep_characteristics, keep_device), maps)
        if "ImageType" in target:
            target.ImageType = _image_type(target.ImageType)
        target.SpecificCharacterSet = "ISO_IR 192"
        return CleanHeader(target, counts)


def constants() -> frozenset[str]:
    """Every text that this module writes itself: what a scan for the patient's values must not stumble over."""
    return frozenset((METHOD, f"EDGERAD_{__version__}", IMPLEMENTATION_UID, *_OPTIONS, *_OPTIONS.values())) | frozenset(
        codes().values()
    )


@functools.cache
def _rules(keep_characteristics: bool, keep_device: bool) -> Mapping[int, Rule]:
    return _by_tag({**RULES, **(CHARACTERISTICS if keep_characteristics else {}), **(DEVICE if keep_device else {})})


@functools.cache
def _anew() -> frozenset[int]:
    return frozenset(int(Tag(keyword)) for keyword in ANEW)


def _by_tag(rules: Mapping[str, Rule]) -> Mapping[int, Rule]:
    return {int(Tag(keyword)): rule for keyword, rule in rules.items()}


def _clean(source: Dataset, rules: Mapping[int, Rule], maps: _Maps) -> Dataset:
    target = Dataset()
    # Tags, not elements: an element is parsed only when a rule wants it.
    for tag in list(source.keys()):
        rule = rules.get(tag)
        if rule is None:
            maps.counts["removed"] += tag not in _anew()
            continue
        try:
            vr, value, end = _apply(source[tag], rule, maps)
        except Exception:  # noqa: BLE001 - a value that can't be read or checked does not pass, whatever it was
            maps.counts["invalid"] += 1
            if rule.required or rule.action is Action.EMPTY:
                target.add(_empty(tag))
            continue
        target.add(DataElement(tag, vr, value))
        maps.counts[end] += 1
    return target


def _empty(tag: BaseTag) -> DataElement:
    vr = dictionary_VR(tag).split(" or ")[0]
    return DataElement(tag, vr, Sequence() if vr == "SQ" else "")


def _apply(element: DataElement, rule: Rule, maps: _Maps) -> tuple[str, Any, str]:  # noqa: PLR0911 - one an action
    """The VR and value that stay, and the end; raises ValueError (or what reading the value raised) when none may."""
    vr = element.VR
    if vr not in dictionary_VR(element.tag).split(" or "):
        raise ValueError("unexpected value representation")
    match rule.action:
        case Action.EMPTY:
            return vr, _empty(element.tag).value, "emptied"
        case Action.IDENTIFIER:
            return vr, maps.key.identifier("patient", maps.issuer, maps.patient_id), "mapped"
        case Action.UID:
            return vr, maps.key.uid(_one(element)), "mapped"
        case Action.DATE:
            return vr, _shifted(_one(element), vr, maps.key.shift(maps.issuer, maps.patient_id)), "mapped"
        case Action.WORDS:
            return vr, _words(_one(element), maps.names), "cleaned"
        case Action.LABEL:
            return vr, _label(element, maps.names), "kept"
        case Action.ITEMS:
            inner = _by_tag(rule.items or {})
            items = [_clean(item, inner, maps) for item in _items(element)]
            return vr, Sequence([item for item in items if set(inner) <= set(item.keys())]), "kept"
        case Action.CODES:
            known = [code for item in _items(element) if (code := _known_code(item)) is not None]
            if not known:
                raise ValueError("no known code")
            return vr, Sequence(known), "kept"
        case Action.KEEP:
            return vr, _kept(element, rule), "kept"


def _one(element: DataElement) -> str:
    text = str(element.value).strip(" \0") if element.VM == 1 else ""
    if not text:
        raise ValueError("empty")
    return text


def _items(element: DataElement) -> list[Dataset]:
    items = list(element.value)
    if len(items) > _MAX_ITEMS:
        raise ValueError("too many items")
    return items


def _known_code(item: Dataset) -> Dataset | None:
    scheme, value = attributes.text(item, "CodingSchemeDesignator"), attributes.text(item, "CodeValue")
    meaning = meaning_of(scheme, value)
    return None if meaning is None else code_item(scheme, value, meaning)


def code_item(scheme: str, value: str, meaning: str) -> Dataset:
    """An item of a code sequence (PS3.3 section 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _shifted(text: str, vr: str, shift: dt.timedelta) -> str:
    """A DA, or a DT cut to its day, moved by whole days: the clock would tell one patient's visits from another's."""
    if re.fullmatch(r"\d{4}[.-]\d{2}[.-]\d{2}", text):  # as ACR-NEMA wrote it (PS3.5 table 6.2-1, DA, note)
        text = re.sub(r"[.-]", "", text)
    if not re.fullmatch(r"\d{8}" if vr == "DA" else r"\d{8}\d*(\.\d+)?([+-]\d{4})?", text):
        raise ValueError("not a date")
    return (dt.date.fromisoformat(text[:8]) + shift).strftime("%Y%m%d")


def _words(text: str, names: frozenset[str]) -> str:
    found = [word for word in re.findall(r"\w+", text.upper()) if word in WORDS and word not in names]
    if not any(word.isalpha() for word in found):
        raise ValueError("no word of the list")
    return " ".join(found)[:_MAX_WORDS].rstrip()


def _label(element: DataElement, names: frozenset[str]) -> Any:
    """What a device calls itself, in plain letters and digits, and no word of it one of the patient's name."""
    values = list(element.value) if isinstance(element.value, MultiValue | list) else [element.value]
    texts = [str(value).strip(" \0") for value in values]
    if not texts or len(texts) > _MAX_LABELS or not all(_LABEL.fullmatch(text) for text in texts):
        raise ValueError("no label")
    if names & set(re.findall(r"\w+", " ".join(texts).upper())):
        raise ValueError("a word of the patient's name")
    return texts[0] if len(texts) == 1 else texts


def _image_type(values: Any) -> list[str]:
    """ImageType (0008,0008) with both values that it must have (C.7.6.1.1.2); what was no standard value is gone."""
    values = [str(value) for value in values] if isinstance(values, MultiValue | list) else [str(values)]
    first, second = (*values, "", "")[:2]
    first = first if first in ("ORIGINAL", "DERIVED") else "DERIVED"
    second = second if second in ("PRIMARY", "SECONDARY") else "SECONDARY"
    return [first, second, *values[2:]]


def _kept(element: DataElement, rule: Rule) -> Any:
    values = list(element.value) if isinstance(element.value, MultiValue | list) else [element.value]
    if not values or len(values) > _MAX_VALUES:
        raise ValueError("no value, or too many")
    kept = [_checked(str(value) if value is not None else "", element.VR, rule) for value in values]
    return kept[0] if len(kept) == 1 else kept


def _checked(text: str, vr: str, rule: Rule) -> Any:  # noqa: PLR0911, PLR0912 - one branch a value representation
    text = text.strip(" \0")
    if rule.places and text not in (rule.allowed or ()):
        return ""
    if rule.allowed is not None and text not in rule.allowed:
        raise ValueError("not an allowed value")
    match vr:
        case "CS" | "LO" | "SH":
            if rule.allowed is None:
                raise ValueError("a text that no list allows")
            return text
        case "DS":
            return decimal(float(text))
        case "IS":
            return str(_integer(text, 31))
        case "US" | "SS" | "UL" | "SL":
            return _integer(text, 32)
        case "FD" | "FL":
            number = float(text)
            if not abs(number) < MAX_DECIMAL:
                raise ValueError("not finite")
            return number
        case "UI":
            if UID(text).is_private or UID(text).name == text:
                raise ValueError("not a standard UID")
            return text
        case "AS":
            if not re.fullmatch(r"\d{3}[DWMY]", text):
                raise ValueError("not an age")
            # 45 CFR 164.514(b)(2)(i)(C): ages over 89 are one category.
            return "090Y" if text[3] == "Y" and int(text[:3]) > 89 else text
        case _:
            raise ValueError("a value representation that nothing keeps")


def _integer(text: str, bits: int) -> int:
    number = int(text)
    if abs(number) >= 2**bits:
        raise ValueError("out of range")
    return number


def stamp(dataset: Dataset, *, keep_characteristics: bool = False, keep_device: bool = False) -> None:
    """Say in the object what was done (PS3.15 Annex E.2); only a verified object may leave with this."""
    dataset.PatientIdentityRemoved = "YES"
    dataset.BurnedInAnnotation = "NO"
    dataset.LongitudinalTemporalInformationModified = "MODIFIED"
    dataset.DeidentificationMethod = METHOD
    left_out = {code for code, on in (("113108", keep_characteristics), ("113109", keep_device)) if not on}
    chosen = [code for code in _OPTIONS if code not in left_out]
    dataset.DeidentificationMethodCodeSequence = Sequence([code_item("DCM", code, _OPTIONS[code]) for code in chosen])


def file_meta(dataset: Dataset) -> FileMetaDataset:
    """File meta information made from nothing but the new object (PS3.10 section 7.1)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    meta.ImplementationVersionName = f"EDGERAD_{__version__}"[:16]
    return meta
