"""The Basic Profile (PS3.15 Table E.1-1, edition 2026c), a DICOM object with every attribute of it, and its page.

`python -m tests.ship.profile` writes the tables of docs/deidentification.md anew.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from pydicom import Dataset
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from ship.header_rules import ANEW, CHARACTERISTICS, DEVICE, RULES, Action, Rule

PAGE = Path(__file__).parents[2] / "docs" / "deidentification.md"
MARK = "<!-- from here on written by tests/ship/profile.py -->"
EDITION = "dicomfields_2026c"
GROUPS = {0x5000: (0x5000, 0x5002, 0x501E), 0x6000: (0x6000, 0x6002, 0x601E)}
"""Repeating groups (PS3.5 section 7.6): the first two and the last stand for all."""
OTHERS = {
    "ImageComments": "LT", "AdditionalPatientHistory": "LT", "PatientComments": "LT", "RequestingService": "LO",
    "ReasonForTheRequestedProcedure": "LO", "SoftwareVersions": "LO", "Manufacturer": "LO",
    "ManufacturerModelName": "LO",
    "WindowCenterWidthExplanation": "LO", "LUTExplanation": "LO", "PatientInsurancePlanCodeSequence": "SQ",
}  # fmt: skip
"""Free text in and outside the table, which devices and people fill with what they like."""


@functools.cache
def profile() -> Mapping[BaseTag, str]:
    """The action of every attribute: X, Z, D, U and their alternatives."""
    found = {}
    for category, rows in dicom_anonymization_database_selector(EDITION).items():
        if category == "ALL_TAGS":
            continue
        action = category.removesuffix("_TAGS").replace("_STAR", "*").replace("_", "/")
        for group, element, *mask in rows:
            for real in GROUPS[group] if mask else (group,):
                found[Tag(real, element or 0x0010)] = action
    return found


def vr_of(tag: BaseTag) -> str:
    """The attribute's VR; text where this pydicom does not know it yet."""
    return dictionary_VR(tag).split(" or ")[0] if dictionary_has_tag(tag) else "LO"


class Canaries:
    """Values that occur nowhere else, one for each element; `texts` are those that a byte scan can find."""

    def __init__(self) -> None:
        self._number = 0
        self.texts: list[str] = []

    def value(self, vr: str) -> Any:  # noqa: PLR0911 - one branch a value representation
        """A value of that VR."""
        self._number += 1
        n = self._number
        match vr:
            case "DA" | "DT":
                day = dt.date(1901, 1, 1) + dt.timedelta(days=n)
                text = f"{day:%Y%m%d}" + (f"101112.{n:06d}" if vr == "DT" else "")
            case "TM":
                text = f"101112.{n:06d}"
            case "UI":
                text = f"1.2.826.0.1.3680043.77.{n}"
            case "IS" | "DS":
                return str(770_000 + n)
            case "US" | "SS" | "UL" | "SL":
                return 20_000 + n % 10_000
            case "FL" | "FD":
                return 770_000.0 + n
            case "AS":
                return f"{n % 89:03d}Y"
            case "AT":
                return 0x00100010
            case "OB" | "OW" | "UN":
                self.texts.append(f"QZ{n:06d}")
                return self.texts[-1].encode()
            case "OF" | "OD" | "OL" | "OV":
                self.texts.append(f"QZ{n:06d}")
                return self.texts[-1].encode() * 2
            case "PN":
                text = ("Qz^{}", "Ωζ^{}", "Щъ^{}", "QZ^A={}=ㄅ")[n % 4].format(f"N{n:06d}")
            case _:
                text = f"QZ{n:06d}"
        self.texts.append(text)
        return text

    def element(self, tag: BaseTag, vr: str) -> DataElement:
        """An element of that VR; a sequence gets an item with a name, an id and a text."""
        if vr != "SQ":
            return DataElement(tag, vr, self.value(vr))
        item = Dataset()
        for keyword in ("PatientName", "PatientID", "StudyDescription", "StudyDate", "ReferencedSOPInstanceUID"):
            inner = Tag(keyword)
            item.add(self.element(inner, vr_of(inner)))
        return DataElement(tag, vr, Sequence([item]))


def torture() -> tuple[FileDataset, Canaries]:
    """Every attribute of the table at depths 0 to 3, private and future ones, curves, overlays, icons, free text."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    canaries = Canaries()
    root = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    _fill(root, canaries, 0)
    root.SOPClassUID = DigitalXRayImageStorageForPresentation
    root.SpecificCharacterSet = "ISO_IR 192"
    meta.MediaStorageSOPInstanceUID = root.SOPInstanceUID
    root.Modality, root.ImageType = "DX", ["ORIGINAL", "PRIMARY"]
    root.PatientID = canaries.value("LO")
    return root, canaries


def _fill(dataset: Dataset, canaries: Canaries, depth: int) -> None:
    for tag in profile():
        if tag.group > 0x0002 and not (depth and tag == 0x00080018):
            dataset.add(canaries.element(tag, vr_of(tag)))
    for keyword, vr in OTHERS.items():
        dataset.add(canaries.element(Tag(keyword), vr))
    for future in (0x00080FFE, 0x0010FFF0, 0x0018FFF0, 0x0028FFF0, 0x7FDFFFF0 - 0x10000):
        dataset.add(canaries.element(Tag(future), "LO" if future != 0x7FDEFFF0 else "UN"))
    for group in (0x0009, 0x0011, 0x0029, 0x7FE1):
        block = dataset.private_block(group, "QZ PRIVATE", create=True)
        for offset, vr in ((1, "PN"), (2, "LO"), (3, "UN"), (4, "SQ")):
            element = canaries.element(Tag(group, 0x1000 + offset), vr)
            block.add_new(offset, vr, element.value)
    if depth < 3:
        # Two that the rules keep, one that they do not, a private one: at each depth, all of the table below it.
        for keyword in ("ReferencedImageSequence", "VOILUTSequence"):
            item = Dataset()
            _fill(item, canaries, 3 if keyword == "VOILUTSequence" else depth + 1)
            item.ReferencedSOPClassUID = DigitalXRayImageStorageForPresentation
            item.LUTDescriptor, item.LUTData = [2, 0, 16], [0, 65535]
            item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
            dataset.add(DataElement(tag_for_keyword(keyword) or 0, "SQ", Sequence([item])))


def leaves(dataset: Dataset, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], DataElement]]:
    """Every element that is no sequence, with its path of tags and item numbers."""
    for element in dataset:
        if element.VR == "SQ":
            for number, item in enumerate(element.value):
                yield from leaves(item, (*path, int(element.tag), number))
        else:
            yield (*path, int(element.tag)), element


def validator_errors(path: Path) -> set[str]:
    """What dciodvfy (dicom3tools) calls an error in a file."""
    command = ["dciodvfy", "-new", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    assert "Image" in done.stderr, done.stderr  # it names the kind of object that it recognised
    return {line for line in done.stderr.splitlines() if line.startswith("Error")}


ENDS: Mapping[Action, str] = {
    Action.KEEP: "kept when the value is of the VR and, where there is a list, on it",
    Action.UID: "mapped by the key",
    Action.DATE: "moved by the patient's shift, cut to the day",
    Action.IDENTIFIER: "the patient's pseudonym",
    Action.EMPTY: "emptied",
    Action.ITEMS: "items made anew from the attributes below",
    Action.CODES: "items with a code of the list are made anew, others go",
    Action.LABEL: "kept in plain letters and digits, when it holds no value of the patient or the hospital",
    Action.WORDS: "only words of a closed list stay, and none of the patient's name",
}


def tables() -> str:
    """What is done to every attribute, as Markdown."""
    anew = ", ".join(f"`{keyword}`" for keyword in ANEW)
    columns = ["| attribute | tag | Basic Profile | what is done | why |", "|---|---|---|---|---|"]
    lines = ["", f"Written anew from the pixels and the grey scale as they were read: {anew}.", "", *columns]
    lines += [line for keyword, rule in RULES.items() for line in _rows(keyword, rule, "")]
    lines += ["", "With `ship.keep_patient_characteristics`:", "", *columns]
    lines += [line for keyword, rule in CHARACTERISTICS.items() for line in _rows(keyword, rule, "")]
    lines += ["", "With `ship.keep_device_identity`:", "", *columns]
    lines += [line for keyword, rule in DEVICE.items() for line in _rows(keyword, rule, "")]
    named = {*RULES, *CHARACTERISTICS, *DEVICE, *ANEW}
    lines += ["", "Removed, by the action that the Basic Profile has for them:", ""]
    rest: dict[str, list[str]] = {}
    for tag, action in sorted(profile().items()):
        keyword = keyword_for_tag(tag) if dictionary_has_tag(tag) else ""
        if keyword not in named and tag.group & 0xFF00 not in GROUPS:
            rest.setdefault(action, []).append(keyword or f"({tag.group:04X},{tag.element:04X})")
    rest["X"].append("all of the groups 50xx (curves) and 60xx (overlays)")
    lines += [f"- **{action}**: {', '.join(names)}." for action, names in sorted(rest.items())]
    return "\n".join(lines) + "\n"


def _rows(keyword: str, rule: Rule, above: str) -> Iterator[str]:
    tag = Tag(keyword)
    spoken = re.sub(r"^kept when.*", _what_stays(rule), ENDS[rule.action])
    yield (
        f"| {above}{keyword} | ({tag.group:04X},{tag.element:04X}) | {profile().get(tag, '–')} | "
        f"{spoken}{'; else empty' if rule.required else ''} | {rule.reason} |"
    )
    for inner, below in (rule.items or {}).items():
        yield from _rows(inner, below, f"{above}{keyword} > ")


def _what_stays(rule: Rule) -> str:
    if rule.allowed is None:
        return "kept if it is a value of its VR, written anew"
    return "kept if it is " + ", ".join(f"`{value}`" for value in sorted(rule.allowed))


def main() -> None:
    """Write the tables into the page."""
    head, _, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    PAGE.write_text(head + MARK + "\n" + tables(), encoding="utf-8")


if __name__ == "__main__":
    main()
