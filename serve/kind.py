"""Gates by the DICOM header: what is surely no frontal chest radiograph is refused before its pixels are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydicom import uid

from imaging.attributes import named, text
from imaging.refusal import Unreadable
from imaging.stored import uid_name

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

RADIOGRAPHY = frozenset(
    {
        uid.ComputedRadiographyImageStorage,
        uid.DigitalXRayImageStorageForPresentation,
        uid.DigitalXRayImageStorageForProcessing,
    }
)
SECONDARY_CAPTURE = frozenset(
    {
        uid.SecondaryCaptureImageStorage,
        uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
    }
)
CAPTURED_MODALITIES = frozenset({"", "CR", "DX", "RG", "DR", "XR", "OT", "SC"})
"""What a secondary capture of a radiograph says; DR and XR are in use, though no standard has them."""
MODALITIES = CAPTURED_MODALITIES - {"DR", "XR"} | {
    "ASMT", "AU", "BI", "BMD", "CT", "CTPROTOCOL", "DG", "DMS", "DOC", "ECG", "EPS", "ES", "FID", "GM", "HC", "HD",
    "IO", "IOL", "IVOCT", "IVUS", "KER", "KO", "LEN", "LS", "M3D", "MG", "MR", "NM", "OAM", "OCT", "OP", "OPM", "OPT",
    "OPTBSV", "OPTENF", "OPV", "OSS", "OT", "PA", "PLAN", "POS", "PR", "PT", "PX", "REG", "RESP", "RF", "RTDOSE",
    "RTIMAGE", "RTINTENT", "RTPLAN", "RTRAD", "RTRECORD", "RTSEGANN", "RTSTRUCT", "RWV", "SC", "SEG", "SM", "SMR", "SR",
    "SRF", "STAIN", "TEXTUREMAP", "TG", "US", "VA", "XA", "XAPROTOCOL", "XC",
}  # fmt: skip
"""Defined terms of Modality (0008,0060), PS3.3 C.7.3.1.1.1."""
OTHER_PROJECTIONS = frozenset({"MG", "PX", "IO"})
CHEST = ("CHEST", "THORAX", "LUNG", "RIB", "STERN", "CLAVICLE", "HEART", "TSPINE", "WHOLEBODY")
NOT_CHEST = (
    "HAND", "FINGER", "THUMB", "WRIST", "FOREARM", "ELBOW", "HUMERUS", "ARM", "SHOULDER", "SCAPULA", "FOOT",
    "TOE", "ANKLE", "CALCANEUS", "HEEL", "LEG", "TIBIA", "FIBULA", "KNEE", "PATELLA", "FEMUR", "THIGH",
    "HIP", "PELVIS", "SACRUM", "COCCYX", "EXTREMITY", "SKULL", "HEAD", "BRAIN", "FACE", "NOSE", "NASAL",
    "ORBIT", "SINUS", "JAW", "MANDIBLE", "MAXILLA", "TMJ", "TOOTH", "TEETH", "NECK", "CSPINE", "LSPINE",
    "SSPINE", "ABDOMEN", "KUB", "BREAST", "BLADDER", "KIDNEY", "COLON", "STOMACH",
)  # fmt: skip
NOT_FRONTAL = frozenset({"LL", "RL", "LAT", "LATERAL", "RLO", "LLO", "OBLIQUE"})


@dataclass(frozen=True)
class KindGate:
    """Refuses by SOP class, modality, body part and view; what the header leaves open passes."""

    for_processing: bool = False
    """Whether the model was validated for images For Processing (PS3.3 C.8.11.1)."""

    def __call__(self, dataset: Dataset) -> None:
        """Raise Unreadable for what is surely no single frontal chest radiograph."""
        _check_modality(dataset)
        intent = text(dataset, "PresentationIntentType").upper()
        raw = text(dataset, "SOPClassUID") == uid.DigitalXRayImageStorageForProcessing or intent == "FOR PROCESSING"
        if raw and not self.for_processing:
            raise Unreadable("for-processing", f"{named('PresentationIntentType')} FOR PROCESSING")
        _check_part(dataset)
        view = text(dataset, "ViewPosition").upper()
        if view in NOT_FRONTAL:
            raise Unreadable("not-frontal", f"view position {view}")


def _check_modality(dataset: Dataset) -> None:
    sop_class, modality = text(dataset, "SOPClassUID"), text(dataset, "Modality").upper()
    if modality in OTHER_PROJECTIONS:
        raise Unreadable("not-chest", f"modality {modality}")
    if sop_class in RADIOGRAPHY:
        return  # these hold radiographs, whatever else their Modality says
    if sop_class and sop_class not in SECONDARY_CAPTURE:
        raise Unreadable("not-a-radiograph", f"SOP class {uid_name(sop_class)}")
    if modality not in CAPTURED_MODALITIES:
        # What is none of the standard's codes could be anything, a name too, so it is not repeated.
        raise Unreadable("not-a-radiograph", f"modality {modality if modality in MODALITIES else 'unknown'}")


def _check_part(dataset: Dataset) -> None:
    part = re.sub(r"[^A-Z]", "", text(dataset, "BodyPartExamined").upper())
    found = next((word for word in NOT_CHEST if word in part), None)
    if found and not any(word in part for word in CHEST):
        raise Unreadable("not-chest", f"body part {found}")
