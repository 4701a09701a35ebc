"""Which attributes of a CR, DX or secondary capture image are kept, where, and why: everything else goes.

Modules and enumerated values: PS3.3 (2025) C.7 (composite image), C.8.1 (CR), C.8.6 (SC), C.8.11 (DX), C.11 (LUTs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """What happens to an attribute that the rules name."""

    KEEP = "keep"
    UID = "uid"
    DATE = "date"
    IDENTIFIER = "identifier"
    EMPTY = "empty"
    ITEMS = "items"
    CODES = "codes"


@dataclass(frozen=True, slots=True)
class Rule:
    """The action, its reason, the values that a coded string may keep; `items` are the rules inside a sequence."""

    action: Action
    reason: str
    allowed: frozenset[str] | None = None
    items: Mapping[str, Rule] | None = None


def _keep(reason: str, *keywords: str) -> dict[str, Rule]:
    return {keyword: Rule(Action.KEEP, reason) for keyword in keywords}


def _enum(reason: str, **allowed: str) -> dict[str, Rule]:
    """Coded strings by their allowed values, separated by blanks."""
    return {keyword: Rule(Action.KEEP, reason, frozenset(values.split())) for keyword, values in allowed.items()}


CODES: Mapping[tuple[str, str], str] = {
    ("SCT", "399348003"): "antero-posterior",
    ("SCT", "272479007"): "postero-anterior",
    ("SCT", "399173006"): "left lateral",
    ("SCT", "399198007"): "right lateral",
    ("SRT", "R-10206"): "antero-posterior",
    ("SRT", "R-10214"): "postero-anterior",
    ("SRT", "R-40888"): "postero-anterior",
    ("SRT", "R-10236"): "left lateral",
    ("SRT", "R-10232"): "right lateral",
    ("SCT", "51185008"): "Chest",
    ("SRT", "T-D3000"): "Chest",
}
"""Codes of CID 4010 (view) and CID 4031 (region) that stay; the meaning is ours, since the source's is free text."""

_REFERENCE = {
    **_keep("class of the object that is referred to, a standard UID", "ReferencedSOPClassUID"),
    "ReferencedSOPInstanceUID": Rule(Action.UID, "links the objects of a study"),
}
_LUT = {
    **_keep("grey scale (C.11.1, C.11.2)", "LUTDescriptor", "LUTData"),
    **_enum("unit of the output (C.11.1.1.2)", ModalityLUTType="HU US OD MGML Z_EFF ED EDW PCT"),
}

RULES: Mapping[str, Rule] = {
    # SOP common, patient, study, series (C.12.1, C.7.1 to C.7.3)
    **_keep("kind of object, gated beforehand", "SOPClassUID"),
    **{
        keyword: Rule(Action.UID, "keeps study, series and references together")
        for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    },
    **{
        keyword: Rule(Action.DATE, "keeps intervals between studies of a patient")
        for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
    },
    "PatientID": Rule(Action.IDENTIFIER, "groups a patient's studies under a pseudonym"),
    "PatientName": Rule(Action.IDENTIFIER, "type 2 in every object; the pseudonym"),
    **{
        keyword: Rule(Action.EMPTY, "type 2: must be there, may be empty")
        for keyword in (
            *("PatientBirthDate", "PatientSex", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
            *("Manufacturer", "ContentTime", "AcquisitionTime"),
        )
    },
    **_enum(
        "modality and body part decide what the model may judge",
        Modality="CR DX RG OT XA RF",
        BodyPartExamined="CHEST THORAX LUNG RIB RIBS CLAVICLE STERNUM TSPINE ABDOMEN CHESTABDOMEN",
        PresentationIntentType="PRESENTATION PROCESSING",
    ),
    **_enum(
        "laterality, position and view",
        Laterality="R L",
        ImageLaterality="R L U B",
        ViewPosition="AP PA LL RL RLD LLD RLO LLO",
        PatientPosition="HFS HFP FFS FFP HFDR HFDL FFDR FFDL",
        PatientOrientation="A P R L H F AR AL PR PL HR HL FR FL AH AF PH PF",
    ),
    **_keep("order within the series", "SeriesNumber", "InstanceNumber"),
    # Image and pixel (C.7.6.1, C.7.6.3)
    **_enum(
        "how the image came to be",
        ImageType="ORIGINAL DERIVED PRIMARY SECONDARY AXIAL",
        ConversionType="DV DI DF WSD SD SI DRW SYN",
    ),
    **_enum(
        "loss by compression must stay known",
        LossyImageCompression="00 01",
        LossyImageCompressionMethod="ISO_10918_1 ISO_14495_1 ISO_15444_1 ISO_13818_2 ISO_14496_10 ISO_23008_2",
    ),
    **_keep("loss by compression must stay known", "LossyImageCompressionRatio"),
    **_keep("aspect and padding of the pixels", "PixelAspectRatio", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    # Geometry
    **_keep(
        "size of a pixel in the patient",
        *(
            "PixelSpacing",
            "ImagerPixelSpacing",
            "NominalScannedPixelSpacing",
            "EstimatedRadiographicMagnificationFactor",
        ),
        *("DistanceSourceToDetector", "DistanceSourceToPatient", "FieldOfViewDimensions", "FieldOfViewRotation"),
    ),
    **_enum(
        "size of a pixel in the patient",
        PixelSpacingCalibrationType="GEOMETRY FIDUCIAL",
        FieldOfViewShape="RECTANGLE ROUND HEXAGONAL",
        FieldOfViewHorizontalFlip="YES NO",
    ),
    # Grey scale (C.11)
    **_keep(
        "grey scale",
        "WindowCenter",
        "WindowWidth",
        "RescaleIntercept",
        "RescaleSlope",
        "PixelIntensityRelationshipSign",
    ),
    **_enum(
        "grey scale",
        VOILUTFunction="LINEAR LINEAR_EXACT SIGMOID",
        RescaleType="HU US OD MGML Z_EFF ED EDW PCT",
        PresentationLUTShape="IDENTITY INVERSE",
        PixelIntensityRelationship="LIN LOG DISP",
    ),
    "ModalityLUTSequence": Rule(Action.ITEMS, "grey scale", items=_LUT),
    "VOILUTSequence": Rule(Action.ITEMS, "grey scale", items=_LUT),
    # Acquisition (C.8.1.2, C.8.11.3)
    **_keep(
        "exposure, for drift and subgroup measurements",
        *(
            "KVP",
            "ExposureTime",
            "ExposureTimeInuS",
            "XRayTubeCurrent",
            "XRayTubeCurrentInuA",
            "Exposure",
            "ExposureInuAs",
        ),
        *(
            "RelativeXRayExposure",
            "ExposureIndex",
            "TargetExposureIndex",
            "DeviationIndex",
            "Sensitivity",
            "FocalSpots",
        ),
        *("BodyPartThickness", "EntranceDoseInmGy", "ImageAndFluoroscopyAreaDoseProduct"),
        *("PositionerPrimaryAngle", "PositionerSecondaryAngle", "DetectorPrimaryAngle", "DetectorSecondaryAngle"),
    ),
    **_enum(
        "acquisition technique",
        Grid="FIXED FOCUSED RECIPROCATING PARALLEL CROSSED NONE",
        DetectorType="DIRECT SCINTILLATOR STORAGE FILM",
        DetectorConfiguration="AREA SLOT",
        PositionerType="C-ARM COLUMN NONE CARM MAMMOGRAPHIC PANORAMIC CEPHALOSTAT RIGID",
        ExposureControlMode="MANUAL AUTOMATIC",
        FilterType="STRIP WEDGE BUTTERFLY MULTIPLE FLAT NONE",
        FilterMaterial="MOLYBDENUM ALUMINUM COPPER RHODIUM NIOBIUM EUROPIUM LEAD TIN",
    ),
    # Shutter and collimator (C.7.6.11, C.8.7.3): black borders that are no anatomy
    **_enum(
        "borders that are no anatomy",
        CollimatorShape="RECTANGULAR CIRCULAR POLYGONAL",
        ShutterShape="RECTANGULAR CIRCULAR POLYGONAL",
    ),
    **_keep(
        "borders that are no anatomy",
        *("CollimatorLeftVerticalEdge", "CollimatorRightVerticalEdge"),
        *("CollimatorUpperHorizontalEdge", "CollimatorLowerHorizontalEdge"),
        *("ShutterLeftVerticalEdge", "ShutterRightVerticalEdge"),
        *("ShutterUpperHorizontalEdge", "ShutterLowerHorizontalEdge", "ShutterPresentationValue"),
    ),
    # References and codes
    "ReferencedImageSequence": Rule(Action.ITEMS, "links the objects of a study", items=_REFERENCE),
    "SourceImageSequence": Rule(Action.ITEMS, "links the objects of a study", items=_REFERENCE),
    "ViewCodeSequence": Rule(Action.CODES, "view, from a closed list of codes"),
    "AnatomicRegionSequence": Rule(Action.CODES, "region, from a closed list of codes"),
}

CHARACTERISTICS: Mapping[str, Rule] = {
    **_enum("Retain Patient Characteristics Option", PatientSex="M F O"),
    **_keep("Retain Patient Characteristics Option; above 89 years as 90", "PatientAge"),
}
"""Added when the site chose the Retain Patient Characteristics Option (CID 7050, 113108)."""
