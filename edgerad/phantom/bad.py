"""Inputs that must be refused: broken files, other kinds of image, images of other things."""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from pydicom import dcmread, uid

from edgerad.phantom.canvas import Canvas, smooth, tube
from edgerad.phantom.dicom import to_dicom
from edgerad.phantom.files import to_jpeg
from edgerad.phantom.render import render
from edgerad.phantom.sample import random_spec
from edgerad.phantom.spec import Phantom


@dataclass(frozen=True, slots=True)
class BadInput:
    """A file that no score must come of, and why."""

    file: str
    kind: str
    decodable: bool
    """Whether a decoder yields pixels: then only looking at them tells that they are no chest."""


def bad_inputs(directory: Path, seed: int = 0) -> list[BadInput]:
    """Write one file of each kind into the directory; return what is what."""
    directory.mkdir(parents=True, exist_ok=True)
    good = render(random_spec((seed, 0xBAD), body="adult", size=512))
    whole = to_dicom(good)
    jpeg = to_jpeg(good)
    blank = replace(good, pixels=np.full_like(good.pixels, 1 << (good.spec.bits - 1)))
    hand = render_hand(seed)
    static = np.random.default_rng(seed).integers(0, 256, (512, 512), np.uint8)
    files: list[tuple[str, str, bool, bytes]] = [
        ("truncated.dcm", "DICOM cut off in the pixel data", False, whole[: len(whole) * 2 // 3]),
        ("truncated-header.dcm", "DICOM cut off in the header", False, whole[:700]),
        ("ct.dcm", "CT Image Storage", True, ct_slice(seed)),
        ("empty.dcm", "no bytes", False, b""),
        ("empty.jpeg", "no bytes", False, b""),
        ("text.dcm", "text named as DICOM", False, b"Chest PA: no acute finding.\n" * 40),
        ("text.jpeg", "text named as JPEG", False, b"Chest PA: no acute finding.\n" * 40),
        ("truncated.jpeg", "JPEG cut off", False, jpeg[: len(jpeg) // 3]),
        ("blank.dcm", "DICOM of one grey value", True, to_dicom(blank)),
        ("blank.jpeg", "JPEG of one grey value", True, to_jpeg(blank)),
        ("black.jpeg", "JPEG, all black", True, _grey_jpeg(np.zeros((700, 900), np.uint8))),
        ("noise.jpeg", "JPEG of noise", True, _grey_jpeg(static)),
        ("huge.jpeg", "JPEG of 100 megapixels", True, huge_jpeg()),
        ("hand.jpeg", "a hand", True, to_jpeg(hand)),
        ("photo.jpeg", "a coloured picture", True, _color_jpeg()),
    ]  # fmt: skip
    for name, _, _, data in files:
        (directory / name).write_bytes(data)
    return [BadInput(name, kind, decodable) for name, kind, decodable, _ in files]


def huge_jpeg(side: int = 10_000) -> bytes:
    """Return a JPEG of side x side pixels, 100 megapixels unless told, that is small as a file.

    A decoder that trusts the header would take 100 MB a channel for it.
    """
    gradient = np.linspace(20, 230, side, dtype=np.float32).astype(np.uint8)
    return _grey_jpeg(np.broadcast_to(gradient[None, :], (side, side)))


def ct_slice(seed: int = 0) -> bytes:
    """Return a CT Image Storage file: an axial slice of a trunk in Hounsfield units."""
    source = dcmread(BytesIO(to_dicom(render(random_spec((seed, 0xC7), body="adult", size=256)))))
    side = 256
    y, x = (np.mgrid[0:side, 0:side] - side / 2) / (side / 2)
    slice_hu = np.full((side, side), -1000, np.int16)
    slice_hu[(x / 0.85) ** 2 + (y / 0.6) ** 2 < 1] = 40
    for middle in (-0.4, 0.4):
        slice_hu[((x - middle) / 0.3) ** 2 + (y / 0.42) ** 2 < 1] = -850
    slice_hu[(x / 0.12) ** 2 + ((y - 0.42) / 0.12) ** 2 < 1] = 400
    for keyword in (
        "ViewPosition",
        "ImagerPixelSpacing",
        "PresentationLUTShape",
        "PresentationIntentType",
        "PlateType",
    ):
        if keyword in source:
            delattr(source, keyword)
    source.SOPClassUID = source.file_meta.MediaStorageSOPClassUID = uid.CTImageStorage
    source.Modality = "CT"
    source.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    source.PatientPosition, source.AcquisitionNumber = "HFS", 1
    source.FrameOfReferenceUID, source.PositionReferenceIndicator = source.SeriesInstanceUID + ".1", ""
    source.Rows = source.Columns = side
    source.PhotometricInterpretation = "MONOCHROME2"
    source.BitsStored, source.HighBit, source.PixelRepresentation = 16, 15, 1
    source.RescaleIntercept, source.RescaleSlope, source.RescaleType = "0", "1", "HU"
    source.WindowCenter, source.WindowWidth = "40", "400"
    source.ImagePositionPatient, source.ImageOrientationPatient = [-180, -180, 0], [1, 0, 0, 0, 1, 0]
    source.PixelSpacing, source.SliceThickness = [1.4, 1.4], "5"
    source.PixelData = slice_hu.astype("<i2").tobytes()
    source["PixelData"].VR = "OW"
    buffer = BytesIO()
    source.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def render_hand(seed: int = 0) -> Phantom:
    """Return a radiograph of a hand: a palm, five fingers and their bones, on the dark film beside it."""
    rng = np.random.default_rng((seed, 0x4A))
    base = random_spec((seed, 0x4B), finding="normal", size=800)
    spec = replace(base, rows=800, cols=640, bits=12, marker=None, text=None, collimation=0.0)
    canvas = Canvas(spec.rows, spec.cols, 620.0, (320.0, 470.0), float(rng.uniform(-8, 8)))
    flesh, bone = canvas.blank(), canvas.blank()
    palm = smooth(
        np.array([[-0.2, 0.0], [0.2, 0.0], [0.17, 0.3], [0.12, 0.6], [-0.12, 0.6], [-0.16, 0.3]]), closed=True
    )
    canvas.fill(flesh, [palm])
    tips = ((-0.44, 0.02), (-0.24, -0.42), (-0.05, -0.56), (0.12, -0.50), (0.27, -0.32))
    roots = ((-0.06, 0.34), (-0.10, 0.32), (-0.02, 0.32), (0.05, 0.32), (0.11, 0.33))
    for tip, root in zip(tips, roots, strict=True):
        start, end = np.array(root), np.array(tip)
        canvas.stroke(flesh, np.stack([start, end]), 0.11)
        for near, far in ((0.0, 0.42), (0.45, 0.68), (0.70, 0.85), (0.87, 1.0)):
            axis = smooth(np.array([start + (end - start) * t for t in (near, 0.5 * (near + far), far)]))
            half = np.interp(np.linspace(0, 1, len(axis)), [0, 0.2, 0.5, 0.8, 1], [0.027, 0.02, 0.015, 0.02, 0.024])
            canvas.fill(bone, [tube(axis, half)])
    image = 0.30 * canvas.soften(flesh, 0.03) + 0.45 * canvas.soften(bone, 0.004) + 0.03
    image += rng.normal(0, 0.012, image.shape).astype(np.float32)
    pixels: NDArray[np.uint16] = (np.clip(image, 0, 1) * 4095).astype(np.uint16)
    return Phantom(spec, pixels, np.zeros(pixels.shape, np.bool_), None, None, ())


def _grey_jpeg(image: NDArray[np.uint8]) -> bytes:
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(image)[:, :, None], 60, "GRAY", "Gray")
    return data


def _color_jpeg() -> bytes:
    y, x = np.mgrid[0:480, 0:640]
    picture = np.stack([x * 255 // 639, y * 255 // 479, 255 - x * 255 // 639], 2).astype(np.uint8)
    cv2.circle(picture, (320, 240), 120, (250, 210, 40), -1)
    data: bytes = simplejpeg.encode_jpeg(picture, 85, "RGB", "420")
    return data
