"""Whatever is done to a file, reading it gives an image or a refusal, never another error and never patient data."""

from __future__ import annotations

import io
import logging
import warnings
from functools import cache

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement

from edgerad.phantom import SYNTAXES, identity, random_spec, render, to_dicom, to_jpeg
from edgerad.reasons import REASONS
from imaging.limits import Limits
from imaging.refusal import Unreadable
from serve.decode import DecodedImage, decode

PHANTOM = render(random_spec(21, finding="normal", size=190))
LIMITS = Limits(max_pixels=1_000_000, max_bytes=4 << 20)
FEW = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@cache
def originals() -> dict[str, bytes]:
    """One small file of each kind."""
    grey = (PHANTOM.pixels >> (PHANTOM.spec.bits - 8)).astype(np.uint8)
    return {
        "jpeg": to_jpeg(PHANTOM),
        "colour jpeg": to_jpeg(PHANTOM, color=True),
        "png": cv2.imencode(".png", grey)[1].tobytes(),
        **{syntax: to_dicom(PHANTOM, syntax, private=True) for syntax in SYNTAXES},
    }


@cache
def secrets() -> tuple[str, ...]:
    """What of the fake patient stands in the header and must stand nowhere else."""
    person, visit = identity(PHANTOM.spec)
    return (person.patient_id, person.roman, visit.accession, f"{person.birth_date:%Y%m%d}", visit.referrer)


def read(data: bytes) -> DecodedImage | Unreadable:
    """Decode; any error but a refusal fails the test, and so does a text that quotes the patient."""
    image: DecodedImage | Unreadable
    try:
        image = decode(data, LIMITS)
    except Unreadable as refusal:
        image = refusal
    if isinstance(image, Unreadable):
        assert image.reason in REASONS
        assert not any(secret in str(image) for secret in secrets()), "a refusal ends up in logs"
        assert image.__cause__ is None
        assert image.__context__ is None or image.__suppress_context__
        return image
    assert image.pixels.ndim == 2
    assert image.pixels.dtype in (np.uint8, np.uint16)
    assert min(image.rows, image.columns) >= LIMITS.min_side
    return image


@pytest.mark.parametrize("kind", list(originals()))
def test_the_undamaged_file_is_read(kind: str) -> None:
    assert isinstance(read(originals()[kind]), DecodedImage)


@pytest.mark.parametrize("kind", list(originals()))
def test_a_file_cut_anywhere_is_refused(kind: str) -> None:
    data = originals()[kind]
    ends = sorted({*range(0, min(len(data), 1600), 13), *np.linspace(1600, len(data) - 1, 60).astype(int).tolist()})
    for end in ends:
        seen = read(data[:end])
        if isinstance(seen, DecodedImage):  # only what follows the pixels may lack
            rest = data[end:]
            assert len(rest) <= 12, f"{kind} without its last {len(rest)} of {len(data)} bytes gave an image"
        elif end > 1600:
            assert seen.reason in {"truncated", "no-pixels", "corrupt"}


@FEW
@given(kind=st.sampled_from(list(originals())), damage=st.data())
def test_flipped_bytes_are_survived(kind: str, damage: st.DataObject) -> None:
    data = bytearray(originals()[kind])
    places = damage.draw(st.lists(st.integers(0, min(len(data) - 1, 3000)), min_size=1, max_size=8))
    for place in places:
        data[place] = damage.draw(st.integers(0, 255))
    read(bytes(data))


@FEW
@given(kind=st.sampled_from(list(originals())), damage=st.data())
def test_bytes_left_out_or_put_in_are_survived(kind: str, damage: st.DataObject) -> None:
    data = originals()[kind]
    at = damage.draw(st.integers(0, len(data)))
    gap = damage.draw(st.integers(0, 300))
    read(data[:at] + damage.draw(st.binary(max_size=40)) + data[at + gap :])


@FEW
@given(st.binary(max_size=400))
def test_arbitrary_bytes_behind_each_signature_are_survived(rest: bytes) -> None:
    for start in (b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"\0" * 128 + b"DICM", b"\x08\x00\x05\x00"):
        read(start + rest)


ODD = [
    ("US", "Rows", 0), ("US", "Rows", 65535), ("US", "Columns", 1), ("US", "BitsAllocated", 7),
    ("US", "BitsAllocated", 64), ("US", "BitsStored", 0), ("US", "BitsStored", 17), ("US", "HighBit", 3),
    ("US", "SamplesPerPixel", 0),
    ("US", "SamplesPerPixel", 3), ("US", "SamplesPerPixel", 200), ("US", "PixelRepresentation", 7),
    ("CS", "PhotometricInterpretation", "JANE^DOE"), ("CS", "PhotometricInterpretation", "PALETTE COLOR"),
    ("LO", "WindowCenter", "JANE DOE"), ("DS", "WindowWidth", "0"), ("LO", "RescaleSlope", "JANE"),
    ("DS", "RescaleSlope", "1e308"), ("LO", "NumberOfFrames", "JANE"), ("IS", "NumberOfFrames", "0"),
    ("US", "PixelPaddingValue", 0), ("CS", "PresentationLUTShape", "JANE"), ("UI", "SOPClassUID", "1.2.3.4.JANE"),
    ("LO", "Modality", "JANE^DOE"), ("LO", "BodyPartExamined", "JANE ARMSTRONG"), ("LO", "ViewPosition", "JANE"),
    ("PN", "Rows", "JANE^DOE"), ("OB", "WindowCenter", b"JANE"),
]  # fmt: skip


@pytest.mark.parametrize(("vr", "keyword", "value"), ODD, ids=[f"{row[1]}-{row[2]!r}"[:40] for row in ODD])
@pytest.mark.parametrize("syntax", ["explicit", "rle", "jpeg2000"])
def test_values_that_make_no_sense_are_survived_and_not_quoted(
    syntax: str, vr: str, keyword: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = dcmread(io.BytesIO(originals()[syntax]))
    tag = tag_for_keyword(keyword)
    assert tag is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset[tag] = DataElement(tag, vr, value, validation_mode=0)
        out = io.BytesIO()
        dataset.save_as(out)
    with caplog.at_level(logging.DEBUG):
        seen = read(out.getvalue())
    assert "JANE" not in str(seen) if isinstance(seen, Unreadable) else True
    assert "JANE" not in caplog.text
