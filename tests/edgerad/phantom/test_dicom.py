"""Phantoms as files: DICOM that other software takes, a believable header, one picture whatever the encoding."""

import io
from dataclasses import replace
from datetime import date, datetime
from typing import get_args

import numpy as np
import pydicom
import pytest
import simplejpeg
from numpy.typing import NDArray
from pydicom import uid

from edgerad.phantom import SYNTAXES, PhantomSpec, Syntax, TextStyle, identity, random_spec, render, to_dicom, to_jpeg
from edgerad.phantom.spec import Photometric, Storage
from imaging.display import picture

SPEC = PhantomSpec(seed=5, rows=200, cols=256, finding="consolidation", severity=0.8, patient=3)
TYPE_1 = {
    # PS3.3 A.2.3 and A.26.3 by way of C.7.1.1 to C.12.1, type 1 only
    "CR": "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID Modality SamplesPerPixel Rows Columns "
    "PhotometricInterpretation BitsAllocated BitsStored HighBit PixelRepresentation PixelData",
    "DX": "PresentationIntentType ImageType PixelIntensityRelationship PixelIntensityRelationshipSign RescaleIntercept "
    "RescaleSlope RescaleType PresentationLUTShape LossyImageCompression BurnedInAnnotation DetectorType "
    "ImagerPixelSpacing PatientOrientation ImageLaterality AnatomicRegionSequence InstanceNumber WindowCenter "
    "WindowWidth",
}
TYPE_2 = "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber StudyID SeriesNumber "
TYPE_2 += "ReferringPhysicianName Manufacturer InstanceNumber BodyPartExamined ViewPosition"


def read(spec: PhantomSpec, syntax: Syntax = "explicit", private: bool = False) -> pydicom.FileDataset:
    """Return a phantom's DICOM file as pydicom reads it."""
    return pydicom.dcmread(io.BytesIO(to_dicom(render(spec), syntax, private)))


def shown(data: bytes) -> NDArray[np.float64]:
    """Return what a viewer shows of a file, 0 to 1, with the window opened to all but the outermost values."""
    found = picture(data)
    values = found.values.astype(np.float64) * (-1 if found.inverted else 1)
    low, high = np.percentile(values, (0.5, 99.5))
    return np.asarray(np.clip((values - low) / (high - low), 0, 1), np.float64)


@pytest.mark.parametrize("storage", ["CR", "DX"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_header_has_what_its_object_class_asks_for(storage: Storage, photometric: Photometric) -> None:
    dataset = read(replace(SPEC, storage=storage, photometric=photometric, bits=16), private=True)
    needed = TYPE_1["CR"].split() + (TYPE_1["DX"].split() if storage == "DX" else [])
    assert [word for word in needed if word not in dataset or not str(dataset[word].value)] == []
    assert [word for word in TYPE_2.split() if word not in dataset] == []
    assert dataset.file_meta.MediaStorageSOPClassUID == dataset.SOPClassUID
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    expected = {"CR": uid.ComputedRadiographyImageStorage, "DX": uid.DigitalXRayImageStorageForPresentation}
    assert dataset.SOPClassUID == expected[storage]
    assert (dataset.Modality, dataset.PhotometricInterpretation) == (storage, photometric)
    assert (dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation) == (16, 16, 15, 0)
    assert (dataset.Rows, dataset.Columns) == (200, 256)
    if storage == "DX":  # PS3.3 C.8.11.3.1.2: the LUT shape and the sign follow from the interpretation
        inverse = photometric == "MONOCHROME1"
        assert dataset.PresentationLUTShape == ("INVERSE" if inverse else "IDENTITY")
        assert dataset.PixelIntensityRelationshipSign == (1 if inverse else -1)


def test_every_value_is_legal() -> None:
    for number in range(6):
        spec = random_spec((2, number), size=224, burned_in=number % 2 == 0)
        data = to_dicom(render(spec), private=True)
        with pydicom.config.strict_reading():  # raises where a value breaks its VR (PS3.5 6.2)
            dataset = pydicom.dcmread(io.BytesIO(data))
            for element in dataset.iterall():
                assert element.value is not None
                if element.VR == "UI":
                    assert uid.UID(element.value).is_valid
                if isinstance(element.value, bytes):
                    assert len(element.value) % 2 == 0, f"{element.tag} has an odd length (PS3.5 7.1.1)"


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_both_interpretations_show_the_same_picture(bits: int) -> None:
    files = {kind: to_dicom(render(replace(SPEC, bits=bits, photometric=kind))) for kind in get_args(Photometric)}
    stored = {kind: pydicom.dcmread(io.BytesIO(data)).pixel_array for kind, data in files.items()}
    assert np.array_equal(stored["MONOCHROME1"] + stored["MONOCHROME2"], np.full((200, 256), (1 << bits) - 1))
    assert np.allclose(shown(files["MONOCHROME1"]), shown(files["MONOCHROME2"]), atol=1e-6)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_transfer_syntax_holds_the_same_pixels(syntax: Syntax) -> None:
    dataset = read(SPEC, syntax)
    assert dataset.file_meta.TransferSyntaxUID == SYNTAXES[syntax]
    assert np.array_equal(dataset.pixel_array, render(SPEC).pixels)


def test_jpeg_and_dicom_show_the_same_picture() -> None:
    phantom = render(replace(SPEC, photometric="MONOCHROME1"))
    of_dicom = shown(to_dicom(phantom))
    for color in (False, True):
        difference = np.abs(shown(to_jpeg(phantom, 95, color)) - of_dicom)
        assert difference.mean() < 0.02
        assert np.percentile(difference, 99) < 0.06


def test_a_jpeg_says_nothing_about_anybody() -> None:
    data = to_jpeg(render(replace(SPEC, text=None)))
    assert b"Exif" not in data
    assert simplejpeg.decode_jpeg_header(data)[:3] == (200, 256, "Gray")


def test_burned_in_text_says_what_the_header_says() -> None:
    for patient in range(12):
        spec = replace(SPEC, patient=patient, text=TextStyle(), storage="DX")
        phantom = render(spec)
        dataset = pydicom.dcmread(io.BytesIO(to_dicom(phantom)))
        lines = dict(box.text.split(":", 1) for box in phantom.text[:4])
        assert lines["id"] == dataset.PatientID
        assert date.fromisoformat(lines["d.o.b."]).strftime("%Y%m%d") == dataset.PatientBirthDate
        taken = datetime.fromisoformat(lines["d.o.xray"])
        assert taken.strftime("%Y%m%d%H%M") == dataset.StudyDate + dataset.StudyTime[:4]
        assert phantom.text[4].text == dataset.InstitutionName
        assert dataset.BurnedInAnnotation == "YES"
        person = identity(spec)[0]
        assert lines["name"] == person.roman
        if person.roman.isascii() and str(dataset.PatientName).isascii():
            family, given = str(dataset.PatientName).split("^")
            assert lines["name"] == f"{given} {family}"


def test_ages_and_dates_fit_each_other_and_our_time() -> None:
    for number in range(200):
        spec = random_spec((8, number), size=224)
        person, visit = identity(spec)
        age, unit = int(visit.age[:3]), visit.age[3]
        years = visit.when.year - person.birth_date.year
        years -= (visit.when.month, visit.when.day) < (person.birth_date.month, person.birth_date.day)
        assert visit.when.date() > person.birth_date
        assert 2010 <= visit.when.year <= 2025, "there were digital devices"
        assert (years < 18) == (spec.body == "child")
        if unit == "Y":
            assert abs(years - age) <= 1
        assert {"Y": age >= 2, "M": 1 <= age <= 24, "D": age <= 30}[unit]
        assert person.sex in {"F", "M"}


def test_a_patient_stays_the_same_over_studies() -> None:
    first, second = (identity(replace(SPEC, study=study, seed=40 + study)) for study in (0, 1))
    assert first[0] == second[0]
    assert first[1].study_uid != second[1].study_uid
    assert first[1].accession != second[1].accession
    same = identity(replace(SPEC, study=0, seed=99))
    assert same[1].study_uid == first[1].study_uid, "two images of one study"
    assert same[1].instance_uid != first[1].instance_uid


def test_names_of_the_world_come_back_as_written() -> None:
    names = {}
    for patient in range(400):
        person, _ = identity(replace(SPEC, patient=patient))
        names[person.charset] = (patient, person.name)
    assert len(names) >= 8
    for patient, name in names.values():
        assert str(read(replace(SPEC, patient=patient)).PatientName) == name


def test_private_elements_hold_the_patient_once_more() -> None:
    plain, private = read(SPEC), read(SPEC, private=True)
    assert not [element for element in plain if element.tag.is_private]
    roman = identity(SPEC)[0].roman
    kept = [element for element in private if element.tag.is_private]
    assert {element.VR for element in kept} >= {"LO", "DS", "PN", "UN"}
    assert any(isinstance(element.value, bytes) and roman.encode() in element.value for element in kept)


def test_an_unknown_syntax_is_named() -> None:
    with pytest.raises(ValueError, match="syntax is 'mpeg'; it must be one of explicit"):
        to_dicom(render(SPEC), "mpeg")  # type: ignore[arg-type]
