"""Headers: what the profile says must go is gone at every depth, what stays has a reason, the object stays valid."""

from __future__ import annotations

import datetime as dt
import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from dicognito.anonymizer import Anonymizer
from dicomanonymizer.simpledicomanonymizer import anonymize_dataset, initialize_actions
from pydicom import Dataset, FileDataset, dcmread, dcmwrite
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian

from edgerad.phantom import random_spec, render, to_dicom
from imaging.limits import Limits
from imaging.part10 import read_dicom
from ship import headers, image_module
from ship import pixels as px
from ship.header_rules import ANEW, CHARACTERISTICS, DEVICE, RULES, WORDS, Action, meaning_of
from ship.headers import NoPatient, clean_header
from ship.identity import identity_of
from ship.keys import SiteKey
from tests.conftest import need
from tests.ship.profile import EDITION, MARK, PAGE, leaves, profile, tables, torture, validator_errors

KEY, OTHER_SITE = SiteKey(bytes(range(32))), SiteKey(bytes(range(1, 33)))


def written(dataset: Dataset) -> bytes:
    """The file, as it would leave."""
    dataset.file_meta = headers.file_meta(dataset)
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def patient(**attributes: Any) -> Dataset:
    """A data set of one patient."""
    dataset = Dataset()
    dataset.PatientID, dataset.PatientName = "4711", "Okafor^Anna"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def cleaned(**attributes: Any) -> Dataset:
    return clean_header(patient(**attributes), KEY).dataset


@pytest.fixture(scope="module")
def tortured() -> tuple[FileDataset, Dataset, list[str]]:
    """The source with every attribute of the table, what was made of it, and the source's values."""
    source, canaries = torture()
    return source, clean_header(source, KEY).dataset, canaries.texts


def test_the_torture_file_holds_the_whole_table_at_four_depths(
    tortured: tuple[FileDataset, Dataset, list[str]],
) -> None:
    source, _, texts = tortured
    depths: dict[int, set[int]] = {}
    for path, _element in leaves(source):
        depths.setdefault(len(path) // 2, set()).add(path[-1])
    plain = {int(tag) for tag in profile() if tag.group > 2}
    assert len(plain) > 650
    sequences = {int(tag) for tag in plain if tag in source and source[tag].VR == "SQ"}
    for depth in range(4):
        assert len(plain - sequences - depths[depth]) <= (depth > 0), (
            depth
        )  # the object's own UID stands only at the top
    assert len(texts) == len(set(texts)) > 5000


def test_nothing_that_must_go_is_left_unchanged_at_any_depth(tortured: tuple[FileDataset, Dataset, list[str]]) -> None:
    source, clean, _ = tortured
    before = {path: element.value for path, element in leaves(source)}
    unchanged = [
        path for path, element in leaves(clean)
        if Tag(path[-1]) in profile() and element.value not in (None, "") and element.value == before.get(path)
    ]  # fmt: skip
    assert unchanged == []


def test_no_value_of_the_source_is_in_the_bytes_of_the_result(tortured: tuple[FileDataset, Dataset, list[str]]) -> None:
    source, clean, texts = tortured
    raw = io.BytesIO()
    dcmwrite(raw, source, enforce_file_format=True)
    result = written(clean)
    there = [text for text in texts if text.encode() in raw.getvalue()]
    assert len(there) > 0.98 * len(texts)  # a few elements were written over to make the object one of its class
    assert [text for text in there for code in ("utf-8", "utf-16-le") if text.encode(code) in result] == []


def test_private_future_curve_overlay_icon_and_signature_attributes_are_gone(
    tortured: tuple[FileDataset, Dataset, list[str]],
) -> None:
    source, clean, _ = tortured
    assert {"IconImageSequence", "DigitalSignaturesSequence", "OriginalAttributesSequence"} <= set(source.dir())
    allowed = {*RULES, *(RULES["ReferencedImageSequence"].items or {}), "SpecificCharacterSet"}
    assert not set(ANEW) & set(clean.dir())
    for path, element in leaves(clean):
        assert not element.tag.is_private, path
        assert element.keyword in allowed
    assert max(len(path) for path, _ in leaves(clean)) <= 3


def test_kept_sequences_hold_their_own_attributes_and_no_others(
    tortured: tuple[FileDataset, Dataset, list[str]],
) -> None:
    _, clean, _ = tortured
    assert [element.keyword for element in clean.ReferencedImageSequence[0]] == [
        "ReferencedSOPClassUID", "ReferencedSOPInstanceUID",
    ]  # fmt: skip


def test_everything_that_another_library_changes_is_not_left_by_ours() -> None:
    """Differential: dicom-anonymizer over the same table (top level only), and dicognito, which goes by VR."""

    def dicognito(dataset: Dataset) -> None:
        Anonymizer(seed="s").anonymize(dataset)

    def dicom_anonymizer(dataset: Dataset) -> None:
        anonymize_dataset(dataset, base_rules_gen=lambda: initialize_actions(EDITION))

    for peer in (dicognito, dicom_anonymizer):
        dataset, _ = torture()
        ours = {path: element.value for path, element in leaves(clean_header(dataset, KEY).dataset)}
        before = {path: element.value for path, element in leaves(dataset)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs, of attributes that pydicom does not know
            peer(dataset)
        theirs = {path: element.value for path, element in leaves(dataset)}
        touched = [path for path, value in before.items() if value not in (None, "") and theirs.get(path) != value]
        assert len(touched) > 300, peer.__name__
        left = [path for path in touched if ours.get(path) == before[path] and not _is_standard(before[path])]
        assert left == [], peer.__name__


def _is_standard(value: object) -> bool:
    """Whether it is a UID that the standard assigns: the class of a referenced object is nobody's."""
    return str(value).startswith("1.2.840.10008.")


def _permits(action: str, ours: Action) -> bool:
    """Whether a rule of ours is an action that the Basic Profile allows: X, Z, D or U, or a stricter one."""
    return {
        Action.EMPTY: True,  # no value is left, as with X and Z
        Action.UID: "U" in action,
        Action.IDENTIFIER: "Z" in action or "D" in action,
        Action.ITEMS: "U*" in action,
    }.get(ours, False)


def test_every_rule_is_held_to_the_profile_and_its_options(shared: Path) -> None:
    """What the table names is kept only by leave of an option that the object declares."""
    rows = json.loads((shared / "data/tables/ps3.15-e11-options-2025.json").read_text(encoding="utf-8"))
    options = {int(row["id"], 16): row for row in rows if re.fullmatch(r"[0-9a-f]{8}", row["id"])}
    wrong = []
    for keyword, rule in [*RULES.items(), *CHARACTERISTICS.items(), *DEVICE.items()]:
        tag = Tag(keyword)
        if tag not in profile() or _permits(profile()[tag], rule.action):
            continue
        row = options[int(tag)]
        leave = {
            Action.DATE: row.get("rtnLongModifDatesOpt") == "C",
            Action.WORDS: row.get("cleanDescOpt") == "C",
            Action.KEEP: keyword in CHARACTERISTICS and row.get("rtnPatCharsOpt") == "K",
            Action.LABEL: keyword in DEVICE and row.get("rtnDevIdOpt") == "K",
        }
        if not leave.get(rule.action, False):
            wrong.append((keyword, rule.action.value, profile()[tag]))
    assert wrong == []


def test_the_page_says_what_is_done_to_every_attribute() -> None:
    assert PAGE.read_text(encoding="utf-8").partition(MARK)[2].strip() == tables().strip(), (
        "python -m tests.ship.profile"
    )


@pytest.mark.parametrize("storage", ["CR", "DX"])
@pytest.mark.parametrize("characteristics", [False, True])
def test_a_validator_finds_no_error_that_the_input_did_not_have(
    storage: str, characteristics: bool, tmp_path: Path
) -> None:
    need("dicom3tools")
    specs = (random_spec(seed, size=256) for seed in range(40))
    data = to_dicom(render(next(spec for spec in specs if spec.storage == storage)), private=True)
    source = dcmread(io.BytesIO(data))
    result = clean_header(source, KEY, keep_characteristics=characteristics).dataset
    found = px.decode_dicom(read_dicom(data), Limits())
    image_module.attach(result, found.pixels, found, source)
    headers.stamp(result, keep_characteristics=characteristics)
    before, after = (_errors(tmp_path, bytes_) for bytes_ in (data, written(result)))
    assert after - before == set()


def test_a_validator_finds_what_the_rules_would_break(tmp_path: Path) -> None:
    """The test above can fail: without a type 1 attribute the validator complains."""
    need("dicom3tools")
    spec = next(spec for seed in range(40) if (spec := random_spec(seed, size=256)).storage == "DX")
    dataset = dcmread(io.BytesIO(to_dicom(render(spec))))
    del dataset.PresentationIntentType
    assert any("PresentationIntentType" in error for error in _errors(tmp_path, written(dataset)))


def _errors(folder: Path, data: bytes) -> set[str]:
    path = folder / "object.dcm"
    path.write_bytes(data)
    return validator_errors(path)


def test_the_same_patient_study_and_reference_map_alike_and_intervals_hold() -> None:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3.4"
    first = cleaned(StudyDate="20240229", SOPInstanceUID="1.2.3.4", StudyInstanceUID="1.2.3")
    second = cleaned(
        StudyDate="20250301", StudyInstanceUID="1.2.3", AcquisitionDateTime="20250302101112.5+0100",
        ReferencedImageSequence=Sequence([reference]),
    )  # fmt: skip
    assert first.PatientID == second.PatientID == first.PatientName
    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert second.ReferencedImageSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    days = [dt.date.fromisoformat(day) for day in (first.StudyDate, second.StudyDate, second.AcquisitionDateTime)]
    assert (days[1] - days[0], days[2] - days[1]) == (dt.timedelta(days=366), dt.timedelta(days=1))
    assert 365 <= (dt.date(2024, 2, 29) - days[0]).days <= 3649


def test_another_site_or_issuer_maps_otherwise() -> None:
    source = patient(StudyInstanceUID="1.2.3", StudyDate="20240101")
    here, there = (clean_header(source, key).dataset for key in (KEY, OTHER_SITE))
    issued = cleaned(StudyInstanceUID="1.2.3", IssuerOfPatientID="OTHER")
    assert len({here.PatientID, there.PatientID, issued.PatientID}) == 3
    assert here.StudyInstanceUID != there.StudyInstanceUID


@pytest.mark.parametrize(
    ("attributes", "kept"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "Okafor Anna"]}, ["ORIGINAL", "PRIMARY", ""]),
        ({"ImageType": ["OKAFOR", "PRIMARY"]}, ["DERIVED", "PRIMARY"]),
        ({"PatientOrientation": ["L", "OKAFOR"]}, ["L", ""]),
        ({"ViewPosition": "OKAFOR"}, ""),
        ({"BodyPartExamined": "OKAFOR"}, ""),
        ({"BodyPartExamined": "CHEST"}, "CHEST"),
        ({"StudyDescription": "XR Chest PA, Okafor, Anna *01.02.1953 (Dr. Lee)"}, "XR CHEST PA"),
        ({"StudyDescription": "Ms Okafor"}, None),
        ({"SeriesDescription": "1 2 3"}, None),
        ({"RescaleType": "US"}, "US"),
        ({"RescaleType": "Okafor"}, None),
        ({"KVP": "120"}, 120),
        ({"Exposure": "19530201194711"}, None),
        ({"SeriesNumber": "99999999999"}, ""),
        ({"ExposureTimeInuS": "1953020100004711"}, None),
        ({"StudyDate": "1 Feb 1953"}, ""),
        ({"StudyDate": "20240230"}, ""),
        ({"AcquisitionDateTime": "Okafor"}, None),
        ({"StudyTime": "101112"}, ""),
        ({"PatientBirthDate": "19530201"}, ""),
        ({"PatientSex": "F"}, ""),
        ({"PatientAge": "071Y"}, None),
        ({"AccessionNumber": "A1"}, ""),
        ({"ImageComments": "Okafor"}, None),
        ({"OtherPatientIDs": "12"}, None),
    ],
)
def test_values_that_no_list_or_check_allows_do_not_pass(attributes: dict[str, Any], kept: Any) -> None:
    keyword = next(iter(attributes))
    dataset = patient()
    value = attributes[keyword]
    dataset[Tag(keyword)] = raw(keyword, "\\".join(value) if isinstance(value, list) else value)
    value = clean_header(dataset, KEY).dataset.get(keyword)
    assert (list(value) if isinstance(kept, list) else value) == kept


def raw(keyword: str, text: str, vr: str = "") -> RawDataElement:
    """An element as it comes from a file, before pydicom looked at it."""
    data = text.encode()
    return RawDataElement(Tag(keyword), vr or dictionary_VR(Tag(keyword)), len(data), data, 0, False, True)


def test_a_description_keeps_no_word_that_is_in_the_patients_name() -> None:
    dataset = patient(PatientName="Spine^Chest", StudyDescription="CHEST PA SPINE")
    assert clean_header(dataset, KEY).dataset.StudyDescription == "PA"


def test_no_word_of_a_description_is_long_enough_to_number_somebody() -> None:
    assert all(word.isalpha() or len(word) <= 2 for word in WORDS)


def test_an_attribute_under_another_vr_does_not_pass() -> None:
    dataset = patient()
    dataset[Tag("KVP")] = raw("KVP", "80", "LO")
    dataset[Tag("Exposure")] = raw("Exposure", "Okafor", "IS")
    result = clean_header(dataset, KEY)
    assert "KVP" not in result.dataset
    assert "Exposure" not in result.dataset
    assert result.counts["invalid"] == 2


def test_codes_keep_the_standards_meaning_and_not_the_sources() -> None:
    def code(value: str, scheme: str) -> Dataset:
        return headers.code_item(scheme, value, "Okafor^Anna")

    result = cleaned(
        ViewCodeSequence=Sequence([code("R-10206", "SRT"), code("4711", "99OKAFOR")]),
        AnatomicRegionSequence=Sequence([code("4711", "SCT")]),
    )
    assert [(item.CodeValue, item.CodeMeaning) for item in result.ViewCodeSequence] == [("R-10206", "antero-posterior")]
    assert list(result.AnatomicRegionSequence) == []  # type 2: it may be empty, and may not be missing
    assert meaning_of("SCT", "43799004") == "Chest"


def test_implicit_vr_keeps_what_explicit_vr_keeps() -> None:
    source = patient(KVP="80", PixelIntensityRelationshipSign=-1)
    buffer = io.BytesIO()
    dcmwrite(buffer, source, implicit_vr=True, little_endian=True)
    read = dcmread(io.BytesIO(buffer.getvalue()), force=True)
    read.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    result = clean_header(read, KEY).dataset
    assert (result.KVP, result.PixelIntensityRelationshipSign) == (80, -1)


@pytest.mark.parametrize("written", ["2021.01.02", "2021-01-02"])
def test_dates_of_acr_nema_keep_their_intervals(written: str) -> None:
    dataset, other = patient(StudyDate="20210105"), patient()
    other[Tag("StudyDate")] = raw("StudyDate", written)
    later, earlier = (clean_header(one, KEY).dataset.StudyDate for one in (dataset, other))
    assert dt.date.fromisoformat(later) - dt.date.fromisoformat(earlier) == dt.timedelta(days=3)
    assert identity_of(other).dates == {dt.date(2021, 1, 2)}


def test_a_backslash_inside_a_patients_id_is_a_part_of_it() -> None:
    pseudonyms = set()
    for number in ("HOSP\\00123", "HOSP\\00124", "HOSP", "00123"):
        dataset = patient()
        dataset[Tag("PatientID")] = raw("PatientID", number)
        pseudonyms.add(clean_header(dataset, KEY).dataset.PatientID)
    assert pseudonyms == {KEY.identifier("patient", "", n) for n in ("HOSP\\00123", "HOSP\\00124", "HOSP", "00123")}
    assert len(pseudonyms) == 4


@pytest.mark.parametrize("value", ["", " ", None])
def test_without_a_patient_id_there_is_no_pseudonym(value: str | None) -> None:
    with pytest.raises(NoPatient):
        clean_header(patient(PatientID=value), KEY)


@pytest.mark.parametrize(
    ("age", "kept"), [("089Y", "089Y"), ("090Y", "090Y"), ("104Y", "090Y"), ("003M", "003M"), ("okafr", None)]
)
def test_patient_characteristics_stay_only_where_the_site_says_so(age: str, kept: str | None) -> None:
    dataset = patient(PatientSex="F", PatientSize="1.7")
    dataset[Tag("PatientAge")] = raw("PatientAge", age)
    off = clean_header(dataset, KEY).dataset
    on = clean_header(dataset, KEY, keep_characteristics=True).dataset
    assert (off.PatientSex, "PatientAge" in off, "PatientSize" in off) == ("", False, False)
    assert (on.PatientSex, on.get("PatientAge"), on.PatientSize) == ("F", kept, 1.7)
    for result, said in ((off, False), (on, True)):
        headers.stamp(result, keep_characteristics=said)
        codes = {item.CodeValue for item in result.DeidentificationMethodCodeSequence}
        assert codes == {"113100", "113101", "113103", "113105", "113107"} | ({"113108"} if said else set())


def test_the_device_stays_only_where_the_site_says_so_and_only_in_plain_words() -> None:
    dataset = patient(
        Manufacturer="Acme (X-ray) Ltd.",
        ManufacturerModelName="DR-600 of Anna",
        SoftwareVersions=["1.2", "b7"],
        DeviceSerialNumber="SN 77/31",
        StationName="R\u00f6ntgen 1",
        DeviceUID="1.2.3.4",
        DateOfLastCalibration="20200101",
        InstitutionName="St Mary",
    )
    off, on = (clean_header(dataset, KEY, keep_device=keep).dataset for keep in (False, True))
    assert (off.Manufacturer, "DeviceSerialNumber" in off, "DeviceUID" in off) == ("", False, False)
    assert (on.Manufacturer, on.SoftwareVersions, on.DeviceSerialNumber) == (
        "Acme (X-ray) Ltd.",
        ["1.2", "b7"],
        "SN 77/31",
    )
    assert on.DeviceUID == KEY.uid("1.2.3.4")
    for keyword in ("ManufacturerModelName", "StationName", "DateOfLastCalibration", "InstitutionName"):
        assert keyword not in on
    headers.stamp(on, keep_device=True)
    assert "113109" in {item.CodeValue for item in on.DeidentificationMethodCodeSequence}


def test_counts_tell_how_many_and_never_what(tortured: tuple[FileDataset, Dataset, list[str]]) -> None:
    source, _, _ = tortured
    counts = clean_header(source, KEY).counts
    assert set(counts) == {"kept", "mapped", "emptied", "removed", "invalid", "cleaned"} - {"cleaned"}
    assert counts["removed"] > 600
