"""Pixels: decoded strictly in every syntax, filled with a constant at native depth, proven to be otherwise the same."""

from __future__ import annotations

import io
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
import simplejpeg
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom import Dataset, uid

from imaging.limits import Limits
from imaging.part10 import read_dicom
from imaging.refusal import Unreadable
from ship import image_module
from ship import pixels as px
from ship.boxes import Box
from ship.tone import Tone
from tests.imaging.files import dataset, in_fragments, put, reread, table, written

LIMITS = Limits(min_side=1, reduce_to=None)
BOXES = [Box(5, 3, 30, 12), Box(20, 10, 44, 18), Box(60, 50, 64, 56)]


def noise(stored: int, *, signed: bool = False, colour: bool = False) -> px.Pixels:
    """Every value that so many bits can hold is likely to occur; 56 rows, 64 columns."""
    low, high = (-(1 << (stored - 1)), 1 << (stored - 1)) if signed else (0, 1 << stored)
    kind = np.dtype(f"{'i' if signed else 'u'}{1 if stored <= 8 else 2}")
    shape = (56, 64, 3) if colour else (56, 64)
    return np.random.default_rng(stored).integers(low, high, shape).astype(kind)


def rgb(pixels: px.Pixels) -> Dataset:
    """A colour image."""
    return dataset(pixels, 8, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)


def read(made: Dataset) -> px.Source:
    return px.decode_dicom(read_dicom(written(made), LIMITS), LIMITS)


def in_syntax(made: Dataset, syntax: uid.UID) -> Dataset:
    """The same image in another transfer syntax."""
    pixels, bits = made.pixel_array, made.BitsStored
    if syntax == uid.RLELossless:
        made.compress(syntax, generate_instance_uid=False, encoding_plugin="pydicom")
    elif syntax == uid.JPEG2000Lossless:
        frame = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", reversible=True, bitspersample=bits)
        in_fragments(made, syntax, frame)
    elif syntax == uid.JPEGLosslessSV1:
        frame = imagecodecs.jpeg_encode(pixels, lossless=True, predictor=1, bitspersample=bits)
        in_fragments(made, syntax, frame)
    else:
        if syntax == uid.ExplicitVRBigEndian:
            made.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
        made.file_meta.TransferSyntaxUID = syntax
    return made


def rewritten(source: px.Source, pixels: px.Pixels, original: Dataset) -> Dataset:
    """What is written of an image, as a data set without the patient's header."""
    target = Dataset()
    target.file_meta = original.file_meta
    target.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    target.SOPClassUID, target.SOPInstanceUID = original.SOPClassUID, original.SOPInstanceUID
    image_module.attach(target, pixels, source, original)
    return target


@pytest.mark.parametrize("stored", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "syntax",
    [
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
        uid.JPEG2000Lossless,
        uid.JPEGLosslessSV1,
    ],
)
def test_grey_images_of_every_depth_are_filled_at_native_depth_and_the_rest_is_bit_identical(
    syntax: uid.UID, photometric: str, stored: int
) -> None:
    values = noise(stored)
    made = in_syntax(dataset(values, stored, PhotometricInterpretation=photometric), syntax)
    source = read(made)
    assert source.pixels.dtype == values.dtype
    assert np.array_equal(source.pixels, values)

    filled, fill = px.redact(source.pixels, BOXES, source.tone)
    target = rewritten(source, filled, made)
    result = read(target)
    covered = px.mask(values, BOXES)
    assert fill == (values[~covered].max() if photometric == "MONOCHROME1" else values[~covered].min())
    assert (result.pixels[covered] == fill).all()
    assert np.array_equal(result.pixels[~covered], values[~covered])
    assert (target.BitsStored, target.HighBit, target.BitsAllocated) == (stored, stored - 1, 8 * values.itemsize)
    assert px.proven(values, result.pixels, BOXES)
    assert result.is_like(source)


@pytest.mark.real
@pytest.mark.parametrize("stored", [8, 10, 12, 16])
@pytest.mark.parametrize("deviation", [0, 2])
def test_what_dcmtk_compressed_by_jpeg_ls_is_decoded(stored: int, deviation: int, tmp_path: Path, dcmtk: None) -> None:
    values = noise(stored)
    plain, coded = tmp_path / "plain.dcm", tmp_path / "coded.dcm"
    plain.write_bytes(written(dataset(values, stored)))
    how = ["--encode-nearlossless", "--max-deviation", str(deviation)] if deviation else ["--encode-lossless"]
    subprocess.run(["dcmcjpls", *how, plain, coded], check=True, timeout=60, capture_output=True)
    made = reread(coded.read_bytes())
    assert made.file_meta.TransferSyntaxUID == (uid.JPEGLSNearLossless if deviation else uid.JPEGLSLossless)
    decoded = read(made).pixels
    assert decoded.dtype == values.dtype
    difference = np.abs(decoded.astype(int) - values.astype(int))
    assert difference.max() <= deviation
    assert bool(difference.any()) == (deviation > 0)


def test_signed_pixels_keep_their_sign() -> None:
    values = noise(12, signed=True)
    source = read(in_syntax(dataset(values), uid.RLELossless))
    assert np.array_equal(source.pixels, values)
    filled, fill = px.redact(source.pixels, BOXES, source.tone)
    assert fill == values[~px.mask(values, BOXES)].min() < 0
    assert px.proven(values, filled, BOXES)
    assert np.array_equal(read(rewritten(source, filled, dataset(values))).pixels, filled)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless])
def test_colour_images_are_filled_in_every_channel(syntax: uid.UID) -> None:
    values = noise(8, colour=True)
    made = in_syntax(rgb(values), syntax)
    source = read(made)
    assert np.array_equal(source.pixels, values)
    filled, fill = px.redact(source.pixels, BOXES, source.tone)
    assert (filled[px.mask(values, BOXES)] == fill).all()
    assert np.array_equal(read(rewritten(source, filled, made)).pixels, filled)


def test_a_palette_becomes_the_colours_that_it_stands_for() -> None:
    values = noise(8) >> 4
    made = dataset(values, 8, PhotometricInterpretation="PALETTE COLOR")
    ramp = np.arange(16, dtype="<u2") * 0x1000
    for name, entries in (("Red", ramp), ("Green", ramp[::-1]), ("Blue", ramp)):
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [16, 0, 16])
        setattr(made, f"{name}PaletteColorLookupTableData", entries.tobytes())
    source = read(made)
    assert np.array_equal(source.pixels, np.stack([ramp[values], ramp[::-1][values], ramp[values]], axis=2))
    target = rewritten(source, source.pixels, made)
    assert np.array_equal(read(target).pixels, source.pixels)
    assert not [element.keyword for element in target if "Palette" in element.keyword]


def test_a_jpeg_inside_a_dicom_file_is_decoded_as_its_stream_says() -> None:
    smooth = cv2.GaussianBlur(noise(8), (0, 0), 3)
    frame = simplejpeg.encode_jpeg(smooth[:, :, None], 90, "GRAY", "Gray")
    decoded = read(in_fragments(dataset(smooth, 8), uid.JPEGBaseline8Bit, frame)).pixels
    expected = simplejpeg.decode_jpeg(frame, "GRAY")[..., 0]
    assert np.abs(decoded.astype(int) - expected).max() <= 1  # the standard lets inverse transforms differ by one


OTHER_FORMS = {
    "left-justified": lambda values: dataset(values << 4, 12, HighBit=15),
    "left-justified, deflated": lambda values: in_syntax(
        dataset(values << 4, 12, HighBit=15), uid.DeflatedExplicitVRLittleEndian
    ),
    "deeper codestream": lambda values: _with(in_syntax(dataset(values), uid.JPEG2000Lossless), 10, 9),
    "no HighBit": lambda values: put(dataset(values), "HighBit", "US", None),
    "HTJ2K": lambda values: in_fragments(
        dataset(values), uid.HTJ2KLossless, imagecodecs.htj2k_encode(values, reversible=True)
    ),
}


def _with(made: Dataset, stored: int, high: int) -> Dataset:
    made.BitsStored, made.HighBit = stored, high
    return made


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_whatever_form_values_come_in_they_leave_right_justified(form: str) -> None:
    values = noise(12)
    made = OTHER_FORMS[form](values)
    source = read(made)
    assert np.array_equal(source.pixels, values)
    target = rewritten(source, source.pixels, made)
    assert target.HighBit == target.BitsStored - 1
    words = np.frombuffer(target.PixelData, "<u2").reshape(values.shape)
    assert np.array_equal(words, values)


@pytest.mark.parametrize(
    ("change", "value", "reason"),
    [
        ("NumberOfFrames", 2, "multi-frame"),
        ("HighBit", 15, "contradiction"),
        ("BitsAllocated", 32, "unsupported"),
        ("PhotometricInterpretation", "CMYK", "unsupported"),
        ("SamplesPerPixel", 2, "contradiction"),
        ("Columns", 65, "contradiction"),
        ("RescaleSlope", "0", "bad-attribute"),
        ("VOILUTSequence", table([4096, 0, 12], bytes(80), "OW"), "bad-table"),
    ],
)
def test_what_scoring_refuses_is_refused_for_the_same_reason(change: str, value: Any, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        read(dataset(noise(12), **{change: value}))
    assert caught.value.reason == reason
    assert change in caught.value.detail or reason == "multi-frame"


def test_larger_images_than_allowed_are_refused() -> None:
    with pytest.raises(Unreadable) as caught:
        px.decode_dicom(read_dicom(written(dataset(noise(12)))), Limits(max_pixels=56 * 64 - 1, min_side=1))
    assert caught.value.reason == "too-large"


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_values_outside_the_stored_bits_are_refused(syntax: uid.UID) -> None:
    values = noise(12)
    values[10:20, 10:40] |= 1 << 12
    made = in_syntax(dataset(values, 16), syntax)
    with pytest.raises(Unreadable) as caught:
        read(_with(made, 12, 11))
    assert caught.value.reason == "contradiction"


def letters_in_bit(position: int) -> tuple[px.Pixels, px.Pixels]:
    """Values of 12 bits, and the same with a name's letters in one bit more."""
    values = np.asarray(cv2.GaussianBlur(noise(12), (0, 0), 3), np.uint16) & ~np.uint16(1)
    strokes = np.zeros(values.shape, np.uint8)
    cv2.putText(strokes, "Doe", (4, 40), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 2)
    return values, values | np.where(strokes > 0, np.uint16(1 << position), np.uint16(0))


def with_overlay(made: Dataset, position: int, allocated: int = 16) -> Dataset:
    """A retired overlay in a bit of the pixel data (PS3.3 C.9.2, until 2004)."""
    made.add_new(0x60000010, "US", made.Rows)
    made.add_new(0x60000011, "US", made.Columns)
    made.add_new(0x60000100, "US", allocated)
    made.add_new(0x60000102, "US", position)
    return made


@pytest.mark.parametrize(
    "syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEGLosslessSV1, uid.JPEG2000Lossless]
)
@pytest.mark.parametrize("position", [12, 13, 15])
def test_of_a_name_in_an_overlay_bit_nothing_is_left(syntax: uid.UID, position: int) -> None:
    values, words = letters_in_bit(position)
    assert (words != values).sum() > 100
    made = in_syntax(dataset(words, 16), syntax)
    source = read(with_overlay(_with(made, 12, 11), position))
    assert np.array_equal(source.pixels, values)
    target = rewritten(source, source.pixels, made)
    assert int(np.bitwise_or.reduce(np.frombuffer(target.PixelData, "<u2"))) >> 12 == 0
    assert not [element for element in target if element.tag.group >> 8 == 0x60]


@pytest.mark.parametrize("position", [0, 3])
def test_an_overlay_in_a_bit_of_left_justified_data_goes_as_well(position: int) -> None:
    values, _ = letters_in_bit(0)
    strokes = letters_in_bit(12)[1] >> 12
    made = with_overlay(dataset(values << 4 | strokes << position, 12, HighBit=15), position)
    assert np.array_equal(read(made).pixels, values)


def test_an_overlay_in_a_bit_of_the_values_is_refused_and_one_with_data_of_its_own_is_none() -> None:
    """A text in the lowest bit is seen by nobody, and would leave with the values."""
    values, words = letters_in_bit(0)
    assert (words != values).any()
    with pytest.raises(Unreadable) as caught:
        read(with_overlay(dataset(words), 0))
    assert caught.value.reason == "contradiction"
    assert "OverlayBitPosition (6000,0102)" in caught.value.detail
    assert np.array_equal(read(with_overlay(dataset(values), 0, allocated=1)).pixels, values)
    elsewhere = with_overlay(dataset(values), 0)
    elsewhere.add_new(0x60003000, "OW", bytes(values.size // 8))
    assert np.array_equal(read(elsewhere).pixels, values)


def test_a_colour_picture_whose_only_colour_was_its_text_is_proven_as_well() -> None:
    source = np.repeat(noise(8)[..., None], 3, axis=2)
    source[4:10, 6:28] = (255, 0, 0)
    filled, _ = px.redact(source, BOXES)
    result = px.decode_picture(px.encode_png(filled), LIMITS)
    assert result.ndim == 2
    assert px.proven(source, result, BOXES)
    assert not px.proven(source, result ^ np.uint8(1), BOXES)


def test_proof_fails_for_one_changed_pixel_outside_and_for_one_that_differs_inside() -> None:
    source = noise(12)
    filled, fill = px.redact(source, BOXES)
    assert px.proven(source, filled, BOXES)
    outside = filled.copy()
    outside[0, 0] ^= 1
    inside = filled.copy()
    inside[BOXES[0].y0, BOXES[0].x0] = fill + 1
    assert not px.proven(source, outside, BOXES)
    assert not px.proven(source, inside, BOXES)
    assert not px.proven(source, filled, BOXES[:-1])
    assert not px.proven(source, filled.astype(np.int32), BOXES)
    assert not px.proven(source, filled[:-1], BOXES)


def test_two_boxes_with_two_constants_are_no_constant() -> None:
    source = noise(12)
    filled, fill = px.redact(source, BOXES)
    filled[BOXES[2].slices] = fill + 1
    assert not px.proven(source, filled, BOXES)


def test_an_image_that_is_all_text_is_filled_whole() -> None:
    filled, fill = px.redact(noise(12), [Box(0, 0, 64, 56)], Tone())
    assert fill == 0
    assert not filled.any()


def picture(pixels: px.Pixels, kind: str) -> bytes:
    """A JPEG or PNG with a patient in all the places that metadata can be."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if kind == "PNG":
        info = PngInfo()
        info.add_text("Description", "Doe^Jane 4711")
        info.add_itxt("Title", "Doe^Jane", zip=True)
        image.save(buffer, "PNG", pnginfo=info, dpi=(300, 300), exif=_exif())
    else:
        image.save(buffer, "JPEG", quality=95, comment=b"Doe^Jane 4711", exif=_exif(), icc_profile=b"Doe^Jane" * 20)
    return buffer.getvalue()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = "Doe^Jane 4711"
    exif[0x0112] = 6  # orientation: a reader that obeys it turns the image
    return exif


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("colour", [False, True])
def test_a_picture_is_made_anew_from_its_pixels_alone(kind: str, colour: bool) -> None:
    smooth = np.asarray(cv2.GaussianBlur(noise(8, colour=colour), (0, 0), 2))
    data = picture(smooth, kind)
    assert b"Doe^Jane" in data
    decoded = px.decode_picture(data, LIMITS)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert decoded.shape == smooth.shape  # the orientation is not obeyed
    assert np.abs(decoded.astype(int) - expected).max() <= (0 if kind == "PNG" else 4)
    clean = px.encode_png(decoded)
    assert b"Doe" not in clean
    assert {name for name, _ in px.png_chunks(clean)} == {b"IHDR", b"IDAT", b"IEND"}
    assert np.array_equal(px.decode_picture(clean, LIMITS), decoded)


def test_a_png_of_16_bits_keeps_them() -> None:
    source = noise(16)
    assert np.array_equal(px.decode_picture(px.encode_png(source), LIMITS), source)


def test_three_equal_channels_become_one() -> None:
    grey = noise(8)
    assert np.array_equal(px.decode_picture(px.encode_png(np.stack([grey] * 3, axis=2)), LIMITS), grey)


def test_a_damaged_png_is_refused_where_libpng_would_guess() -> None:
    whole = px.encode_png(noise(8))
    position = whole.index(b"IDAT") + 40
    flipped = whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]
    for data in (flipped, whole[:-20], whole + b"tail"):
        assert px.png_chunks(data) == []
        with pytest.raises(Unreadable):
            px.decode_picture(data, LIMITS)


def test_a_png_that_inflates_to_more_than_it_announces_is_refused() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0)
    for raw in (bytes(50_000_000), bytes(16 * 17 - 1)):
        data = px.PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
        with pytest.raises(Unreadable):
            px.decode_picture(data, LIMITS)


def test_transparency_and_large_pictures_are_unsupported_and_a_torn_jpeg_undecodable() -> None:
    rgba = np.dstack([noise(8, colour=True), noise(8)])
    for data in (picture(rgba, "PNG"),):
        with pytest.raises(Unreadable):
            px.decode_picture(data, LIMITS)
    for kind in ("PNG", "JPEG"):
        with pytest.raises(Unreadable):
            px.decode_picture(picture(noise(8), kind), Limits(max_pixels=56 * 64 - 1, min_side=1))
    whole = picture(noise(8), "JPEG")
    for data in (whole[:-300], whole[:3]):
        with pytest.raises(Unreadable):
            px.decode_picture(data, LIMITS)
