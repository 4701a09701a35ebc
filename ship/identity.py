"""The patient's own values: what a source says about the person, in the spellings in which it may turn up elsewhere."""

from __future__ import annotations

import datetime as dt
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.multival import MultiValue

from ship.header_rules import RULES
from ship.text import MARKERS

MIN_LENGTH = 3
MIN_HINT = 4
VOCABULARY = MARKERS | {value for rule in RULES.values() for value in rule.allowed or ()}
"""Words of closed lists, which objects of every patient hold: a hospital for chest diseases is not found by them."""
SIMILAR = 0.75
"""Share of equal characters from which on a reading counts as one of the patient's values."""

_IDS = frozenset({
    "PatientID", "OtherPatientIDs", "IssuerOfPatientID", "AccessionNumber", "StudyID", "MedicalRecordLocator",
    "InsurancePlanIdentification", "PatientTelephoneNumbers", "PatientAddress", "PersonAddress",
    "PersonTelephoneNumbers", "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName",
    "DeviceSerialNumber", "DetectorID", "CassetteID", "PlateID", "GantryID", "AdmissionID", "IssuerOfAdmissionID",
    "ServiceEpisodeID", "RequestedProcedureID", "ScheduledProcedureStepID", "PerformedProcedureStepID",
    "FillerOrderNumberImagingServiceRequest", "PlacerOrderNumberImagingServiceRequest", "CountryOfResidence",
    "RegionOfResidence", "MilitaryRank", "BranchOfService", "Occupation", "PatientReligiousPreference",
    "ReferringPhysicianAddress", "ReferringPhysicianTelephoneNumbers",
})  # fmt: skip
_NOT_NAMES = frozenset({
    "MR", "MRS", "MS", "MISS", "DR", "PROF", "PHD", "MD", "THE", "AND", "FOR", "VON", "VAN", "DER", "JR", "SR",
})  # fmt: skip
_CONFUSED = str.maketrans("OQILZSBG", "00112586")
"""Letters that OCR takes for digits."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Words (names, ids and their parts), dates and UIDs of one source; values under 3 characters are not in it."""

    words: frozenset[str] = frozenset()
    dates: frozenset[dt.date] = frozenset()
    uids: frozenset[str] = frozenset()
    hints: frozenset[str] = frozenset()
    """Words of the file name or object key: looked for among what is read from the pixels, not in a header's bytes."""

    def spellings(self) -> frozenset[str]:
        """Every text to look for in bytes: words, dates as people and machines write them, UIDs."""
        dates = {text for date in self.dates for text in date_spellings(date)}
        return self.words | dates | self.uids

    def resembles(self, text: str) -> bool:
        """Whether a reading of pixels holds something that is at least 0.75 alike one of the words or dates."""
        read = _folded(text)
        return any(_alike(folded, read) for folded in self._folded_values())

    def _folded_values(self) -> Iterator[str]:
        for word in self.words | self.hints:
            if len(folded := _folded(word)) >= MIN_LENGTH:
                yield folded
        for date in self.dates:
            yield from {_folded(text) for text in date_spellings(date)}


def identity_of(dataset: Dataset, hints: Iterable[str] = ()) -> Identity:
    """Collect the identity of a data set at every depth; `hints` are texts beside it (file name, object key)."""
    words: set[str] = set()
    dates: set[dt.date] = set()
    uids: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _collect(dataset, words, dates, uids)
    hinted: set[str] = set()
    for hint in hints:
        hinted |= {word for word in _words(hint) if len(word) >= MIN_HINT and word.upper() not in MARKERS}
        dates |= _dates(hint)
    words = {word for word in words if word.upper() not in VOCABULARY}
    return Identity(frozenset(words), frozenset(dates), frozenset(uids), frozenset(hinted))


def _collect(dataset: Dataset, words: set[str], dates: set[dt.date], uids: set[str]) -> None:
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:  # noqa: BLE001, S112 - what can't be read can't be looked for; it is not kept either
            continue
        if element.VR == "SQ":
            for item in element.value:
                _collect(item, words, dates, uids)
            continue
        values = element.value if isinstance(element.value, MultiValue | list) else [element.value]
        texts = [str(value).strip(" \0") for value in values if value not in (None, "")]
        if element.VR == "PN" or keyword_for_tag(tag) in _IDS:
            for text in texts:
                words |= _words(text)
        elif element.VR in ("DA", "DT"):
            for text in texts:
                dates |= _dates(text[:8])
        elif element.VR == "UI":
            uids |= {text for text in texts if not text.startswith("1.2.840.10008.") and len(text) >= 8}


def _words(text: str) -> set[str]:
    whole = re.sub(r"[\s^=_,;]+", " ", text).strip()
    parts = {part for part in re.split(r"[^\w]+|_", text) if len(part) >= MIN_LENGTH and part.upper() not in _NOT_NAMES}
    names = [part for part in re.split(r"[\s^=_]+", text) if part]
    pairs = (
        {f"{a}{gap}{b}" for a in names for b in names if a != b for gap in (" ", "^", ", ")}
        if len(names) <= 6
        else set()
    )
    return {
        word for word in parts | pairs | {whole, text.strip()} if len(word) >= MIN_LENGTH and re.search(r"\w", word)
    }


def _dates(text: str) -> set[dt.date]:
    found = set()
    for year, month, day in re.findall(r"(?<!\d)((?:19|20)\d{2})[-./]?([01]\d)[-./]?([0-3]\d)(?!\d)", text):
        try:
            found.add(dt.date(int(year), int(month), int(day)))
        except ValueError:
            continue
    return found


def date_spellings(date: dt.date) -> set[str]:
    """A date as it is usually written, with four digits of the year."""
    formats = ("%Y%m%d", "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d/%m/%Y", "%d-%m-%Y", "%m/%d/%Y", "%m-%d-%Y")
    named = ("%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y")
    return {date.strftime(form) for form in (*formats, *named)}


def _folded(text: str) -> str:
    return "".join(ch for ch in text.upper() if ch.isalnum()).translate(_CONFUSED)


def _alike(value: str, read: str) -> bool:
    if len(read) < MIN_LENGTH:
        return False
    if value in read:
        return True
    matcher = SequenceMatcher(autojunk=False)
    matcher.set_seq2(value)
    size = len(value)
    for start in range(max(1, len(read) - size + 1)):
        matcher.set_seq1(read[start : start + size])
        if matcher.real_quick_ratio() >= SIMILAR and matcher.quick_ratio() >= SIMILAR and matcher.ratio() >= SIMILAR:
            return True
    return False
