"""Why an image was not scored: one short code each, and what a person should do about it."""

from __future__ import annotations

from typing import Final

REASONS: Final[dict[str, str]] = {
    "empty": "The object has no bytes. Send it again; if it stays empty, look at the sender.",
    "too-large": "More pixels or bytes than the limit. Check that it is one radiograph, or raise the limit.",
    "too-small": "Fewer pixels than a radiograph has. Send the original, not a thumbnail.",
    "unsupported": "Not DICOM, JPEG or PNG, or a variant without a decoder here. Send a supported format.",
    "truncated": "The data end too early. Send it again.",
    "corrupt": "The data contradict themselves or do not decode. Send it again; if that fails, look at the sender.",
    "no-pixels": "A DICOM object without an image. Only image objects can be scored.",
    "multi-frame": "More than one frame. Send a single radiograph.",
    "not-a-radiograph": "Another modality than projection radiography. Read it as usual; exclude it from the route.",
    "not-chest": "Another body part than the chest. Read it as usual; exclude it from the route.",
    "not-frontal": "A lateral or oblique view; the model was trained on frontal views. Read it as usual.",
    "blank": "All pixels are (nearly) alike. Check the acquisition.",
    "noise": "The pixels are noise without structure. Check the acquisition or the decoder.",
    "colour": "A colour picture, not a radiograph. Send the original radiograph.",
    "not-found": "There is no such file or object.",
    "model-error": "The model gave no number for this image. Read it as usual and report the fault.",
}


class Unreadable(Exception):
    """An image that cannot be judged: `reason` is a key of REASONS, `detail` says more and never holds patient data."""

    def __init__(self, reason: str, detail: str) -> None:
        if reason not in REASONS:
            raise ValueError(f"{reason!r} is not a reason code; add it to serve/reasons.py with what to do")
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")

    def __reduce__(self) -> tuple[type[Unreadable], tuple[str, str]]:
        """Pickle by both fields (Ray sends exceptions between processes)."""
        return (Unreadable, (self.reason, self.detail))
