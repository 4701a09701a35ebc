"""Verification: a leak that is planted into a clean file is found, whichever it is; each case puts one back."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from imaging.greyscale import Pipeline, Window
from imaging.limits import Limits
from ship import elements, headers, image_module
from ship import pixels as px
from ship.boxes import Box
from ship.identity import Identity, identity_of
from ship.keys import SiteKey
from ship.tone import Tone
from ship.verify import NotClean, among, verify_dicom, verify_png

KEY = SiteKey(bytes(range(32)))
BOXES = [Box(4, 4, 24, 10)]
LIMITS = Limits(min_side=1)


def source() -> Dataset:
    """An image with a patient, and what a header may hold of one."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID, dataset.SOPInstanceUID = ComputedRadiographyImageStorage, UID("1.2.840.113619.2.1.7")
    dataset.StudyInstanceUID = "1.2.840.113619.2.1"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Müller^Jörg=王^小东", "4711-A", "19530201"
    dataset.StudyDate, dataset.Modality, dataset.ImageType = "20240229", "CR", ["ORIGINAL", "PRIMARY"]
    dataset.AccessionNumber, dataset.StudyDescription, dataset.KVP = "A9931", "Chest PA for Dr. Balogun", "80"
    dataset.ViewCodeSequence = Sequence([headers.code_item("SCT", "399348003", "x")])
    return dataset


def seen(pixels: px.Pixels, bits: int = 12) -> px.Source:
    """What was read of the original."""
    tone = Tone(Pipeline(None, 2.0, -1024.0, Window(2048.0, 4096.0), inverted=False), (7, 9))
    return px.Source(pixels, "MONOCHROME2", bits, False, tone)


PIXELS = np.random.default_rng(1).integers(0, 4096, (32, 40)).astype(np.uint16)
IDENTITY = identity_of(source())


def clean() -> Dataset:
    """What the engine makes of it."""
    result = headers.clean_header(source(), KEY).dataset
    image_module.attach(result, px.redact(PIXELS, BOXES)[0], seen(PIXELS), source())
    headers.stamp(result)
    result.file_meta = headers.file_meta(result)
    return result


def written(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def verified(data: bytes) -> px.Pixels:
    return verify_dicom(data, seen(PIXELS), BOXES, IDENTITY, LIMITS)


def test_a_clean_file_is_verified_and_its_pixels_returned() -> None:
    assert np.array_equal(verified(written(clean())), px.redact(PIXELS, BOXES)[0])


@pytest.mark.parametrize(
    ("value", "keep", "good"),
    [("Acme Ltd.", True, True), ("Acme Ltd.", False, False), ("Acme\u00fc", True, False), ("Acme Balogun", True, True)],
)
def test_names_of_the_device_stay_where_the_site_chose_it(value: str, keep: bool, good: bool) -> None:
    dataset = clean()
    dataset.DeviceSerialNumber = value
    if good:
        verify_dicom(written(dataset), seen(PIXELS), BOXES, IDENTITY, LIMITS, keep_device=keep)
        return
    with pytest.raises(NotClean):
        verify_dicom(written(dataset), seen(PIXELS), BOXES, IDENTITY, LIMITS, keep_device=keep)


def test_a_value_of_the_patient_in_the_name_of_a_device_is_found() -> None:
    dataset = clean()
    dataset.DeviceSerialNumber = "Acme 4711-A"
    with pytest.raises(NotClean, match="bytes of the header"):
        verify_dicom(written(dataset), seen(PIXELS), BOXES, IDENTITY, LIMITS, keep_device=True)


def _set(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset, keyword, value)


def _private(dataset: Dataset) -> None:
    dataset.private_block(0x0019, "ACME", create=True).add_new(1, "LO", "harmless")


def _inside(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset.ViewCodeSequence[0], keyword, value)


def _deeper(dataset: Dataset) -> None:
    dataset.ViewCodeSequence[0].ViewModifierCodeSequence = Sequence([headers.code_item("SCT", "1", "y")])


def _overlay(dataset: Dataset) -> None:
    dataset.add_new(0x60003000, "OW", b"\0\0")


def _another_depth(dataset: Dataset) -> None:
    dataset.BitsStored, dataset.HighBit = 13, 12


def _lut_explanation(dataset: Dataset) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [2, 0, 16])
    item.LUTExplanation = "harmless"
    item.add_new("LUTData", "OW", bytes(4))
    dataset.VOILUTSequence = Sequence([item])


def _pixels(change: Callable[[px.Pixels], None]) -> Callable[[Dataset], None]:
    def leak(dataset: Dataset) -> None:
        pixels = px.redact(PIXELS, BOXES)[0]
        change(pixels)
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OW"

    return leak


def _one_box_pixel(pixels: px.Pixels) -> None:
    pixels[5, 5] += 1


def _one_other_pixel(pixels: px.Pixels) -> None:
    pixels[0, 0] ^= 1


def _private_meta(dataset: Dataset) -> None:
    dataset.file_meta.PrivateInformationCreatorUID = UID("2.25.5")
    dataset.file_meta.PrivateInformation = b"Okafor"


LEAKS: dict[str, Callable[[Dataset], None]] = {
    "the name": _set("PatientName", "Müller^Jörg"),
    "another name": _set("PatientName", "Somebody^Else"),
    "another pseudonym as the name": _set("PatientName", "A" * 16),
    "the id": _set("PatientID", "4711-A"),
    "a name in another attribute": _set("ReferringPhysicianName", "A" * 16),
    "the birth date": _set("PatientBirthDate", "19530201"),
    "the study date": _set("StudyDate", "20240229"),
    "a date as a text": _set("SeriesDescription", "1 FEB 1953"),
    "a date with its time": _set("AcquisitionDateTime", "20200101101112"),
    "a time": _set("StudyTime", "101112"),
    "the accession number": _set("AccessionNumber", "A9931"),
    "the study's UID": _set("StudyInstanceUID", "1.2.840.113619.2.1"),
    "another UID": _set("FrameOfReferenceUID", "1.2.840.113619.9"),
    "a description": _set("StudyDescription", "Chest PA for Dr. Balogun"),
    "a name as a word of a description": _set("StudyDescription", "CHEST MULLER"),
    "a text": _set("InstitutionName", "Northfield"),
    "a comment": _set("ImageComments", "harmless"),
    "a name in a coded string": _set("BodyPartExamined", "MUELLER"),
    "a name in a term": _set("RescaleType", "MUELLER"),
    "a high age": _set("PatientAge", "094Y"),
    "the id as a number": _set("InstanceNumber", 19530201),
    "a private attribute": _private,
    "a code's meaning": _inside("CodeMeaning", "for Jörg Müller"),
    "a name in Chinese": _inside("CodeMeaning", "王 小东"),
    "a text in an item": _inside("CodingSchemeVersion", "harmless"),
    "a deeper sequence": _deeper,
    "another sequence": _set("RequestAttributesSequence", Sequence([Dataset()])),
    "an overlay": _overlay,
    "another window": _set("WindowWidth", "200"),
    "another slope": _set("RescaleSlope", "3"),
    "another padding": _set("PixelPaddingRangeLimit", 10),
    "no padding": lambda dataset: dataset.__delitem__("PixelPaddingValue"),
    "another polarity": _set("PhotometricInterpretation", "MONOCHROME1"),
    "another depth": _another_depth,
    "an explanation of the window": _set("WindowCenterWidthExplanation", "HARMLESS"),
    "an explanation of a table": _lut_explanation,
    "an icon": _set("IconImageSequence", Sequence([Dataset()])),
    "one pixel in a box": _pixels(_one_box_pixel),
    "one pixel outside the boxes": _pixels(_one_other_pixel),
    "no word of identity removed": _set("PatientIdentityRemoved", "NO"),
    "no word of burned-in text": _set("BurnedInAnnotation", "YES"),
    "an AE title": lambda ds: setattr(ds.file_meta, "SourceApplicationEntityTitle", "NORTHFIELD"),
    "private meta information": _private_meta,
}


@pytest.mark.parametrize("leak", list(LEAKS))
def test_a_leak_is_refused(leak: str) -> None:
    dataset = clean()
    LEAKS[leak](dataset)
    with pytest.raises(NotClean) as caught:
        verified(written(dataset))
    said = str(caught.value).lower()
    assert not any(word in said for word in ("müller", "mueller", "4711", "1953", "balogun", "northfield"))


def test_bytes_that_no_element_owns_are_refused() -> None:
    data = written(clean())
    assert verified(data) is not None
    for other in (
        b"MZ" + data[2:],  # a preamble that makes a program of it
        b"II*\0" + data[4:],  # or a TIFF
        data + b"Okafor",  # behind the pixels
        data + b"\xfc\xff\xfc\xffOB\0\0\x06\0\0\0Okafor",  # Data Set Trailing Padding (FFFC,FFFC)
        data[:-2],
    ):
        with pytest.raises(NotClean):
            verified(other)


def test_meta_information_of_another_object_is_refused() -> None:
    data = written(clean())
    uid = str(clean().SOPInstanceUID).encode()
    assert data.count(uid) == 2
    with pytest.raises(NotClean, match="another object"):
        verified(data.replace(uid, uid[:-1] + (b"1" if uid[-1:] == b"0" else b"0"), 1))


def test_pixel_data_longer_than_the_image_is_refused() -> None:
    dataset = clean()
    dataset.PixelData = bytes(dataset.PixelData) + b"Okafor"
    dataset["PixelData"].VR = "OW"
    with pytest.raises(NotClean):
        verified(written(dataset))


@pytest.mark.parametrize("implicit", [True, False])
def test_another_transfer_syntax_is_refused(implicit: bool) -> None:
    dataset = clean()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRBigEndian
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, implicit_vr=implicit, little_endian=implicit, enforce_file_format=True)
    with pytest.raises(NotClean):
        verified(buffer.getvalue())


def _element(tag: tuple[int, int], vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", *tag, vr, len(value)) + value


@pytest.mark.parametrize(
    "body",
    [
        _element((0x10, 0x20), b"LO", b"B " * 8) + _element((0x10, 0x10), b"PN", b"Okafor"),  # out of order
        _element((0x10, 0x10), b"PN", b"A " * 8) + _element((0x10, 0x10), b"PN", b"Okafor"),  # twice: readers differ
        _element((0x10, 0x10), b"PN", b"Odd"),
        _element((0x10, 0x10), b"??", b"Okafor"),
        _element((0x10, 0x10), b"PN", b"Okafor")[:-2],
        struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
        struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 8) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF),
        struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 8) + struct.pack("<HHI", 0xFFFE, 0xE00D, 0),
        struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 7, 2) + b"ab",
    ],
)
def test_what_two_readers_could_read_differently_is_malformed(body: bytes) -> None:
    with pytest.raises(elements.Malformed):
        list(elements.read(bytes(128) + b"DICM" + body))


def test_the_second_reader_reads_what_pydicom_reads() -> None:
    data = written(clean())
    read = dcmread(io.BytesIO(data))
    ours = {element.tag: element.value for element in elements.read(data) if not element.path and element.vr != "SQ"}
    theirs = {int(element.tag): element for part in (read.file_meta, read) for element in part if element.VR != "SQ"}
    assert set(ours) == set(theirs)
    assert ours[0x7FE00010] == read.PixelData
    assert ours[0x00100020].decode() == read.PatientID
    inner = [element for element in elements.read(data) if element.path == (0x00540220,)]
    assert [element.texts for element in inner] == [["399348003"], ["SCT"], ["antero-posterior"]]


@pytest.mark.parametrize("text", ["Müller^Jörg", "19530201000000", "1.2.840.113619.2.1", "小东王小东王小东王小"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_a_value_among_the_pixel_bytes_is_found(text: str, encoding: str) -> None:
    identity = Identity(words=frozenset({text.lower()}), uids=frozenset({text}))
    raw = PIXELS.copy()
    spelled = np.frombuffer(text.encode(encoding).ljust(80, b"\0"), np.uint16)
    raw[20, : len(spelled)] = spelled
    dataset = clean()
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelData = px.redact(raw, BOXES)[0].tobytes()
    dataset["PixelData"].VR = "OW"
    assert verify_dicom(written(dataset), seen(raw, 16), BOXES, Identity(), LIMITS) is not None
    with pytest.raises(NotClean, match="pixel bytes"):
        verify_dicom(written(dataset), seen(raw, 16), BOXES, identity, LIMITS)


@pytest.mark.parametrize("text", ["12345", "0000000000", "1111122222"])
def test_a_ramp_or_an_even_area_of_the_image_is_no_value(text: str) -> None:
    raw = np.full((32, 40), 0x3030, np.uint16)
    raw[20, :5] = np.frombuffer(b"12345".decode().encode("utf-16-le"), np.uint16)
    raw[21, :10] = np.frombuffer(("1" * 5 + "2" * 5).encode("utf-16-le"), np.uint16)
    dataset = clean()
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelData = px.redact(raw, BOXES)[0].tobytes()
    dataset["PixelData"].VR = "OW"
    assert verify_dicom(written(dataset), seen(raw, 16), BOXES, Identity(words=frozenset({text})), LIMITS) is not None


def test_the_one_pass_search_finds_what_a_plain_search_finds() -> None:
    data = np.random.default_rng(5).integers(97, 100, 20_000).astype(np.uint8).tobytes()
    pieces = {data[start : start + 12] for start in range(0, 19_000, 997)} | {data[-10:], data[:10]}
    for piece in pieces:
        assert among(data, [b"z" * 10, piece])
        assert not among(data, [piece[:-1] + b"z"])
    assert not among(b"short", [b"z" * 10])
    assert not among(data, [])


def test_a_short_value_is_found_as_a_word_and_not_within_another() -> None:
    identity = Identity(words=frozenset({"Lee"}))
    dataset = clean()
    dataset.StudyDescription = "CHEST FLEECE"
    assert verify_dicom(written(dataset), seen(PIXELS), BOXES, identity, LIMITS) is not None
    dataset.StudyDescription = "CHEST LEE"
    with pytest.raises(NotClean):
        verify_dicom(written(dataset), seen(PIXELS), BOXES, identity, LIMITS)


def test_our_own_words_are_no_leak_and_hide_none() -> None:
    """A Ms Clean and a Mr Hand: DeidentificationMethod and code meanings hold such words; 'Handerson' is not 'Hand'."""
    dataset = clean()
    for words in ({"Clean"}, {"Hand"}, {"edgerad"}, {"antero"}):
        identity = Identity(words=frozenset(words))
        assert verify_dicom(written(dataset), seen(PIXELS), BOXES, identity, LIMITS) is not None
    dataset.StudyDescription = "HANDERSON"
    with pytest.raises(NotClean):
        verify_dicom(written(dataset), seen(PIXELS), BOXES, Identity(words=frozenset({"Handerson"})), LIMITS)


def test_kilovolts_are_not_taken_for_a_short_id() -> None:
    assert verify_dicom(written(clean()), seen(PIXELS), BOXES, Identity(words=frozenset({"80"})), LIMITS) is not None


def png(*extra: tuple[bytes, bytes]) -> bytes:
    data = px.encode_png(px.redact(PIXELS.astype(np.uint8), BOXES)[0])
    for name, body in extra:
        chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        data = data[:-12] + chunk + data[-12:]
    return data


def test_a_png_is_its_pixels_and_nothing_else() -> None:
    grey = PIXELS.astype(np.uint8)
    assert verify_png(png(), grey, BOXES, Identity(), LIMITS) is not None
    for data in (
        png((b"tEXt", b"Author\0Okafor")),
        png((b"eXIf", b"Okafor")),
        png((b"pHYs", bytes(9))),
        png() + b"Okafor",
        png()[:-1],
    ):
        with pytest.raises(NotClean):
            verify_png(data, grey, BOXES, Identity(), LIMITS)
    other = grey.copy()
    other[0, 0] ^= 1
    with pytest.raises(NotClean, match="outside the boxes"):
        verify_png(png(), other, BOXES, Identity(), LIMITS)
