"""One image in; out comes a clean copy that was verified, or the reason why there is none."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)

from edgerad import __version__
from ship import headers, text
from ship import pixels as px
from ship.boxes import Box, neighbourhoods
from ship.identity import Identity, identity_of
from ship.keys import SiteKey
from ship.verify import NotClean, verify_dicom, verify_png

DICOM, PNG = "application/dicom", "image/png"
_ROUNDS = 3
_REACH = 64
"""Pixels around a filled box in which the detector's answer can differ from its first one."""
_READABLE = 0.3
"""A reading with less confidence is noise, even where it resembles a value."""


class Reason(StrEnum):
    """Why an image stays at the edge."""

    KEY_MISSING = "key-missing"
    UNREADABLE = "unreadable"
    UNSUPPORTED = "unsupported"
    SOP_CLASS = "sop-class"
    PATIENT_ID_MISSING = "patient-id-missing"
    UNDECODABLE = "undecodable"
    TEXT_ENGINE = "text-engine-failed"
    TOO_MUCH_TEXT = "too-much-text"
    ENGINES_DISAGREE = "engines-disagree"
    BURNED_IN_NOT_FOUND = "burned-in-text-not-found"
    NOT_VERIFIED = "not-verified"
    INTERNAL = "internal-error"


@dataclass(frozen=True, slots=True)
class Options:
    """What a site may choose."""

    sop_classes: frozenset[str] = frozenset((
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
        DigitalXRayImageStorageForProcessing,
        SecondaryCaptureImageStorage,
    ))  # fmt: skip
    max_pixels: int = 64_000_000
    max_redacted: float = 0.1
    """Share of the image: beyond it the text is no annotation, and what is left teaches little."""
    keep_characteristics: bool = False
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Clean:
    """A verified copy and the record of how it came to be; `patient` is a pseudonym that groups images."""

    data: bytes = field(repr=False)
    media_type: str
    patient: str
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Quarantined:
    """The image stays: a reason, a detail for staff without any value of the patient, and the boxes found so far."""

    reason: Reason
    detail: str
    boxes: tuple[Box, ...]
    record: dict[str, Any]


class _Stop(Exception):
    def __init__(self, reason: Reason, detail: str, boxes: Sequence[Box] = ()) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.boxes = reason, detail, tuple(boxes)


def deidentify(
    data: bytes, key: SiteKey | None, options: Options | None = None, *, hints: Iterable[str] = ()
) -> Clean | Quarantined:
    """De-identify a DICOM object, JPEG or PNG; `hints` are texts (file name, object key) that may name the patient.

    Never raises on any input: what cannot be proven clean is quarantined. A DICOM object stays one (Explicit VR Little
    Endian); a picture becomes a PNG made of its pixels alone.
    """
    options = options or Options()
    record: dict[str, Any] = {"version": 1, "software": f"edgerad {__version__}", "verified": False}
    try:
        clean, media_type, patient = _made(data, key, options, tuple(hints), record)
    except _Stop as stop:
        return _quarantined(stop, record)
    except Exception as error:  # noqa: BLE001 - fail closed, whatever it was; the text of an exception may quote a value
        return _quarantined(_Stop(Reason.INTERNAL, f"{type(error).__name__} was raised"), record)
    record |= {"verified": True, "output": hashlib.sha256(clean).hexdigest(), "media_type": media_type}
    return Clean(clean, media_type, patient, record)


def _made(
    data: bytes, key: SiteKey | None, options: Options, hints: tuple[str, ...], record: dict[str, Any]
) -> tuple[bytes, str, str]:
    if key is None:
        raise _Stop(Reason.KEY_MISSING, "the site secret is missing: set ship.site_secret")
    record["key_id"] = key.key_id
    source_digest = hashlib.sha256(data).digest()
    # Keyed: a bare digest would let whoever holds the original recognise it.
    record["source"] = key.digest("source", "", source_digest).hex()
    if data[128:132] == b"DICM":
        return _dicom(data, key, options, hints, record)
    if data[:3] == b"\xff\xd8\xff" or data.startswith(px.PNG):
        clean, media_type = _picture(data, options, hints, record)
        # Nothing says whose picture it is: each one is a patient of its own.
        return clean, media_type, key.identifier("picture", "", source_digest.hex())
    raise _Stop(Reason.UNREADABLE, "neither a DICOM file nor a JPEG or PNG")


def _quarantined(stop: _Stop, record: dict[str, Any]) -> Quarantined:
    record |= {"reason": stop.reason.value, "detail": stop.detail, "boxes": [box.as_list() for box in stop.boxes]}
    return Quarantined(stop.reason, stop.detail, stop.boxes, record)


def _dicom(
    data: bytes, key: SiteKey, options: Options, hints: tuple[str, ...], record: dict[str, Any]
) -> tuple[bytes, str, str]:
    source = _parse(data)
    if str(source.get("SOPClassUID", "")) not in options.sop_classes:
        raise _Stop(Reason.SOP_CLASS, "this kind of DICOM object is not shipped")
    try:
        header = headers.clean_header(source, key, keep_characteristics=options.keep_characteristics)
    except headers.NoPatient:
        raise _Stop(Reason.PATIENT_ID_MISSING, "PatientID (0010,0020) is missing") from None
    pixels = _decoded(lambda: px.decode_dicom(source, options.max_pixels))
    identity = identity_of(source, hints)
    inverted = str(source.PhotometricInterpretation) == "MONOCHROME1"
    redacted, boxes = _redact_text(pixels, identity, options, record, inverted=inverted)
    if str(source.get("BurnedInAnnotation", "")).strip().upper() == "YES" and not boxes:
        raise _Stop(Reason.BURNED_IN_NOT_FOUND, "BurnedInAnnotation (0028,0301) is YES, and no text was found")
    target = header.dataset
    px.attach(target, redacted, source)
    if source.file_meta.TransferSyntaxUID in px.LOSSY:
        target.LossyImageCompression = "01"
    if boxes and target.get("ImageType"):
        # PS3.3 C.7.6.1.1.2: pixels that were changed make a derived image.
        target.ImageType = ["DERIVED", *list(target.ImageType)[1:]]
    headers.stamp(target, keep_characteristics=options.keep_characteristics)
    clean = _written(target)
    record["header"] = dict(sorted(header.counts.items()))
    try:
        verify_dicom(clean, pixels, boxes, identity, options.max_pixels)
    except NotClean as finding:
        raise _Stop(Reason.NOT_VERIFIED, str(finding), boxes) from None
    return clean, DICOM, str(target.PatientID)


def _parse(data: bytes) -> Dataset:
    try:
        with warnings.catch_warnings():
            # The allow-list drops odd values one by one; what decides the pixels is checked when they are decoded.
            warnings.simplefilter("ignore")
            return dcmread(io.BytesIO(data))
    except Exception as error:  # noqa: BLE001 - pydicom raises what its parsing meets
        raise _Stop(Reason.UNREADABLE, f"parsing raised {type(error).__name__}") from None


def _picture(data: bytes, options: Options, hints: tuple[str, ...], record: dict[str, Any]) -> tuple[bytes, str]:
    pixels = _decoded(lambda: px.decode_picture(data, options.max_pixels))
    identity = identity_of(Dataset(), hints)
    redacted, boxes = _redact_text(pixels, identity, options, record, inverted=False)
    clean = px.encode_png(redacted)
    try:
        verify_png(clean, pixels, boxes, identity, options.max_pixels)
    except NotClean as finding:
        raise _Stop(Reason.NOT_VERIFIED, str(finding), boxes) from None
    return clean, PNG


def _decoded(decode: Any) -> px.Pixels:
    try:
        return decode()  # type: ignore[no-any-return]
    except px.Undecodable as error:
        raise _Stop(Reason.UNDECODABLE, str(error)) from None
    except px.Unsupported as error:
        raise _Stop(Reason.UNSUPPORTED, str(error)) from None


def _written(dataset: Dataset) -> bytes:
    dataset.file_meta = headers.file_meta(dataset)
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _redact_text(
    pixels: px.Pixels, identity: Identity, options: Options, record: dict[str, Any], *, inverted: bool
) -> tuple[px.Pixels, list[Box]]:
    try:
        return _text_gone(pixels, identity, options, record, inverted)
    except _Stop:
        raise
    except Exception as error:  # noqa: BLE001 - an engine that failed has found nothing, which proves nothing
        raise _Stop(Reason.TEXT_ENGINE, f"{type(error).__name__} was raised") from None


def _text_gone(
    pixels: px.Pixels, identity: Identity, options: Options, record: dict[str, Any], inverted: bool
) -> tuple[px.Pixels, list[Box]]:
    """Find text, fill it, read again on another view, until nothing is read that would have to be filled."""
    shape = (pixels.shape[0], pixels.shape[1])
    v6, v4 = text.engines(options.threads)
    record["text_engines"] = [v6.version, v4.version]
    plain = text.plain_view(pixels)
    lines = text.read_lines(plain, v6) + text.read_lines(plain, v4) + text.read_lines(text.flat_view(pixels), v6)
    chosen = text.to_redact(lines, shape, is_known=identity.resembles)
    boxes: list[Box] = _boxes(chosen, shape)
    if _disagree(chosen, lines, identity):
        raise _Stop(Reason.ENGINES_DISAGREE, "the engines read a value of the patient differently", boxes)
    for round_ in range(1, _ROUNDS + 1):
        boxes = sorted({*boxes, *_boxes(chosen, shape)})
        share = float(px.mask(pixels, boxes).mean())
        record |= {"boxes": [box.as_list() for box in boxes], "redacted_share": round(share, 6), "rounds": round_}
        if share > options.max_redacted:
            raise _Stop(Reason.TOO_MUCH_TEXT, f"text covers more than {options.max_redacted:.0%} of the image", boxes)
        redacted, record["fill"] = px.redact(pixels, boxes, inverted=inverted)
        remaining = text.read_lines(text.flat_view(redacted), v4)
        again = text.plain_view(redacted)
        for region in neighbourhoods(boxes, _REACH):
            remaining += text.read_lines(again, v6, region=region.clipped(*shape))
        chosen = text.to_redact(remaining, shape, is_known=identity.resembles)
        if chosen:
            continue
        if any(line.score >= _READABLE and identity.resembles(line.text) for line in remaining):
            raise _Stop(Reason.NOT_VERIFIED, "one of the patient's values can still be read", boxes)
        return redacted, boxes
    raise _Stop(Reason.NOT_VERIFIED, f"text is still read after {_ROUNDS} rounds", boxes)


def _boxes(lines: Iterable[text.Line], shape: tuple[int, int]) -> list[Box]:
    return [line.box.grown(text.PADDING).clipped(*shape) for line in lines]


def _disagree(chosen: Sequence[text.Line], lines: Sequence[text.Line], identity: Identity) -> bool:
    """Whether at one place one engine surely reads a value of the patient and another surely reads something else."""
    for line in chosen:
        if line.score < text.MIN_SCORE or not identity.resembles(line.text):
            continue
        for other in lines:
            same_place = other.engine != line.engine and _share(line.box, other.box) > 0.7
            sure = other.score >= text.MIN_SCORE and text.alphanumerics(other.text) >= text.MIN_ALPHANUMERICS
            if same_place and sure and not identity.resembles(other.text):
                return True
    return False


def _share(a: Box, b: Box) -> float:
    """Intersection over union."""
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    if width <= 0 or height <= 0:
        return 0.0
    inner = width * height
    return inner / ((a.x1 - a.x0) * (a.y1 - a.y0) + (b.x1 - b.x0) * (b.y1 - b.y0) - inner)
