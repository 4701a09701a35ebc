"""Why an image was not scored: one short code each, with what is wrong and what to do about it.

"Send it again" stands only where another transfer of the same file can help.
"""

from __future__ import annotations

from typing import Final

REASONS: Final[dict[str, str]] = {
    "empty": "The object has no bytes. Send it again; if it is empty again, check the sender.",
    "too-large": "The image has more pixels or bytes than the limit. "
    "Check that it is a single radiograph, or raise the limit.",
    "too-small": "The image has fewer pixels than a radiograph. Send the original instead of a thumbnail.",
    "unsupported": "This format cannot be read here. Send DICOM with a supported transfer syntax, JPEG or PNG.",
    "truncated": "The data end too early. Send it again; if it is cut again, check the sender and the network.",
    "corrupt": "The data cannot be decoded. Check the file at the sender.",
    "contradiction": "The header and the pixel data contradict each other. Correct the named attributes at the sender.",
    "bad-attribute": "An attribute that is needed to read the pixels is unusable. "
    "Correct the named attribute at the sender.",
    "bad-table": "A look-up table cannot be applied. Correct or remove the named table at the sender.",
    "for-processing": "This is a raw image (For Processing), and the model was not validated for raw images. "
    "Send the For Presentation image.",
    "no-pixels": "The DICOM object has no image. Exclude such objects from the route.",
    "multi-frame": "The object has more than one frame. Send a single radiograph.",
    "not-a-radiograph": "The modality is not projection radiography. Exclude such objects from the route.",
    "not-chest": "The header names another body part than the chest. "
    "Exclude such images from the route, or correct the header at the modality.",
    "not-frontal": "This is a lateral or oblique view, and the model was trained on frontal views only. "
    "No action is needed.",
    "other-view": "The pixels do not look like a frontal chest radiograph. Check what was sent.",
    "inverted": "The grey scale is inverted: dense parts are dark. "
    "Correct the photometric interpretation or the window at the modality.",
    "turned": "The chest is not upright. Correct the orientation at the modality, and send the corrected image.",
    "blank": "All pixels have nearly the same value. Check the acquisition.",
    "noise": "The pixels are noise without structure. Check the acquisition and the compression.",
    "colour": "This is a colour picture and not a radiograph. Send the original radiograph.",
    "not-found": "There is no such file or object. Check the path.",
    "object-gone": "The object was removed from the store before it was scored. "
    "Store it again if it still needs a score.",
    "scoring-failed": "Scoring this image failed every time. Report the fault, without the image.",
    "replica-died": "A process ended each time that it scored this image. Report the fault, without the image.",
    "no-answer": "Scoring this image takes too long every time. Report the fault, without the image.",
    "unrecordable": "The database does not take what was found. Report the fault, without the image.",
    "model-error": "The model gave no result for this image. Report the fault.",
}
