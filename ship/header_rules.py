"""Which attributes of a CR, DX or secondary capture image are kept, where, and why: everything else goes.

Modules and enumerated values: PS3.3 (2025) C.7 (composite image), C.8.1 (CR), C.8.6 (SC), C.8.11 (DX), C.11 (LUTs).
A test holds every rule to the Basic Profile and its options (PS3.15 Table E.1-1): docs/deidentification.md.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from pydicom.sr.codedict import Collection
from pydicom.sr.coding import Code


class Action(StrEnum):
    """What happens to an attribute that the rules name."""

    KEEP = "keep"
    UID = "uid"
    DATE = "date"
    IDENTIFIER = "identifier"
    EMPTY = "empty"
    ITEMS = "items"
    CODES = "codes"
    WORDS = "words"
    LABEL = "label"


@dataclass(frozen=True, slots=True)
class Rule:
    """The action, its reason, the values that a coded string may keep; `items` are the rules inside a sequence.

    `required` is type 1 or 2 (PS3.5 section 7.4): what may not pass is left empty where it stood, not removed. In a
    value with `places` each one is judged by itself, since its position has a meaning.
    """

    action: Action
    reason: str
    allowed: frozenset[str] | None = None
    items: Mapping[str, Rule] | None = None
    required: bool = False
    places: bool = False


def _keep(reason: str, *keywords: str) -> dict[str, Rule]:
    return {keyword: Rule(Action.KEEP, reason) for keyword in keywords}


def _enum(reason: str, **allowed: str) -> dict[str, Rule]:
    """Coded values by what they may be, separated by bars."""
    return {keyword: Rule(Action.KEEP, reason, frozenset(values.split("|"))) for keyword, values in allowed.items()}


def _required(rules: dict[str, Rule]) -> dict[str, Rule]:
    return {keyword: replace(rule, required=True) for keyword, rule in rules.items()}


_OLD_CODES = {
    ("SCT", "43799004"): "Chest",
    ("SCT", "51185008"): "Chest",
    ("SRT", "T-D3000"): "Chest",
    ("SRT", "R-40888"): "postero-anterior",
}
"""Codes of earlier editions that devices still write."""


@functools.cache
def codes() -> Mapping[tuple[str, str], str]:
    """All that a code sequence may say: the codes of CID 4010 (views) and 4031 (regions), PS3.16, with meanings."""
    concepts = [code for cid in ("CID4010", "CID4031") for code in Collection(cid).concepts.values()]
    return {**{(code.scheme_designator, code.value): code.meaning for code in concepts}, **_OLD_CODES}


@functools.lru_cache(maxsize=256)
def meaning_of(scheme: str, value: str) -> str | None:
    """The standard's meaning of a code that may stay, SNOMED RT codes (SRT) included, else None."""
    if (scheme, value) in codes() or scheme not in ("SRT", "SNM3"):
        return codes().get((scheme, value))
    old = Code(value, "SRT", "")
    return next((text for (system, new), text in codes().items() if old == Code(new, system, "")), None)


WORDS = frozenset((
    "CHEST", "THORAX", "THORACIC", "LUNG", "LUNGS", "RIB", "RIBS", "CLAVICLE", "STERNUM", "SPINE", "ABDOMEN", "HEART",
    "XR", "CR", "DX", "RX", "XRAY", "RADIOGRAPH", "RADIOGRAPHY", "PROJECTION", "IMAGE", "SERIES", "STUDY",
    "EXAM", "ROUTINE", "STANDARD", "SINGLE", "AP", "PA", "LAT", "LATERAL", "FRONTAL", "OBLIQUE", "LL", "RL",
    "DECUBITUS", "DECUB", "LEFT", "RIGHT", "BILATERAL", "BOTH", "SUPINE", "PRONE", "ERECT", "UPRIGHT", "STANDING",
    "SITTING", "SEMIERECT", "PORTABLE", "MOBILE", "BEDSIDE", "ICU", "INSPIRATION", "EXPIRATION", "INSP", "EXP",
    "VIEW", "VIEWS", "ADULT", "PAED", "PAEDIATRIC", "PEDIATRIC", "NEONATE", "INFANT", "GRID", "NONGRID", "1", "2",
    "3", "1V", "2V", "3V",
))  # fmt: skip
"""All that is left of a description (Clean Descriptors Option): words that tell of no one."""

_DESCRIPTION = "which examination it was, in words of a closed list"
_REFERENCE = {
    **_keep("class of the object that is referred to, a standard UID", "ReferencedSOPClassUID"),
    "ReferencedSOPInstanceUID": Rule(Action.UID, "links the objects of a study"),
}
ANEW = (
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleIntercept", "RescaleSlope", "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("VOILUTSequence", "PresentationLUTShape", "PixelData"),
)
"""Not kept from the header but written anew from what was read of the pixels and the grey scale (ship.image_module)."""

RULES: Mapping[str, Rule] = {
    # SOP common, patient, study, series (C.12.1, C.7.1 to C.7.3)
    **_keep("kind of object, gated beforehand", "SOPClassUID"),
    **{
        keyword: Rule(Action.UID, "keeps study, series, exposure and references together")
        for keyword in (
            *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
            *("FrameOfReferenceUID", "IrradiationEventUID"),
        )
    },
    **{
        keyword: Rule(Action.DATE, "keeps intervals between studies of a patient", required=keyword == "StudyDate")
        for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "AcquisitionDateTime")
    },
    "PatientID": Rule(Action.IDENTIFIER, "groups a patient's studies under a pseudonym"),
    "PatientName": Rule(Action.IDENTIFIER, "type 2 in every object; the pseudonym"),
    **{
        keyword: Rule(Action.EMPTY, "type 2: must be there, may be empty")
        for keyword in (
            *("PatientBirthDate", "PatientSex", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
            *("Manufacturer", "ContentTime", "AcquisitionTime", "PositionReferenceIndicator"),
            "AcquisitionContextSequence",
        )
    },
    **_enum("decides what the model may judge", Modality="CR|DX|RG|OT|XA|RF"),
    **_required(
        _enum(
            "decides what the model may judge",
            BodyPartExamined="CHEST|THORAX|LUNG|RIB|RIBS|CLAVICLE|STERNUM|TSPINE|ABDOMEN|CHESTABDOMEN",
        )
    ),
    **_enum("decides what the model may judge", PresentationIntentType="FOR PRESENTATION|FOR PROCESSING"),
    **{
        keyword: Rule(Action.WORDS, _DESCRIPTION)
        for keyword in ("StudyDescription", "SeriesDescription", "ProtocolName", "PerformedProcedureStepDescription")
    },
    **_required(
        _enum(
            "laterality, position and view",
            Laterality="R|L",
            ImageLaterality="R|L|U|B",
            ViewPosition="AP|PA|LL|RL|RLD|LLD|RLO|LLO",
        )
    ),
    **_enum("laterality, position and view", PatientPosition="HFS|HFP|FFS|FFP|HFDR|HFDL|FFDR|FFDL"),
    "PatientOrientation": Rule(
        Action.KEEP,
        "laterality, position and view",
        frozenset(
            ("A", "P", "R", "L", "H", "F", "AR", "AL", "PR", "PL", "HR", "HL", "FR", "FL", "AH", "AF", "PH", "PF")
        ),
        required=True,
        places=True,
    ),
    **_required(_keep("order within the series", "SeriesNumber", "InstanceNumber")),
    # Image and pixel (C.7.6.1, C.7.6.3)
    "ImageType": Rule(
        Action.KEEP,
        "how the image came to be",
        frozenset(("ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "AXIAL")),
        places=True,
    ),
    **_enum("how the image came to be", ConversionType="DV|DI|DF|WSD|SD|SI|DRW|SYN"),
    **_enum(
        "loss by compression must stay known",
        LossyImageCompression="00|01",
        LossyImageCompressionMethod="ISO_10918_1|ISO_14495_1|ISO_15444_1|ISO_15444_15|ISO_13818_2|ISO_14496_10|ISO_23008_2",
    ),
    **_keep("loss by compression must stay known", "LossyImageCompressionRatio"),
    **_keep("aspect of the pixels", "PixelAspectRatio"),
    # Geometry
    **_keep(
        "size of a pixel in the patient",
        *("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"),
        *("EstimatedRadiographicMagnificationFactor", "DistanceSourceToDetector", "DistanceSourceToPatient"),
        *("FieldOfViewDimensions", "FieldOfViewRotation", "FieldOfViewOrigin", "DetectorElementPhysicalSize"),
        *("DetectorElementSpacing", "DetectorActiveDimensions", "DetectorBinning"),
    ),
    **_enum(
        "size of a pixel in the patient",
        PixelSpacingCalibrationType="GEOMETRY|FIDUCIAL",
        FieldOfViewShape="RECTANGLE|ROUND|HEXAGONAL",
        FieldOfViewHorizontalFlip="YES|NO",
        DetectorActiveShape="RECTANGLE|ROUND|HEXAGONAL",
    ),
    # Grey scale (C.11)
    **_keep("grey scale", "PixelIntensityRelationshipSign"),
    **_enum("grey scale", RescaleType="HU|US|OD|MGML|Z_EFF|ED|EDW|PCT", PixelIntensityRelationship="LIN|LOG|DISP"),
    # Acquisition (C.8.1.2, C.8.11.3)
    **_keep(
        "exposure, for drift and subgroup measurements",
        *("KVP", "ExposureTime", "ExposureTimeInuS", "XRayTubeCurrent", "XRayTubeCurrentInuA"),
        *("Exposure", "ExposureInuAs", "RelativeXRayExposure", "ExposureIndex", "TargetExposureIndex"),
        *("DeviationIndex", "Sensitivity", "FocalSpots", "BodyPartThickness", "EntranceDoseInmGy"),
        *("ImageAndFluoroscopyAreaDoseProduct", "PositionerPrimaryAngle", "PositionerSecondaryAngle"),
        *("DetectorPrimaryAngle", "DetectorSecondaryAngle", "GridFocalDistance", "CompressionForce"),
    ),
    **_required(_enum("acquisition technique", DetectorType="DIRECT|SCINTILLATOR|STORAGE|FILM")),
    **_enum(
        "acquisition technique",
        Grid="FIXED|FOCUSED|RECIPROCATING|PARALLEL|CROSSED|NONE",
        DetectorConfiguration="AREA|SLOT",
        PositionerType="C-ARM|COLUMN|NONE|CARM|MAMMOGRAPHIC|PANORAMIC|CEPHALOSTAT|RIGID",
        ExposureControlMode="MANUAL|AUTOMATIC",
        FilterType="STRIP|WEDGE|BUTTERFLY|MULTIPLE|FLAT|NONE",
        FilterMaterial="MOLYBDENUM|ALUMINUM|COPPER|RHODIUM|NIOBIUM|EUROPIUM|LEAD|TIN",
        CassetteOrientation="LANDSCAPE|PORTRAIT",
    ),
    # Shutter and collimator (C.7.6.11, C.8.7.3): black borders that are no anatomy
    **_enum(
        "borders that are no anatomy",
        CollimatorShape="RECTANGULAR|CIRCULAR|POLYGONAL",
        ShutterShape="RECTANGULAR|CIRCULAR|POLYGONAL",
    ),
    **_keep(
        "borders that are no anatomy",
        *("CollimatorLeftVerticalEdge", "CollimatorRightVerticalEdge"),
        *("CollimatorUpperHorizontalEdge", "CollimatorLowerHorizontalEdge"),
        *("CenterOfCircularCollimator", "RadiusOfCircularCollimator", "VerticesOfThePolygonalCollimator"),
        *("ShutterLeftVerticalEdge", "ShutterRightVerticalEdge"),
        *("ShutterUpperHorizontalEdge", "ShutterLowerHorizontalEdge", "ShutterPresentationValue"),
        *("CenterOfCircularShutter", "RadiusOfCircularShutter", "VerticesOfThePolygonalShutter"),
    ),
    # References and codes
    "ReferencedImageSequence": Rule(Action.ITEMS, "links the objects of a study", items=_REFERENCE),
    "SourceImageSequence": Rule(Action.ITEMS, "links the objects of a study", items=_REFERENCE),
    "ViewCodeSequence": Rule(Action.CODES, "view, from a closed list of codes"),
    "AnatomicRegionSequence": Rule(Action.CODES, "region, from a closed list of codes", required=True),
}

CHARACTERISTICS: Mapping[str, Rule] = {
    **_required(_enum("Retain Patient Characteristics Option", PatientSex="M|F|O")),
    **_keep("Retain Patient Characteristics Option; above 89 years as 90", "PatientAge"),
    **_keep("Retain Patient Characteristics Option", "PatientSize", "PatientWeight"),
    **_enum("Retain Patient Characteristics Option", SmokingStatus="YES|NO|UNKNOWN", PregnancyStatus="1|2|3|4"),
}
"""Added when the site chose the Retain Patient Characteristics Option (CID 7050, 113108)."""

DEVICE: Mapping[str, Rule] = {
    keyword: Rule(Action.LABEL, "Retain Device Identity Option", required=keyword == "Manufacturer")
    for keyword in (
        *("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "StationName", "DeviceSerialNumber"),
        *("DetectorID", "DetectorManufacturerName", "DetectorManufacturerModelName"),
        *("PlateID", "CassetteID", "GantryID", "GeneratorID"),
    )
} | {"DeviceUID": Rule(Action.UID, "Retain Device Identity Option")}
"""Added when the site chose the Retain Device Identity Option (CID 7050, 113109); dates of calibrations still go."""
