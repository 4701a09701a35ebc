"""One image in, a verified copy or a reason out."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import JPEGBaseline8Bit

from edgerad.phantom import identity, random_spec, render, to_dicom, to_jpeg
from edgerad.settings import load_settings
from imaging.part10 import read_dicom
from ship import headers, image_module, redaction
from ship import pixels as px
from ship.boxes import Box
from ship.deidentify import Clean, Options, Quarantined, Reason, deidentify
from ship.identity import identity_of
from ship.keys import SiteKey
from ship.parcel import workplace
from ship.redaction import Redaction
from ship.verify import verify_dicom
from tests.conftest import need
from tests.ship.profile import validator_errors
from train.clean import check

KEY, LIMITS = SiteKey(bytes(range(32))), Options().limits
SPEC = next(spec for seed in range(60) if (spec := random_spec(seed, size=256)).storage == "DX")
DATA = to_dicom(render(SPEC), private=True)
PERSON, VISIT = identity(SPEC)


def changed(change: Callable[[Dataset], None], data: bytes = DATA) -> bytes:
    dataset = dcmread(io.BytesIO(data))
    change(dataset)
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset)
    return buffer.getvalue()


def quarantined(data: bytes, key: SiteKey | None = KEY, options: Options | None = None) -> Quarantined:
    result = deidentify(data, key, options)
    assert isinstance(result, Quarantined), result
    assert result.record["verified"] is False
    assert result.record["reason"] == result.reason.value
    said = json.dumps(result.record) + result.detail
    for value in (PERSON.patient_id, PERSON.name.split("^")[0], VISIT.accession, VISIT.instance_uid):
        assert value not in said
    return result


def test_a_file_comes_out_clean_verified_and_re_encoded() -> None:
    """The one run here with the real text engines."""
    compressed = to_dicom(render(SPEC), "jpeg2000", private=True)
    result = deidentify(compressed, KEY, hints=["ward/Okafor.dcm"])
    assert isinstance(result, Clean), result
    before, after = dcmread(io.BytesIO(compressed)), dcmread(io.BytesIO(result.data))
    boxes = [Box(*box) for box in result.record["boxes"]]
    assert after.file_meta.TransferSyntaxUID.is_compressed is False
    source = px.decode_dicom(read_dicom(compressed), LIMITS)
    assert px.proven(source.pixels, after.pixel_array, boxes)
    assert verify_dicom(result.data, source, boxes, identity_of(before), LIMITS) is not None
    assert after.PatientID == after.PatientName == result.patient
    assert (after.PatientIdentityRemoved, after.BurnedInAnnotation) == ("YES", "NO")
    for value in (
        PERSON.patient_id,
        VISIT.accession,
        VISIT.instance_uid,
        VISIT.study_uid,
        VISIT.institution,
        "EDGERAD PHANTOM",
    ):
        assert value.encode() not in result.data, value
    assert result.record["verified"] is True
    assert result.record["output"] == hashlib.sha256(result.data).hexdigest()
    assert len(result.record["text_engines"]) == 2


@pytest.mark.usefixtures("no_text")
def test_the_record_holds_counts_and_digests_and_no_value() -> None:
    result = deidentify(DATA, KEY)
    assert isinstance(result, Clean)
    record = result.record
    assert {"version", "software", "verified", "key_id", "source", "header", "boxes", "output", "media_type"} <= set(
        record
    )
    assert record["source"] == KEY.digest("source", "", hashlib.sha256(DATA).digest()).hex()
    assert hashlib.sha256(DATA).hexdigest() not in json.dumps(record)
    assert record["header"]["removed"] > 10
    assert deidentify(DATA, KEY) == result  # the same again, byte for byte


def _without(*keywords: str) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for keyword in keywords:
            del dataset[keyword]

    return change


def _set(**attributes: Any) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)

    return change


CT, PDF = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.104.1"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set(SOPClassUID=CT), Reason.SOP_CLASS),
        (_set(SOPClassUID=PDF), Reason.SOP_CLASS),
        (_without("SOPClassUID"), Reason.SOP_CLASS),
        (_without("SOPInstanceUID"), Reason.UNREADABLE),
        (_without("PatientID"), Reason.PATIENT_ID_MISSING),
        (_set(PatientID=""), Reason.PATIENT_ID_MISSING),
        (_set(NumberOfFrames=2), Reason.UNSUPPORTED),
        (_set(BitsAllocated=32), Reason.UNSUPPORTED),
        (_set(PhotometricInterpretation="CMYK"), Reason.UNSUPPORTED),
        (_set(Rows=300), Reason.UNDECODABLE),
        (_set(PixelData=b"\0\0"), Reason.UNDECODABLE),
        (_without("PixelData"), Reason.UNDECODABLE),
    ],
)
def test_what_cannot_be_proven_clean_stays_with_its_reason(change: Callable[[Dataset], None], reason: Reason) -> None:
    assert quarantined(changed(change)).reason is reason


@pytest.mark.parametrize("data", [b"", b"MZ", b"%PDF-1.7", bytes(128) + b"DICM", DATA[:140], DATA[: len(DATA) // 2]])
def test_what_is_no_whole_image_stays(data: bytes) -> None:
    assert quarantined(data).reason in (Reason.UNREADABLE, Reason.UNSUPPORTED, Reason.UNDECODABLE, Reason.SOP_CLASS)


def test_without_the_sites_secret_everything_stays() -> None:
    assert quarantined(DATA, key=None).reason is Reason.KEY_MISSING


def test_larger_images_than_allowed_stay_before_they_are_decoded() -> None:
    assert quarantined(DATA, options=Options(max_pixels=1000)).reason is Reason.UNSUPPORTED


@pytest.mark.usefixtures("no_text")
def test_text_that_is_announced_and_not_found_stays() -> None:
    assert quarantined(changed(_set(BurnedInAnnotation="YES"))).reason is Reason.BURNED_IN_NOT_FOUND


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        ("engine-failed", Reason.TEXT_ENGINE),
        ("too-much-text", Reason.TOO_MUCH_TEXT),
        ("engines-disagree", Reason.ENGINES_DISAGREE),
        ("oblique-text", Reason.OBLIQUE),
        ("still-read", Reason.NOT_VERIFIED),
    ],
)
def test_doubts_about_text_keep_the_image_with_the_boxes_found_so_far(
    why: redaction.Doubt, reason: Reason, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubtful(*_: Any, **__: Any) -> Redaction:
        raise redaction.Doubtful(why, "a sentence", [Box(1, 2, 3, 4)])

    monkeypatch.setattr(redaction, "versions", lambda threads=1: ["none"])
    monkeypatch.setattr(redaction, "redact_text", doubtful)
    result = quarantined(DATA)
    assert (result.reason, result.boxes) == (reason, (Box(1, 2, 3, 4),))
    assert result.record["boxes"] == [[1, 2, 3, 4]]


@pytest.mark.parametrize("leak", ["OKAFOR", "tag", "pixels", "grey scale"])
@pytest.mark.usefixtures("no_text")
def test_an_engine_that_leaks_is_caught_by_the_verification(leak: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is broken on purpose: nothing of it leaves."""
    real_header, real_attach = headers.clean_header, image_module.attach

    def leaky_header(source: Dataset, *args: Any, **more: Any) -> Any:
        result = real_header(source, *args, **more)
        if leak == "OKAFOR":
            result.dataset.PatientName = source.PatientName
        elif leak == "tag":
            result.dataset.StudyTime = "101112"
        return result

    def leaky_attach(target: Dataset, pixels: px.Pixels, *more: Any) -> None:
        other = pixels.copy()
        if leak == "pixels":
            other[0, 0] ^= 1
        real_attach(target, other, *more)
        if leak == "grey scale":
            target.WindowCenter, target.WindowWidth = "4711", "4711"

    monkeypatch.setattr(headers, "clean_header", leaky_header)
    monkeypatch.setattr(image_module, "attach", leaky_attach)
    assert quarantined(DATA).reason is Reason.NOT_VERIFIED


def test_an_error_that_nobody_expected_keeps_the_image_and_quotes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"could not handle {PERSON.name} {PERSON.patient_id}")

    monkeypatch.setattr(headers, "clean_header", fails)
    result = quarantined(DATA)
    assert (result.reason, result.detail) == (Reason.INTERNAL, "RuntimeError was raised")


def test_sequences_nested_a_thousand_deep_do_no_harm() -> None:
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    opening = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + item
    closing = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    head = DATA[: 132 + 12 + struct.unpack_from("<I", DATA, 140)[0]]
    assert quarantined(head + opening * 5000 + closing * 5000).reason is Reason.UNREADABLE


@pytest.mark.usefixtures("no_text")
@pytest.mark.parametrize("preamble", [b"MZ\x90\0", b"II*\0\x08\0\0\0", b"\x7fELF", b"#!/bin/sh\n"])
def test_a_file_that_is_something_else_as_well_comes_out_as_dicom_alone(preamble: bytes) -> None:
    data = preamble + DATA[len(preamble) :]
    result = deidentify(data + b"\0PK\5\6 behind the pixels", KEY)
    assert isinstance(result, Clean)
    plain = deidentify(DATA, KEY)
    assert isinstance(plain, Clean)
    assert result.data == plain.data
    assert result.data[:128] == bytes(128)


@pytest.mark.usefixtures("no_text")
def test_a_file_without_preamble_comes_out_as_with_one() -> None:
    """Scoring reads it, too: PS3.10 7.1 asks for a preamble, and not every writer knows."""
    plain, bare = deidentify(DATA, KEY), deidentify(DATA[132:], KEY)
    assert isinstance(plain, Clean)
    assert isinstance(bare, Clean), bare
    assert bare.data == plain.data


@pytest.mark.usefixtures("no_text")
def test_of_an_attribute_that_stands_twice_nothing_is_left() -> None:
    """Readers differ in which of the two they take: whichever it is, it does not leave."""
    twice = DATA
    for name in (b"Second^One", b"Third^One "):
        element = struct.pack("<HH2sH", 0x10, 0x10, b"PN", len(name)) + name
        at = twice.index(struct.pack("<HH2s", 0x10, 0x10, b"PN"))
        twice = twice[:at] + element + twice[at:]
    result = deidentify(twice, KEY)
    assert isinstance(result, Clean)
    assert b"One" not in result.data


@pytest.mark.usefixtures("no_text")
def test_loss_by_compression_stays_known() -> None:
    grey = np.full((64, 64), 90, np.uint8)
    import simplejpeg
    from pydicom.encaps import encapsulate

    frame = simplejpeg.encode_jpeg(grey[..., None], colorspace="GRAY")

    def compress(dataset: Dataset) -> None:
        dataset.Rows = dataset.Columns = 64
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit = 7
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit

    result = deidentify(changed(compress), KEY)
    assert isinstance(result, Clean), result
    read = dcmread(io.BytesIO(result.data))
    assert (read.LossyImageCompression, read.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert float(read.LossyImageCompressionRatio) == pytest.approx(64 * 64 / len(frame), rel=0.1)


@pytest.mark.usefixtures("no_text")
def test_patient_characteristics_are_kept_and_declared_where_the_site_says_so() -> None:
    result = deidentify(DATA, KEY, Options(keep_characteristics=True))
    assert isinstance(result, Clean)
    read = dcmread(io.BytesIO(result.data))
    assert read.PatientSex == PERSON.sex
    assert "113108" in [item.CodeValue for item in read.DeidentificationMethodCodeSequence]


@pytest.mark.usefixtures("no_text")
@pytest.mark.parametrize(
    "name", ["RG3_J2KI", "RGB_ORIGINAL", "burned_in_missing", "burned_in_no", "cookie1", "vlut_04"]
)
def test_real_files_of_devices_stay_as_valid_as_they_were(name: str, shared: Path, tmp_path: Path) -> None:
    need("dicom3tools")
    path = shared / "data" / "dicom" / f"{name}.dcm"
    result = deidentify(path.read_bytes(), KEY)
    assert isinstance(result, Clean), result
    (tmp_path / "clean.dcm").write_bytes(result.data)
    assert validator_errors(tmp_path / "clean.dcm") - validator_errors(path) == set()


@pytest.mark.usefixtures("no_text")
def test_the_device_is_kept_and_declared_where_the_site_says_so_and_the_core_takes_it() -> None:
    def devices(dataset: Dataset) -> None:
        dataset.Manufacturer, dataset.StationName = "Acme Imaging", "DX-ROOM-7"
        dataset.DeviceSerialNumber, dataset.InstitutionName = f"SN-{PERSON.patient_id}", "Nowhere General"
        dataset.DetectorID = "NOWHERE GENERAL"

    data = changed(devices)
    result = deidentify(data, KEY, Options(keep_device=True))
    assert isinstance(result, Clean), result
    read = dcmread(io.BytesIO(result.data))
    assert (read.Manufacturer, read.StationName) == ("Acme Imaging", "DX-ROOM-7")
    assert "DeviceSerialNumber" not in read  # it holds the patient's id
    assert "DetectorID" not in read  # it holds the hospital's name
    check(result.data, "application/dicom", result.patient)
    bare = deidentify(data, KEY)
    assert isinstance(bare, Clean)
    assert b"DX-ROOM-7" not in bare.data
    assert b"Acme" not in bare.data


@pytest.mark.parametrize("keep", [False, True])
def test_the_setting_reaches_the_engine(keep: bool, tmp_path: Path) -> None:
    keys = {"access_key": {"value": "ak"}, "secret_key": {"value": "sk"}}
    settings = load_settings(
        data_dir=tmp_path,
        store={"endpoint_url": "http://127.0.0.1:9", **keys},
        ship={"keep_patient_characteristics": keep, "keep_device_identity": not keep},
    )
    options = workplace(settings).options
    assert (options.keep_characteristics, options.keep_device) == (keep, not keep)


@pytest.mark.usefixtures("no_text")
def test_pictures_become_pngs_of_their_pixels_alone() -> None:
    import cv2

    jpeg = to_jpeg(render(SPEC))
    exif = b"Exif\0\0 Okafor Anna 4711"
    result = deidentify(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + jpeg[2:], KEY)
    assert isinstance(result, Clean)
    assert result.media_type == "image/png"
    assert b"Okafor" not in result.data
    decoded = cv2.imdecode(np.frombuffer(result.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    assert np.array_equal(decoded, px.decode_picture(jpeg, LIMITS))
