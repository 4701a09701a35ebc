"""The patient's own values: what a source says about the person, in the spellings in which it may turn up elsewhere."""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.multival import MultiValue

from ship.header_rules import RULES, WORDS
from ship.text import MARKERS

MIN_LENGTH = 3
MIN_HINT = 4
LONG = 6
"""From this length on a value is looked for anywhere in bytes; a shorter one only where it stands alone, as a word."""
SURE_DIGITS = 8
MIN_TEXT = 8
"""From this length on a free text of the source is looked for as a whole."""
VOCABULARY = MARKERS | WORDS | {value for rule in RULES.values() for value in rule.allowed or ()}
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
_CODE = frozenset({"CodeValue", "CodingSchemeDesignator", "CodeMeaning", "CodingSchemeVersion"})
_NOT_NAMES = frozenset({
    "MR", "MRS", "MS", "MISS", "DR", "PROF", "PHD", "MD", "THE", "AND", "FOR", "VON", "VAN", "DER", "JR", "SR",
})  # fmt: skip
_CONFUSED = str.maketrans("OQILZSBG", "00112586")
"""Letters that OCR takes for digits."""
_LATIN = str.maketrans({
    "ß": "ss", "Ø": "O", "ø": "o", "Æ": "AE", "æ": "ae", "Œ": "OE", "œ": "oe", "Ł": "L", "ł": "l", "Đ": "D", "đ": "d",
    "Þ": "Th", "þ": "th", "ı": "i",
})  # fmt: skip
"""Letters that have no decomposition."""
_UMLAUTS = str.maketrans({
    "ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "å": "aa", "Å": "Aa", "ø": "oe", "Ø": "Oe"
})  # fmt: skip
_FREE_TEXT = frozenset(("LO", "SH", "ST", "LT", "UT", "UC", "AE"))


@dataclass(frozen=True, slots=True)
class Identity:
    """Words (names, ids and their parts), dates, UIDs and free texts of one source; shorter values are not in it."""

    words: frozenset[str] = frozenset()
    dates: frozenset[dt.date] = frozenset()
    uids: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()
    """Whole values of free text, wherever they stood: none may turn up in a header."""
    hints: frozenset[str] = frozenset()
    """Words of the file name or object key: looked for among what is read from the pixels, not in a header's bytes."""

    def spellings(self) -> dict[str, bool]:
        """Every text to look for in bytes, and whether anywhere or only where it stands alone, as a word.

        Words also without accents; dates as people and machines write them.
        """
        texts = set(self.uids | self.texts)
        for word in self.words:
            texts |= {word, plain(word), plain(word.translate(_UMLAUTS))}
        for date in self.dates:
            texts |= date_spellings(date)
        alone = {text for date in self.dates for text in short_date_spellings(date)}
        # A short number occurs by chance within a UID.
        alone |= {text for text in texts if len(text.encode()) < LONG or (text.isdigit() and len(text) < SURE_DIGITS)}
        return {text: text not in alone for text in texts | alone if _counts(text)}

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


def identity_of(dataset: Dataset, hints: Iterable[str] = (), besides: Collection[str] = ()) -> Identity:
    """Collect the identity of a data set at every depth; `hints` are texts beside it (file name, object key).

    Attributes of the keywords `besides` are left out: what may stay is nothing to look for.
    """
    found = _Found(set(), set(), set(), set())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _collect(dataset, found, besides)
    hinted: set[str] = set()
    for hint in hints:
        hinted |= {word for word in _words(hint) if len(word) >= MIN_HINT and word.upper() not in MARKERS}
        found.dates |= _dates(hint)
    words = {word for word in found.words if word.upper() not in VOCABULARY}
    texts = {text for text in found.texts if not set(re.findall(r"\w+", text.upper())) <= VOCABULARY}
    return Identity(
        frozenset(words), frozenset(found.dates), frozenset(found.uids), frozenset(texts), frozenset(hinted)
    )


@dataclass(slots=True)
class _Found:
    words: set[str]
    dates: set[dt.date]
    uids: set[str]
    texts: set[str]


def _collect(dataset: Dataset, found: _Found, besides: Collection[str]) -> None:
    for tag in list(dataset.keys()):
        if besides and keyword_for_tag(tag) in besides:
            continue
        try:
            element = dataset[tag]
        except Exception:  # noqa: BLE001, S112 - what can't be read can't be looked for; it is not kept either
            continue
        if element.VR == "SQ":
            for item in element.value:
                _collect(item, found, besides)
            continue
        values = element.value if isinstance(element.value, MultiValue | list) else [element.value]
        texts = [str(value).strip(" \0") for value in values if value not in (None, "")]
        if element.VR == "PN" or keyword_for_tag(tag) in _IDS:
            for text in texts:
                found.words |= _words(text)
        elif element.VR in ("DA", "DT"):
            for text in texts:
                found.dates |= _dates(text[:8] if text[:8].isdigit() else text[:10])
        elif element.VR == "UI":
            found.uids |= {text for text in texts if not text.startswith("1.2.840.10008.") and len(text) >= 8}
        elif element.VR in _FREE_TEXT and keyword_for_tag(tag) not in _CODE:
            found.texts |= {text for text in texts if len(text) >= MIN_TEXT}


def _counts(text: str) -> bool:
    """Whether a value is long enough to be looked for: three characters, or two of a script that writes words so."""
    return len(text) >= MIN_LENGTH or (len(text) == 2 and all(ord(ch) >= 0x2E80 for ch in text))


def _words(text: str) -> set[str]:
    whole = re.sub(r"[\s^=_,;]+", " ", text).strip()
    parts = {part for part in re.split(r"[^\w]+|_", text) if part.upper() not in _NOT_NAMES}
    names = [part for part in re.split(r"[\s^=_]+", text) if part]
    pairs = (
        {f"{a}{gap}{b}" for a in names for b in names if a != b for gap in (" ", "^", ", ", "_", ".", "")}
        if len(names) <= 6
        else set()
    )
    return {word for word in parts | pairs | {whole, text.strip()} if _counts(word) and re.search(r"\w", word)}


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


def short_date_spellings(date: dt.date) -> set[str]:
    """A date as it is written with two digits of the year, or without leading zeros."""
    day, month, year, short = date.day, date.month, date.year, f"{date.year % 100:02d}"
    spellings = {date.strftime(f"%{a}{gap}%{b}{gap}%{c}") for a, b, c in ("dmy", "mdy", "ymd") for gap in "./-"}
    for gap in "./-":
        spellings |= {f"{a}{gap}{b}{gap}{c}" for a, b in ((day, month), (month, day)) for c in (year, short)}
    return spellings | {date.strftime("%d-%b-%y"), date.strftime("%d %b %y"), f"{day} {date:%b} {year}"}


def plain(text: str) -> str:
    """A text in Latin letters without accents, as devices burn it in."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_LATIN))
    return "".join(ch for ch in decomposed if not unicodedata.combining(ch))


def _folded(text: str) -> str:
    return "".join(ch for ch in plain(text).upper() if ch.isalnum()).translate(_CONFUSED)


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
