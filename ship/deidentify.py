"""One image in; out comes a clean copy that was verified, or the reason why there is none."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydicom import Dataset, dcmwrite
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)

from edgerad import __version__
from imaging.dicom import is_dicom
from imaging.limits import Limits
from imaging.part10 import DicomFile, read_dicom
from imaging.refusal import Unreadable
from ship import headers, image_module, redaction
from ship import pixels as px
from ship.boxes import Box
from ship.header_rules import DEVICE, Action
from ship.identity import Identity, identity_of
from ship.keys import SiteKey
from ship.release import Release, as_record, fill_by_hand
from ship.tone import PLAIN, Tone
from ship.verify import NotClean, scan, verify_dicom, verify_png

DICOM, PNG = "application/dicom", "image/png"


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
    TEXT_LEFT = "text-left"
    OBLIQUE = "oblique-text"
    NOT_VERIFIED = "not-verified"
    INTERNAL = "internal-error"
    CRASHED = "engine-crashed"
    HUNG = "engine-hung"


_DOUBTS: dict[redaction.Doubt, Reason] = {
    "engine-failed": Reason.TEXT_ENGINE,
    "too-much-text": Reason.TOO_MUCH_TEXT,
    "engines-disagree": Reason.ENGINES_DISAGREE,
    "still-read": Reason.NOT_VERIFIED,
    "text-left": Reason.TEXT_LEFT,
    "oblique-text": Reason.OBLIQUE,
}


_UNSUPPORTED = frozenset(("unsupported", "multi-frame", "too-large", "too-small"))
"""Refusals of `imaging` for a kind of image; the others are of a file that is damaged or contradicts itself."""


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
    keep_device: bool = False
    threads: int = 1

    @property
    def limits(self) -> Limits:
        """What is refused before anything is decoded; images are decoded whole."""
        return Limits(max_pixels=self.max_pixels, min_side=1, reduce_to=None)


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


@dataclass(frozen=True, slots=True)
class _Case:
    """What comes with one image besides its bytes."""

    hints: tuple[str, ...]
    release: Release | None


class _Stop(Exception):
    def __init__(self, reason: Reason, detail: str, boxes: Iterable[Box] = ()) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.boxes = reason, detail, tuple(boxes)


def deidentify(
    data: bytes,
    key: SiteKey | None,
    options: Options | None = None,
    *,
    hints: Iterable[str] = (),
    release: Release | None = None,
) -> Clean | Quarantined:
    """De-identify a DICOM object, JPEG or PNG; `hints` are texts (file name, object key) that may name the patient.

    Never raises on any input: what cannot be proven clean is quarantined. A DICOM object stays one (Explicit VR Little
    Endian); a picture becomes a PNG made of its pixels alone. With a `release` the boxes are a person's, and everything
    is verified as without.
    """
    options = options or Options()
    record: dict[str, Any] = {"version": 1, "software": f"edgerad {__version__}", "verified": False}
    try:
        clean, media_type, patient = _made(data, key, options, _Case(tuple(hints), release), record)
    except _Stop as stop:
        return _quarantined(stop, record)
    except Exception as error:  # noqa: BLE001 - fail closed; the text of an exception may quote a value
        return _quarantined(_Stop(Reason.INTERNAL, f"{type(error).__name__} was raised"), record)
    record |= {"verified": True, "output": hashlib.sha256(clean).hexdigest(), "media_type": media_type}
    return Clean(clean, media_type, patient, record)


def _made(
    data: bytes, key: SiteKey | None, options: Options, case: _Case, record: dict[str, Any]
) -> tuple[bytes, str, str]:
    if key is None:
        raise _Stop(Reason.KEY_MISSING, "the site secret is missing: set ship.site_secret")
    record["key_id"] = key.key_id
    source_digest = hashlib.sha256(data).digest()
    # Keyed: a bare digest would let whoever holds the original recognise it.
    record["source"] = key.digest("source", "", source_digest).hex()
    if is_dicom(data):
        return _dicom(data, key, options, case, record)
    if data[:3] == b"\xff\xd8\xff" or data.startswith(px.PNG):
        clean, media_type = _picture(data, options, case, record)
        # Nothing says whose picture it is: each one is a patient of its own.
        return clean, media_type, key.identifier("picture", "", source_digest.hex())
    raise _Stop(Reason.UNREADABLE, "neither a DICOM file nor a JPEG or PNG")


def _quarantined(stop: _Stop, record: dict[str, Any]) -> Quarantined:
    record |= {"reason": stop.reason.value, "detail": stop.detail, "boxes": [box.as_list() for box in stop.boxes]}
    return Quarantined(stop.reason, stop.detail, stop.boxes, record)


def _dicom(data: bytes, key: SiteKey, options: Options, case: _Case, record: dict[str, Any]) -> tuple[bytes, str, str]:
    with _refusals(Reason.UNREADABLE):
        file = read_dicom(data, options.limits)
    source = file.dataset
    if not source.get("SOPClassUID"):
        raise _Stop(Reason.SOP_CLASS, "SOPClassUID (0008,0016) is missing: the file may be cut")
    if str(source.get("SOPClassUID", "")) not in options.sop_classes:
        raise _Stop(Reason.SOP_CLASS, "this kind of DICOM object is not shipped")
    if not source.get("SOPInstanceUID"):
        raise _Stop(Reason.UNREADABLE, "SOPInstanceUID (0008,0018) is missing")
    try:
        header = headers.clean_header(
            source, key, keep_characteristics=options.keep_characteristics, keep_device=options.keep_device
        )
    except headers.NoPatient:
        raise _Stop(Reason.PATIENT_ID_MISSING, "PatientID (0010,0020) is missing") from None
    with _refusals(Reason.UNDECODABLE):
        found = px.decode_dicom(file, options.limits)
    identity = identity_of(source, case.hints, besides=DEVICE if options.keep_device else ())
    redacted, boxes = _redact_text(found.pixels, identity, options, case.release, record, found.tone)
    if str(source.get("BurnedInAnnotation", "")).strip().upper() == "YES" and not boxes and case.release is None:
        raise _Stop(Reason.BURNED_IN_NOT_FOUND, "BurnedInAnnotation (0028,0301) is YES, and no text was found")
    target = header.dataset
    if options.keep_device:
        _drop_telling_labels(target, identity)
    with _refusals(Reason.UNDECODABLE):
        image_module.attach(target, redacted, found, source)
    if file.syntax in px.LOSSY:
        _say_lossy(target, file, redacted.nbytes)
    if boxes and target.get("ImageType"):
        # PS3.3 C.7.6.1.1.2: pixels that were changed make a derived image.
        target.ImageType = ["DERIVED", *list(target.ImageType)[1:]]
    headers.stamp(target, keep_characteristics=options.keep_characteristics, keep_device=options.keep_device)
    del redacted
    clean = _written(target)
    del target.PixelData  # what is verified next is read from the file
    record["header"] = dict(sorted(header.counts.items()))
    try:
        verify_dicom(clean, found, boxes, identity, options.limits, keep_device=options.keep_device)
    except NotClean as finding:
        raise _Stop(Reason.NOT_VERIFIED, str(finding), boxes) from None
    return clean, DICOM, str(target.PatientID)


def _drop_telling_labels(target: Dataset, identity: Identity) -> None:
    """A name of a device that holds a value of the patient or the hospital goes; the image need not stay for it."""
    for keyword, rule in DEVICE.items():
        if rule.action is not Action.LABEL or keyword not in target:
            continue
        try:
            scan(str(target[keyword].value).encode(), b"", identity)
        except NotClean:
            if rule.required:
                target[keyword].value = ""
            else:
                del target[keyword]


def _say_lossy(target: Dataset, file: DicomFile, size: int) -> None:
    """The loss stays known when the pixels are decompressed (PS3.3 C.7.6.1.1.5), also where the source kept silent."""
    target.LossyImageCompression = "01"
    if "LossyImageCompressionMethod" not in target:
        target.LossyImageCompressionMethod = px.LOSSY[file.syntax]
    if "LossyImageCompressionRatio" not in target:
        target.LossyImageCompressionRatio = f"{size / max(len(file.pixels or b''), 1):.4g}"


def _picture(data: bytes, options: Options, case: _Case, record: dict[str, Any]) -> tuple[bytes, str]:
    with _refusals(Reason.UNDECODABLE):
        pixels = px.decode_picture(data, options.limits)
    identity = identity_of(Dataset(), case.hints)
    redacted, boxes = _redact_text(pixels, identity, options, case.release, record, PLAIN)
    clean = px.encode_png(redacted)
    try:
        verify_png(clean, pixels, boxes, identity, options.limits)
    except NotClean as finding:
        raise _Stop(Reason.NOT_VERIFIED, str(finding), boxes) from None
    return clean, PNG


@contextmanager
def _refusals(damaged: Reason) -> Iterator[None]:
    """Keep an image that is refused inside: for `damaged`, or because it is of a kind that is not handled."""
    try:
        yield
    except Unreadable as refusal:
        raise _Stop(Reason.UNSUPPORTED if refusal.reason in _UNSUPPORTED else damaged, refusal.detail) from None


def _written(dataset: Dataset) -> bytes:
    dataset.file_meta = headers.file_meta(dataset)
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _redact_text(
    pixels: px.Pixels,
    identity: Identity,
    options: Options,
    release: Release | None,
    record: dict[str, Any],
    tone: Tone,
) -> tuple[px.Pixels, tuple[Box, ...]]:
    try:
        record["text_engines"] = redaction.versions(options.threads)
        if release is None:
            done = redaction.redact_text(
                pixels, identity, max_share=options.max_redacted, tone=tone, threads=options.threads
            )
        else:
            record |= as_record(release)
            done = fill_by_hand(pixels, identity, release, tone=tone, threads=options.threads)
    except redaction.Doubtful as doubt:
        raise _Stop(_DOUBTS[doubt.why], doubt.detail, doubt.boxes) from None
    except Exception as error:  # noqa: BLE001 - engines that cannot be loaded find nothing
        raise _Stop(Reason.TEXT_ENGINE, f"{type(error).__name__} was raised") from None
    record |= done.as_record()
    return done.pixels, done.boxes
