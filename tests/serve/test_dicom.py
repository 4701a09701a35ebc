"""DICOM to grey pixels: one picture whatever the encoding; what is no frontal chest radiograph is refused."""

import io
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom.data
import pytest
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from edgerad.phantom import SYNTAXES, Phantom, Syntax, identity, to_dicom
from edgerad.phantom.bad import ct_slice
from imaging.limits import Limits
from imaging.refusal import Unreadable
from serve.decode import DecodedImage, decode
from serve.preprocess import preprocess

DEFAULT, WHOLE = Limits(), Limits(reduce_to=None)
Change = Callable[[Dataset], object]


def edited(phantom: Phantom, change: Change, syntax: Syntax = "explicit") -> bytes:
    """Return the phantom's DICOM file with its data set changed."""
    dataset = dcmread(io.BytesIO(to_dicom(phantom, syntax)))
    change(dataset)
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue()


def put(**values: Any) -> Change:
    """Set attributes by keyword."""

    def change(dataset: Dataset) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return change


def refusal(data: bytes, limits: Limits = DEFAULT) -> Unreadable:
    """Return what the decoder refuses with."""
    with pytest.raises(Unreadable) as caught:
        decode(data, limits)
    return caught.value


def difference(one: DecodedImage, other: DecodedImage) -> int:
    """Largest difference of the model's inputs, in levels of 255."""
    return int(np.abs(preprocess(one.pixels).astype(int) - preprocess(other.pixels)).max())


@pytest.fixture(scope="module")
def plain(phantom: Phantom) -> DecodedImage:
    """The phantom as explicit little endian, MONOCHROME2, 12 bit."""
    return decode(to_dicom(phantom), WHOLE)


def test_pixels_keep_their_order_and_fill_sixteen_bits(phantom: Phantom, plain: DecodedImage) -> None:
    assert (plain.format, plain.rows, plain.columns) == ("dicom", *phantom.pixels.shape)
    assert plain.pixels.dtype == np.uint16
    assert (plain.pixels.min(), plain.pixels.max()) == (0, 65535)
    assert np.corrcoef(plain.pixels.ravel(), phantom.pixels.ravel())[0, 1] > 0.99999


@pytest.mark.parametrize("syntax", list(SYNTAXES))
def test_every_transfer_syntax_of_the_phantoms_gives_the_same_pixels(
    phantom: Phantom, plain: DecodedImage, syntax: Syntax
) -> None:
    np.testing.assert_array_equal(decode(to_dicom(phantom, syntax), WHOLE).pixels, plain.pixels)


def test_lossy_jpeg_2000(phantom: Phantom, plain: DecodedImage) -> None:
    squeeze: Change = lambda dataset: dataset.compress(uid.JPEG2000, generate_instance_uid=False, j2k_cr=[8])  # noqa: E731
    assert difference(decode(edited(phantom, squeeze), WHOLE), plain) <= 10


@pytest.mark.parametrize(("name", "shape"), [("JPEGLSNearLossless_08", (45, 10)), ("JPEGLSNearLossless_16", (50, 10))])
def test_jpeg_ls(name: str, shape: tuple[int, int]) -> None:
    """No encoder of it is installed, so these are pydicom's samples: two small pictures of bars."""
    path = Path(pydicom.data.__file__).parent / "test_files" / f"{name}.dcm"
    image = decode(path.read_bytes(), Limits(min_side=1))
    assert image.pixels.shape == shape
    assert len(np.unique(image.pixels)) >= 5


def test_baseline_jpeg_inside_dicom(phantom: Phantom) -> None:
    from edgerad.phantom import to_jpeg

    jpeg = to_jpeg(phantom, quality=95)

    def change(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit = 7
        dataset.WindowCenter, dataset.WindowWidth = "128", "256"
        dataset.PixelData = encapsulate([jpeg])
        dataset["PixelData"].VR = "OB"

    assert difference(decode(edited(phantom, change)), decode(jpeg)) <= 3


def test_big_endian(phantom: Phantom, plain: DecodedImage) -> None:
    source = dcmread(io.BytesIO(to_dicom(phantom)))
    dataset = Dataset({element.tag: element for element in source})  # free of the encoding that it was read with
    dataset.PixelData = phantom.pixels.astype(">u2").tobytes()
    dataset.file_meta = source.file_meta
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
    out = io.BytesIO()
    dataset.save_as(out, implicit_vr=False, little_endian=False, enforce_file_format=True)
    np.testing.assert_array_equal(decode(out.getvalue(), WHOLE).pixels, plain.pixels)


def test_without_file_meta_information(phantom: Phantom, plain: DecodedImage) -> None:
    whole = to_dicom(phantom, "implicit")
    start = whole.index(b"\x08\x00", 132 + 12)  # the first element of group 0008
    assert whole[start : start + 4] in (b"\x08\x00\x05\x00", b"\x08\x00\x08\x00")
    np.testing.assert_array_equal(decode(whole[start:], WHOLE).pixels, plain.pixels)


def test_monochrome1_is_monochrome2_upside_down(phantom: Phantom, plain: DecodedImage) -> None:
    inverse = replace(phantom, spec=replace(phantom.spec, photometric="MONOCHROME1"))
    assert difference(decode(to_dicom(inverse), WHOLE), plain) == 0


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("slope", [1, -1])
def test_window_functions_keep_the_order(phantom: Phantom, plain: DecodedImage, function: str, slope: int) -> None:
    change = put(
        VOILUTFunction=function, WindowCenter=str(2048 * slope), WindowWidth="6000",
        RescaleSlope=str(slope), RescaleIntercept="0",
    )  # fmt: skip
    shown = decode(edited(phantom, change), WHOLE).pixels.ravel()
    order = np.argsort(phantom.pixels.astype(int).ravel() * slope, kind="stable")
    assert (np.diff(shown[order].astype(int)) >= 0).all()
    assert len(np.unique(shown)) > 100


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_the_number_of_bits_does_not_matter(phantom: Phantom, plain: DecodedImage, bits: int) -> None:
    pixels = np.rint(phantom.pixels * ((2**bits - 1) / 4095)).astype(np.uint16)
    other = replace(phantom, spec=replace(phantom.spec, bits=bits), pixels=pixels)
    assert difference(decode(to_dicom(other), WHOLE), plain) <= 1


def test_eight_bits_allocated(phantom: Phantom, plain: DecodedImage) -> None:
    def change(dataset: Dataset) -> None:
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit = 7
        dataset.WindowCenter, dataset.WindowWidth = "128", "256"
        dataset.PixelData = (phantom.pixels >> 4).astype(np.uint8).tobytes()
        dataset["PixelData"].VR = "OB"

    assert difference(decode(edited(phantom, change), WHOLE), plain) <= 2


def test_signed_pixels(phantom: Phantom, plain: DecodedImage) -> None:
    def change(dataset: Dataset) -> None:
        signed = phantom.pixels.astype(np.int16) - 2048
        dataset.PixelRepresentation = 1
        dataset.PixelData = (signed & 0x0FFF).astype("<u2").tobytes()
        dataset.WindowCenter, dataset.WindowWidth = "0", "4096"

    assert difference(decode(edited(phantom, change), WHOLE), plain) <= 1


def test_old_overlay_bits_above_the_high_bit_are_no_pixels(phantom: Phantom, plain: DecodedImage) -> None:
    def change(dataset: Dataset) -> None:
        overlay = np.zeros_like(phantom.pixels)
        overlay[100:140, 100:140] = 0x8000
        dataset.PixelData = (phantom.pixels | overlay).astype("<u2").tobytes()
        dataset.add_new((0x6000, 0x0100), "US", 16)
        dataset.add_new((0x6000, 0x0102), "US", 15)

    assert difference(decode(edited(phantom, change), WHOLE), plain) == 0


def test_a_window_is_applied_and_one_that_hides_the_chest_is_not(phantom: Phantom, plain: DecodedImage) -> None:
    low, high = np.percentile(phantom.pixels, (5, 95))
    usual = put(WindowCenter=str(int((low + high) / 2)), WindowWidth=str(int(high - low)))
    shown = decode(edited(phantom, usual), WHOLE)
    assert 0.02 < np.mean(shown.pixels == 65535) < 0.12, "clipped at the window's end"
    narrow = put(WindowCenter="2000", WindowWidth="20")
    np.testing.assert_array_equal(decode(edited(phantom, narrow), WHOLE).pixels, plain.pixels)


def test_a_voi_table_is_applied(phantom: Phantom, plain: DecodedImage) -> None:
    """A table that turns the order around gives the negative."""

    def change(dataset: Dataset) -> None:
        table = Dataset()
        table.LUTDescriptor = [4096, 0, 16]
        table.LUTData = np.arange(4095, -1, -1, dtype="<u2").tobytes()
        dataset.VOILUTSequence = [table]
        del dataset.WindowCenter, dataset.WindowWidth

    negative = decode(edited(phantom, change), WHOLE)
    assert np.corrcoef(negative.pixels.ravel(), plain.pixels.ravel())[0, 1] < -0.9999


def test_a_rescale_slope_of_minus_one_is_applied(phantom: Phantom, plain: DecodedImage) -> None:
    change = put(RescaleSlope="-1", RescaleIntercept="4095")
    negative = decode(edited(phantom, change), WHOLE)
    assert np.corrcoef(negative.pixels.ravel(), plain.pixels.ravel())[0, 1] < -0.9999


def test_padding_shows_black_and_sets_no_range(phantom: Phantom) -> None:
    pixels = phantom.pixels.copy()
    pixels[:, :40] = 4095

    def change(dataset: Dataset) -> None:
        dataset.PixelData = pixels.astype("<u2").tobytes()
        dataset.add_new("PixelPaddingValue", "US", 4095)

    assert decode(edited(phantom, change), WHOLE).pixels[:, :40].max() == 0


@pytest.mark.parametrize("syntax", ["explicit", "jpeg-lossless"])
def test_a_detector_of_full_size_is_reduced_on_the_way(syntax: Syntax) -> None:
    """Pixels above 16 bit signed go through the tables as 32 bits: reducing them must work as well."""
    rows, columns = 1500, 1300
    ramp = np.add.outer(np.arange(rows), np.arange(columns)).astype(np.uint16)
    from edgerad.phantom import random_spec

    spec = replace(random_spec(5, size=1500), rows=rows, cols=columns, bits=12, photometric="MONOCHROME2")
    big = Phantom(spec, ramp, np.zeros(ramp.shape, np.bool_), None, None, ())
    image = decode(to_dicom(big, syntax))
    assert (image.rows, image.columns) == (rows, columns)
    assert image.pixels.shape == (750, 650)
    assert (np.diff(image.pixels.astype(int), axis=0) > 0).all(), "still the ramp"


def test_the_header_for_the_worklist_is_kept_beside_the_pixels(phantom: Phantom, plain: DecodedImage) -> None:
    person, visit = identity(phantom.spec)
    assert plain.header["PatientID"] == person.patient_id
    assert plain.header["AccessionNumber"] == visit.accession
    assert plain.header["Modality"] == "DX"
    assert person.patient_id not in repr(plain), "a log of the image shows no patient"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put(Modality="MG"), "not-chest"),
        (put(SOPClassUID=uid.MRImageStorage, Modality="MR"), "not-a-radiograph"),
        (put(SOPClassUID=uid.UltrasoundImageStorage), "not-a-radiograph"),
        (put(SOPClassUID=uid.SecondaryCaptureImageStorage, Modality="PT"), "not-a-radiograph"),
        (put(BodyPartExamined="HAND"), "not-chest"),
        (put(BodyPartExamined="left knee"), "not-chest"),
        (put(BodyPartExamined="ABDOMEN"), "not-chest"),
        (put(ViewPosition="LL"), "not-frontal"),
        (put(ViewPosition="lateral"), "not-frontal"),
        (put(NumberOfFrames="2"), "multi-frame"),
        (put(Rows=40, Columns=40), "too-small"),
        (put(Rows=20_000, Columns=20_000), "too-large"),
        (put(Rows=400), "contradiction"),
        (put(BitsStored=13, HighBit=16), "contradiction"),
        (lambda dataset: dataset.add_new("NumberOfFrames", "LO", "many"), "bad-attribute"),
        (lambda dataset: dataset.pop("PixelData"), "no-pixels"),
        (lambda dataset: dataset.pop("Rows"), "no-pixels"),
    ],
)
def test_the_header_tells_what_is_no_frontal_chest(phantom: Phantom, change: Change, reason: str) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of what is written here on purpose
        data = edited(phantom, change)
    assert refusal(data).reason == reason


@pytest.mark.parametrize(
    "change",
    [
        put(BodyPartExamined=""),
        put(BodyPartExamined="ABDOMENCHEST"),
        put(BodyPartExamined="CHEST AND ARM"),
        put(ViewPosition=""),
        put(Modality=""),
        put(SOPClassUID=uid.SecondaryCaptureImageStorage, Modality="OT"),
        put(NumberOfFrames="1"),
        put(PatientName=None, PatientID=None),
    ],
)
def test_what_the_header_leaves_open_is_judged_by_its_pixels(phantom: Phantom, change: Change) -> None:
    assert decode(edited(phantom, change)).format == "dicom"


def test_a_ct_slice_is_refused() -> None:
    assert refusal(ct_slice()).reason == "not-a-radiograph"


def test_values_that_no_standard_knows_are_not_repeated(phantom: Phantom) -> None:
    """A careless sender puts a name into any element: an error text ends up in logs and dead letters."""
    named = edited(phantom, put(SOPClassUID=uid.SecondaryCaptureImageStorage, Modality="SMITH"))
    assert "SMITH" not in str(refusal(named)).upper()
    private = edited(phantom, put(SOPClassUID="1.2.826.0.1.19480229"))
    assert "19480229" not in str(refusal(private))


def test_a_deflated_bomb_is_refused_before_it_inflates(phantom: Phantom) -> None:
    dataset = dcmread(io.BytesIO(to_dicom(phantom, "deflated")))
    out = io.BytesIO()
    dataset.save_as(out)
    start = 144 + int.from_bytes(out.getvalue()[140:144], "little")
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = squeezer.compress(b"\0" * (64 << 20)) + squeezer.flush()
    bomb = out.getvalue()[:start] + body
    assert len(bomb) < 1 << 20
    assert refusal(bomb, Limits(max_bytes=16 << 20)).reason == "too-large"


def test_run_lengths_that_unpack_to_more_than_the_image_are_refused(phantom: Phantom) -> None:
    def change(dataset: Dataset) -> None:
        bomb = bytes([2, 0, 0, 0]) + (64).to_bytes(4, "little") + (64 + (1 << 20)).to_bytes(4, "little") + b"\0" * 52
        dataset.PixelData = encapsulate([bomb + b"\x81\x00" * (1 << 20)])

    assert refusal(edited(phantom, change, "rle")).reason == "corrupt"


def test_a_codestream_larger_than_the_header_says_is_refused(phantom: Phantom) -> None:
    small = edited(phantom, put(Rows=100, Columns=100), "jpeg2000")
    assert refusal(small).reason == "contradiction"


def test_real_files_are_read_or_refused_for_what_they_are(shared: Path) -> None:
    reasons = {}
    for path in sorted((shared / "data" / "dicom").glob("*.dcm")):
        try:
            decode(path.read_bytes())
            reasons[path.stem] = "read"
        except Unreadable as refused:
            reasons[path.stem] = refused.reason
    assert (
        reasons.items()
        >= {
            "0_ORIGINAL_no_pixels": "no-pixels",
            "RG3_J2KI": "not-chest",
            "RGB_ORIGINAL": "not-a-radiograph",
            "bad_sequence": "not-a-radiograph",
            "cookie1": "colour",
            "explicit_VR-UN": "not-a-radiograph",
        }.items()
    )
    assert "corrupt" not in reasons.values()


def test_a_real_jpeg_2000_with_monochrome1_decodes(shared: Path) -> None:
    dataset = dcmread(shared / "data" / "dicom" / "RG3_J2KI.dcm")
    assert dataset.PhotometricInterpretation == "MONOCHROME1"
    dataset.BodyPartExamined = "CHEST"
    out = io.BytesIO()
    dataset.save_as(out)
    image = decode(out.getvalue())
    assert (image.rows, image.columns) == (dataset.Rows, dataset.Columns)
    stored = cv2.resize(dataset.pixel_array, image.pixels.shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.corrcoef(image.pixels.ravel(), stored.ravel())[0, 1] < -0.99, "shown as MONOCHROME2"


def test_a_panic_of_the_run_length_decoder_is_a_corrupt_file(phantom: Phantom) -> None:
    """Written in Rust, it panics over a segment longer than the image: an error that `except Exception` lets pass."""
    runs = b"\x81\x00" * (phantom.pixels.size // 128 + 2)
    offsets = (2, 64, 64 + len(runs))
    header = b"".join(offset.to_bytes(4, "little") for offset in offsets).ljust(64, b"\0")

    def change(dataset: Dataset) -> None:
        dataset.PixelData = encapsulate([header + runs + runs])

    assert refusal(edited(phantom, change, "rle")).reason == "corrupt"
