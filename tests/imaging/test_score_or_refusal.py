"""Whatever is done to a valid file: it gets the plain file's score, or a refusal with its patient."""

from __future__ import annotations

from functools import cache
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import uid

from edgerad.reasons import REASONS
from imaging.refusal import Unreadable
from serve.score import ImageScore, Scorer, open_scorer
from tests.imaging.files import PATIENT, chest, dataset, fragment_at, in_fragments, put, reread, written

MANY = settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
NEAR = 0.01


@cache
def scorer() -> Scorer:
    return open_scorer(verify=False)


def score(data: bytes) -> ImageScore | Unreadable:
    return scorer().score_bytes([data])[0]


@cache
def plain() -> float:
    found = score(written(dataset()))
    assert isinstance(found, ImageScore)
    return found.probability


@cache
def originals() -> dict[str, bytes]:
    """The plain chest in every family of transfer syntaxes."""
    pixels = chest()
    j2k = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", reversible=True, bitspersample=12)
    lossless = imagecodecs.jpeg_encode(pixels, lossless=True, predictor=1, bitspersample=12)
    extended = imagecodecs.jpeg_encode(pixels, level=98, bitspersample=12)
    ls = imagecodecs.jpegls_encode(pixels)
    rle = dataset()
    rle.compress(uid.RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    implicit = dataset()
    implicit.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
    return {
        "explicit": written(dataset()),
        "implicit": written(implicit),
        "rle": written(rle),
        "jpeg-2000": written(in_fragments(dataset(), uid.JPEG2000Lossless, j2k)),
        "jpeg-lossless": written(in_fragments(dataset(), uid.JPEGLosslessSV1, lossless)),
        "jpeg-extended": written(in_fragments(dataset(), uid.JPEGExtended12Bit, extended)),
        "jpeg-ls": written(in_fragments(dataset(), uid.JPEGLSLossless, ls)),
    }


COMPRESSED = ["rle", "jpeg-2000", "jpeg-lossless", "jpeg-extended", "jpeg-ls"]


def holds(data: bytes) -> ImageScore | Unreadable:
    """Assert what must be true of every outcome, and return it."""
    found = score(data)
    if isinstance(found, ImageScore):
        assert abs(found.probability - plain()) <= NEAR
    else:
        assert found.reason in REASONS
    assert found.header["PatientID"] == PATIENT
    return found


@pytest.mark.parametrize("kind", list(originals()))
def test_the_plain_file_scores(kind: str) -> None:
    assert isinstance(holds(originals()[kind]), ImageScore)


@pytest.mark.parametrize("kind", COMPRESSED)
@pytest.mark.parametrize("tail", [b"", b"\0" * 64, b"\xff" * 6, b"\xfe\xff\x0d\xe0\0\0\0\0", b"PADDING "])
def test_a_stream_without_its_delimiter_or_with_padding_scores(kind: str, tail: bytes) -> None:
    data = originals()[kind]
    at, length = fragment_at(data)
    assert isinstance(holds(data[: at + length] + tail), ImageScore)


@pytest.mark.parametrize("kind", COMPRESSED)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9", b"\xfe\xff\xdd\xe0\0\0\0\0"])
def test_a_stream_that_ends_early_is_truncated(kind: str, share: float, end: bytes) -> None:
    data = originals()[kind]
    at, length = fragment_at(data)
    found = holds(data[: at + int(length * share)] + end)
    assert isinstance(found, Unreadable)
    assert found.reason == "truncated"


def test_run_lengths_are_never_followed_beyond_the_data() -> None:
    """Segments whose offsets lie behind the end: a decoder that trusts them reads memory that is not its own."""
    data = originals()["rle"]
    at, length = fragment_at(data)
    for end in np.linspace(1, length - 2, 80).astype(int):
        found = holds(data[: at + int(end)])
        assert isinstance(found, Unreadable)
        assert found.reason == "truncated"


@pytest.mark.parametrize("kind", ["jpeg-2000", "jpeg-lossless", "jpeg-extended", "jpeg-ls"])
def test_a_stream_without_its_end_marker_scores_when_all_pixels_are_there(kind: str) -> None:
    data = originals()[kind]
    at, length = fragment_at(data)
    end = data.rindex(b"\xff\xd9", at, at + length)
    assert isinstance(holds(data[:end]), ImageScore)


@pytest.mark.parametrize("kind", COMPRESSED)
@pytest.mark.parametrize("padding", [b"\0" * 64, b"\xff" * 8, b"padding behind the codestream  "])
def test_padding_behind_the_codestream_changes_nothing(kind: str, padding: bytes) -> None:
    data = originals()[kind]
    at, length = fragment_at(data)
    made = reread(data)
    frame = data[at : at + length] + padding
    if kind != "rle":
        assert isinstance(holds(written(in_fragments(made, made.file_meta.TransferSyntaxUID, frame))), ImageScore)
    else:  # run lengths have no end of their own: what follows them is data
        holds(written(in_fragments(made, made.file_meta.TransferSyntaxUID, frame)))


@pytest.mark.parametrize("kind", ["jpeg-2000", "jpeg-lossless"])
def test_a_frame_in_several_fragments_scores(kind: str) -> None:
    from pydicom.encaps import encapsulate

    data = originals()[kind]
    at, length = fragment_at(data)
    made = reread(data)
    made.PixelData = encapsulate([data[at : at + length]], fragments_per_frame=7)
    assert isinstance(holds(written(made)), ImageScore)


ATTRIBUTES: dict[str, list[tuple[str, Any]]] = {
    "BitsAllocated": [("US", value) for value in (1, 8, 12, 16, 32, 0, None)],
    "BitsStored": [("US", value) for value in (8, 10, 11, 12, 13, 16, 17, None)] + [("LO", "twelve")],
    "HighBit": [("US", value) for value in (7, 9, 11, 12, 13, 15, 16, None)],
    "PixelRepresentation": [("US", value) for value in (0, 1, 2, None)],
    "SamplesPerPixel": [("US", value) for value in (1, 2, 3, None)],
    "NumberOfFrames": [("IS", value) for value in ("1", "2", "0", "")] + [("LO", "one")],
    "Rows": [("US", value) for value in (0, 1, 182, 184, 240, 65535, None)],
    "Columns": [("US", value) for value in (239, 241, 480, None)],
    "PhotometricInterpretation": [("CS", value) for value in ("monochrome2", "MONOCHROME2 ", "RGB", "CMYK", "", "X")],
    "RescaleSlope": [("DS", value) for value in ("1", "2.5", "0", "", None)] + [("LO", "one"), ("FD", 3.0)],
    "RescaleIntercept": [("DS", value) for value in ("0", "-1024", "")] + [("LO", "none")],
    "WindowCenter": [("DS", value) for value in ("2048", "", "nan")] + [("LO", "middle")],
    "WindowWidth": [("DS", value) for value in ("4096", "9000", "1", "0", "-1", "")],
    "VOILUTFunction": [("CS", value) for value in ("LINEAR", "LINEAR_EXACT", "", "OTHER")],
    "PixelPaddingValue": [("US", value) for value in (None, 60000)] + [("SS", -2000), ("LO", "none")],
    "PixelPaddingRangeLimit": [("US", value) for value in (None, 60001)],
    "PresentationLUTShape": [("CS", value) for value in ("IDENTITY", "", "SQUARE")],
    "ModalityLUTSequence": [("SQ", []), ("LO", "none")],
    "VOILUTSequence": [("SQ", [])],
    "Modality": [("CS", value) for value in ("DR", "XR", "RG", "", "OT")],
    "PlanarConfiguration": [("US", value) for value in (0, 1, 7, None)],
    "OverlayBitPosition": [],
}


@st.composite
def damaged(draw: Any) -> bytes:
    """A valid file with some of its pixel-related attributes and its tail changed."""
    data = originals()[draw(st.sampled_from(list(originals())))]
    made = reread(data)
    for keyword in draw(st.lists(st.sampled_from([name for name in ATTRIBUTES if ATTRIBUTES[name]]), max_size=2)):
        vr, value = draw(st.sampled_from(ATTRIBUTES[keyword]))
        put(made, keyword, vr, value)
    changed = written(made)
    pixels = changed.index(b"\xe0\x7f\x10\x00")
    tail = draw(st.sampled_from(["whole", "cut", "padded", "overwritten"]))
    if tail == "cut":
        changed = changed[: draw(st.integers(pixels + 1, len(changed)))]
    elif tail == "padded":
        changed += draw(st.binary(max_size=40))
    elif tail == "overwritten":
        last = draw(st.binary(min_size=1, max_size=12))
        changed = changed[: -len(last)] + last
    return bytes(changed)


@MANY
@given(damaged())
def test_every_outcome_is_the_plain_score_or_a_refusal_with_its_patient(data: bytes) -> None:
    holds(data)


def test_depths_of_the_reports() -> None:
    """The classes of ../shared/data/reports, written anew: each scores as the plain file."""
    left = dataset(chest(14) << 2, 14, HighBit=15)
    deeper = reread(originals()["jpeg-2000"])
    deeper.BitsStored, deeper.HighBit = 10, 9
    shallow = dataset(chest(8).astype(np.uint8), 8)
    for made in (left, deeper, shallow):
        assert isinstance(holds(written(made)), ImageScore)


def test_for_processing_has_a_reason_of_its_own_unless_the_bundle_was_validated_for_it() -> None:
    made = dataset()
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForProcessing
    found = score(written(made))
    assert isinstance(found, Unreadable)
    assert (found.reason, found.header["PatientID"]) == ("for-processing", PATIENT)
    from dataclasses import replace

    bundle = scorer().bundle
    validated = replace(bundle, manifest=bundle.manifest.model_copy(update={"for_processing": True}))
    raw = Scorer(validated, scorer().runtime).score_bytes([written(made)])[0]
    assert isinstance(raw, ImageScore)
