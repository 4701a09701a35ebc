"""The patient's own values: found wherever they stand, in the spellings in which they may turn up elsewhere."""

from __future__ import annotations

import datetime as dt

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence

from ship.identity import Identity, date_spellings, identity_of, short_date_spellings


def patient(**attributes: object) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def spelled(**attributes: object) -> dict[str, bool]:
    return identity_of(patient(**attributes)).spellings()


def test_a_name_is_looked_for_in_every_order() -> None:
    found = spelled(PatientName="Okafor^Anna Maria^^Dr")
    assert {"Okafor", "Anna", "Maria", "Anna Okafor", "Okafor^Anna", "Okafor, Anna", "AnnaOkafor"} <= set(found)
    assert found["Okafor"]
    assert not found["Anna"]  # four letters: only as a word of its own
    assert "Dr" not in found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Müller^Jörg", {"Müller", "Muller", "Mueller", "Joerg"}),
        ("Łukasiewicz^Zoë", {"Lukasiewicz", "Zoe"}),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", {"Yamada", "山田", "太郎", "山田^太郎", "やまだ"}),
        ("Кузнецова^Ольга", {"Кузнецова", "Ольга Кузнецова"}),
        ("Hong^Gildong=洪^吉洞=홍^길동", {"吉洞", "길동", "홍 길동"}),
    ],
)
def test_names_of_other_scripts_are_looked_for_as_they_are_and_in_latin_letters(name: str, expected: set[str]) -> None:
    assert expected <= set(spelled(PatientName=name))


def test_dates_are_looked_for_as_people_and_machines_write_them() -> None:
    found = spelled(PatientBirthDate="19530201")
    for text in ("19530201", "1953-02-01", "01.02.1953", "02/01/1953", "01-Feb-1953", "1.2.1953", "01.02.53", "1/2/53"):
        assert text in found, text
    assert not found["01.02.53"]  # short ones occur within UIDs


def test_values_of_every_depth_and_of_texts_beside_the_file_are_found() -> None:
    inner = patient(OtherPatientIDs="HX-998877", PatientName="Nested^Nora", ReferencedSOPInstanceUID="1.2.840.1.77")
    identity = identity_of(
        patient(RequestAttributesSequence=Sequence([inner]), ImageComments="seen by the night shift"),
        ["ward/Whitfield_Grace_19800102.dcm"],
    )
    found = identity.spellings()
    assert {"HX-998877", "Nested", "1.2.840.1.77", "seen by the night shift", "1980-01-02"} <= set(found)
    assert "Whitfield" in identity.hints
    assert "Whitfield" not in found  # a hint is no value of the file: it is looked for in the pixels only


def test_words_that_files_of_everybody_hold_are_no_identity() -> None:
    found = spelled(InstitutionName="Chest", PatientName="Li^Chest", StudyDescription="CHEST PA LAT VIEWS")
    assert "Chest" not in found
    assert "CHEST PA LAT VIEWS" not in found
    assert spelled(SOPClassUID="1.2.840.10008.5.1.4.1.1.1") == {}


def test_what_cannot_be_read_is_passed_over() -> None:
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    dataset = patient(PatientName="Okafor^Anna")
    dataset[Tag("PixelSpacing")] = RawDataElement(Tag("PixelSpacing"), "DS", 4, b"\xff\xfeab", 0, False, True)
    assert "Okafor" in identity_of(dataset).words


@pytest.mark.parametrize("read", ["OKAFOR", "0KAF0R", "Name: Okafor, A.", "OKAF0RANNA", "Okafar", "Anna 0kafor 47"])
def test_readings_with_errors_of_ocr_still_resemble(read: str) -> None:
    assert identity_of(patient(PatientName="Okafor^Anna")).resembles(read)


@pytest.mark.parametrize("read", ["", "R", "PORTABLE", "12345", "Petrov"])
def test_other_readings_do_not(read: str) -> None:
    assert not identity_of(patient(PatientName="Okafor^Anna")).resembles(read)


def test_accents_that_ocr_does_not_see_do_not_hide_a_name() -> None:
    identity = identity_of(patient(PatientName="Řezníčková^Zdeňka"))
    assert identity.resembles("REZNICKOVA")
    assert Identity(words=frozenset({"Sørensen"})).resembles("Sorensen")


def test_no_spelling_of_a_date_is_another_date() -> None:
    date, other = dt.date(2003, 2, 1), dt.date(2003, 11, 27)
    assert not (date_spellings(date) | short_date_spellings(date)) & (
        date_spellings(other) | short_date_spellings(other)
    )
