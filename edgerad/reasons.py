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
    "contradiction": "Header and pixel data contradict each other. Correct the attributes named here at the sender.",
    "bad-attribute": "An attribute that decides how the pixels are read is unusable. Correct it at the sender.",
    "bad-table": "A look-up table cannot be applied. Correct the table named here at the sender, or send it without one.",
    "for-processing": "A raw image (For Processing) that the model was not validated for. Send the For Presentation image.",
    "no-pixels": "A DICOM object without an image. Only image objects can be scored.",
    "multi-frame": "More than one frame. Send a single radiograph.",
    "not-a-radiograph": "Another modality than projection radiography. Read it as usual; exclude it from the route.",
    "not-chest": "Another body part than the chest. Read it as usual; exclude it from the route.",
    "not-frontal": "A lateral or oblique view; the model was trained on frontal views. Read it as usual.",
    "other-view": "The pixels do not look like a frontal chest radiograph. Read it as usual; check what was sent.",
    "inverted": "Dense parts are dark: the grey scale is inverted. Send it as MONOCHROME1 or with its window.",
    "turned": "The chest is not upright. Turn the image at the modality and send it again.",
    "blank": "All pixels are (nearly) alike. Check the acquisition.",
    "noise": "The pixels are noise without structure. Check the acquisition or the decoder.",
    "colour": "A colour picture, not a radiograph. Send the original radiograph.",
    "not-found": "There is no such file or object.",
    "object-gone": "The object left the store before it was scored. Send it again.",
    "model-error": "The model gave no number for this image. Read it as usual and report the fault.",
}
