"""Pixels: decoded strictly in every syntax, filled with a constant at native depth, proven to be otherwise the same."""

from __future__ import annotations

import io
import struct
import subprocess
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom import Dataset, FileDataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from edgerad.phantom import jpeg_lossless
from ship import pixels as px
from ship.boxes import Box

LIMIT = 64_000_000
BOXES = [Box(5, 3, 30, 12), Box(20, 10, 44, 18), Box(60, 50, 64, 56)]


def noise(stored: int, *, signed: bool = False, colour: bool = False) -> px.Pixels:
    """Every value that so many bits can hold is likely to occur; 56 rows, 64 columns."""
    low, high = (-(1 << (stored - 1)), 1 << (stored - 1)) if signed else (0, 1 << stored)
    kind = np.dtype(f"{'i' if signed else 'u'}{1 if stored <= 8 else 2}")
    shape = (56, 64, 3) if colour else (56, 64)
    return np.random.default_rng(stored).integers(low, high, shape).astype(kind)


def dicom(pixels: px.Pixels, stored: int, photometric: str = "MONOCHROME2") -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = UID("2.25.1")
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = ComputedRadiographyImageStorage, "2.25.1"
    module = Dataset()
    module.PhotometricInterpretation, module.BitsStored = photometric, stored
    module.PixelRepresentation = int(pixels.dtype.kind == "i")
    px.attach(dataset, pixels, module)
    return dataset


def written(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def encapsulated(dataset: FileDataset, frame: bytes, syntax: UID) -> FileDataset:
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def in_syntax(dataset: FileDataset, syntax: UID) -> Dataset:
    """The data set as a reader gets it from a file of that transfer syntax."""
    if syntax == JPEGLosslessSV1:
        dataset = encapsulated(dataset, jpeg_lossless.encode(dataset.pixel_array, dataset.BitsStored), syntax)
    elif syntax in (RLELossless, JPEG2000Lossless):
        dataset.compress(syntax, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        dataset.PixelData = dataset.pixel_array.astype(dataset.pixel_array.dtype.newbyteorder(">")).tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
    return dcmread(io.BytesIO(written(dataset)))


@pytest.mark.parametrize("stored", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        RLELossless,
        JPEG2000Lossless,
        JPEGLosslessSV1,
    ],
)
def test_grey_images_of_every_depth_are_filled_at_native_depth_and_the_rest_is_bit_identical(
    syntax: UID, photometric: str, stored: int
) -> None:
    source = noise(stored)
    dataset = in_syntax(dicom(source, stored, photometric), syntax)
    decoded = px.decode_dicom(dataset, LIMIT)
    assert decoded.dtype == source.dtype
    assert np.array_equal(decoded, source)

    filled, fill = px.redact(decoded, BOXES, inverted=photometric == "MONOCHROME1")
    target = dicom(filled, stored, photometric)
    result = px.decode_dicom(dcmread(io.BytesIO(written(target))), LIMIT)
    covered = px.mask(source, BOXES)
    assert fill == (source[~covered].max() if photometric == "MONOCHROME1" else source[~covered].min())
    assert (result[covered] == fill).all()
    assert np.array_equal(result[~covered], source[~covered])
    assert (target.BitsStored, target.HighBit, target.BitsAllocated) == (stored, stored - 1, 8 * source.itemsize)
    assert px.proven(source, result, BOXES)


@pytest.mark.real
@pytest.mark.parametrize("stored", [8, 10, 12, 16])
@pytest.mark.parametrize("deviation", [0, 2])
def test_what_dcmtk_compressed_by_jpeg_ls_is_decoded(stored: int, deviation: int, tmp_path: Path, dcmtk: None) -> None:
    source = noise(stored)
    plain, coded = tmp_path / "plain.dcm", tmp_path / "coded.dcm"
    plain.write_bytes(written(dicom(source, stored)))
    how = ["--encode-nearlossless", "--max-deviation", str(deviation)] if deviation else ["--encode-lossless"]
    subprocess.run(["dcmcjpls", *how, plain, coded], check=True, timeout=60, capture_output=True)
    dataset = dcmread(coded)
    assert dataset.file_meta.TransferSyntaxUID == (JPEGLSNearLossless if deviation else JPEGLSLossless)
    decoded = px.decode_dicom(dataset, LIMIT)
    assert decoded.dtype == source.dtype
    difference = np.abs(decoded.astype(int) - source.astype(int))
    assert difference.max() <= deviation
    assert bool(difference.any()) == (deviation > 0)


def test_signed_pixels_keep_their_sign() -> None:
    source = noise(12, signed=True)
    decoded = px.decode_dicom(in_syntax(dicom(source, 12), RLELossless), LIMIT)
    assert np.array_equal(decoded, source)
    filled, fill = px.redact(decoded, BOXES)
    assert fill == source[~px.mask(source, BOXES)].min() < 0
    assert px.proven(source, filled, BOXES)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_colour_images_are_filled_in_every_channel(syntax: UID) -> None:
    source = noise(8, colour=True)
    dataset = in_syntax(dicom(source, 8, "RGB"), syntax)
    decoded = px.decode_dicom(dataset, LIMIT)
    assert np.array_equal(decoded, source)
    filled, fill = px.redact(decoded, BOXES)
    assert (filled[px.mask(source, BOXES)] == fill).all()
    target = dicom(filled, 8, "RGB")
    assert np.array_equal(px.decode_dicom(dcmread(io.BytesIO(written(target))), LIMIT), filled)


def test_a_jpeg_inside_a_dicom_file_is_decoded_as_its_stream_says() -> None:
    smooth = cv2.GaussianBlur(noise(8), (0, 0), 3)
    frame = simplejpeg.encode_jpeg(smooth[:, :, None], 90, "GRAY", "Gray")
    dataset = encapsulated(dicom(smooth, 8), frame, JPEGBaseline8Bit)
    decoded = px.decode_dicom(dcmread(io.BytesIO(written(dataset))), LIMIT)
    expected = simplejpeg.decode_jpeg(frame, "GRAY")[..., 0]
    assert np.abs(decoded.astype(int) - expected).max() <= 1  # the standard lets inverse transforms differ by one


@pytest.mark.real
@pytest.mark.parametrize("stored", [8, 12, 16])
def test_jpeg_ls_is_decoded_without_loss(stored: int, dcmtk: None, tmp_path: Path) -> None:
    source = noise(stored)
    (tmp_path / "plain.dcm").write_bytes(written(dicom(source, stored)))
    subprocess.run(
        ["dcmcjpls", "--encode-lossless", tmp_path / "plain.dcm", tmp_path / "ls.dcm"], check=True, capture_output=True
    )
    dataset = dcmread(tmp_path / "ls.dcm")
    assert dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.80"
    assert np.array_equal(px.decode_dicom(dataset, LIMIT), source)


def test_what_is_not_handled_is_unsupported() -> None:
    def refused(change: str, value: object, pixels: px.Pixels | None = None, stored: int = 12) -> None:
        dataset = dicom(noise(stored) if pixels is None else pixels, stored)
        setattr(dataset, change, value)
        with pytest.raises(px.Unsupported):
            px.decode_dicom(dataset, LIMIT)

    refused("NumberOfFrames", 2)
    refused("HighBit", 15)
    refused("BitsAllocated", 32)
    refused("PhotometricInterpretation", "PALETTE COLOR", noise(8), 8)
    refused("SamplesPerPixel", 2)
    deflated = dicom(noise(12), 12)
    deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with pytest.raises(px.Unsupported):
        px.decode_dicom(deflated, LIMIT)
    with pytest.raises(px.Unsupported):
        px.decode_dicom(dicom(noise(12), 12), 56 * 64 - 1)


def test_what_cannot_be_read_without_doubt_is_undecodable() -> None:
    no_rows = dicom(noise(12), 12)
    del no_rows.Rows
    cut = dicom(noise(12), 12)
    cut.PixelData = cut.PixelData[:-2]
    followed = dicom(noise(12), 12)
    followed.PixelData += b"Doe^Jane"
    torn = in_syntax(dicom(noise(12), 12), JPEG2000Lossless)
    torn.PixelData = torn.PixelData[: len(torn.PixelData) // 2]
    for dataset in (no_rows, cut, followed, torn):
        with pytest.raises(px.Undecodable):
            px.decode_dicom(dataset, LIMIT)


def test_a_retired_overlay_in_the_bits_above_the_stored_ones_does_not_pass() -> None:
    source = noise(12)
    with_overlay = source.copy()
    with_overlay[10:20, 10:40] |= 1 << 12
    try:
        decoded = px.decode_dicom(dicom(with_overlay, 12), LIMIT)
    except px.Undecodable:
        return
    assert np.array_equal(decoded, source)


def test_a_colour_picture_whose_only_colour_was_its_text_is_proven_as_well() -> None:
    source = np.repeat(noise(8)[..., None], 3, axis=2)
    source[4:10, 6:28] = (255, 0, 0)
    filled, _ = px.redact(source, BOXES)
    result = px.decode_picture(px.encode_png(filled), LIMIT)
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


def test_the_fill_is_a_value_that_the_image_has_so_that_its_window_stays() -> None:
    source = np.clip(noise(12), 700, 3000).astype(np.uint16)
    for inverted in (False, True):
        filled, _ = px.redact(source, BOXES, inverted=inverted)
        assert (filled.min(), filled.max()) == (700, 3000)


def test_an_image_that_is_all_text_is_filled_whole() -> None:
    filled, fill = px.redact(noise(12), [Box(0, 0, 64, 56)], inverted=True)
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
    decoded = px.decode_picture(data, LIMIT)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert decoded.shape == smooth.shape  # the orientation is not obeyed
    assert np.abs(decoded.astype(int) - expected).max() <= (0 if kind == "PNG" else 4)
    clean = px.encode_png(decoded)
    assert b"Doe" not in clean
    assert {name for name, _ in px.png_chunks(clean)} == {b"IHDR", b"IDAT", b"IEND"}
    assert np.array_equal(px.decode_picture(clean, LIMIT), decoded)


def test_a_png_of_16_bits_keeps_them() -> None:
    source = noise(16)
    assert np.array_equal(px.decode_picture(px.encode_png(source), LIMIT), source)


def test_three_equal_channels_become_one() -> None:
    grey = noise(8)
    assert np.array_equal(px.decode_picture(px.encode_png(np.stack([grey] * 3, axis=2)), LIMIT), grey)


def test_a_damaged_png_is_refused_where_libpng_would_guess() -> None:
    whole = px.encode_png(noise(8))
    position = whole.index(b"IDAT") + 40
    flipped = whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]
    for data in (flipped, whole[:-20], whole + b"tail"):
        assert px.png_chunks(data) == []
        with pytest.raises(px.Undecodable):
            px.decode_picture(data, LIMIT)


def test_a_png_that_inflates_to_more_than_it_announces_is_refused() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0)
    for raw in (bytes(50_000_000), bytes(16 * 17 - 1)):
        data = px.PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
        with pytest.raises(px.Undecodable):
            px.decode_picture(data, LIMIT)


def test_transparency_and_large_pictures_are_unsupported_and_a_torn_jpeg_undecodable() -> None:
    rgba = np.dstack([noise(8, colour=True), noise(8)])
    for data in (picture(rgba, "PNG"),):
        with pytest.raises(px.Unsupported):
            px.decode_picture(data, LIMIT)
    for kind in ("PNG", "JPEG"):
        with pytest.raises(px.Unsupported):
            px.decode_picture(picture(noise(8), kind), 56 * 64 - 1)
    whole = picture(noise(8), "JPEG")
    for data in (whole[:-300], whole[:3]):
        with pytest.raises(px.Undecodable):
            px.decode_picture(data, LIMIT)
