"""Synthetic radiographs as DICOM files: CR Image Storage and Digital X-Ray Image Storage - For Presentation."""

from __future__ import annotations

from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from edgerad.phantom.identity import Patient, Visit, identity
from edgerad.phantom.scanner import scanner
from edgerad.phantom.spec import Phantom, PhantomSpec

Syntax = Literal["explicit", "implicit", "deflated", "rle", "jpeg2000", "jpeg-lossless"]

SYNTAXES: dict[Syntax, uid.UID] = {
    "explicit": uid.ExplicitVRLittleEndian,
    "implicit": uid.ImplicitVRLittleEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "rle": uid.RLELossless,
    "jpeg2000": uid.JPEG2000Lossless,
    "jpeg-lossless": uid.JPEGLosslessSV1,
}
IMPLEMENTATION = "2.25.302874912034127710489203948571203945"
"""Implementation Class UID (0002,0012) of these files."""
DETECTOR_MM = {"child": 300.0, "adult": 410.0}
"""Longer side of the image at the detector, in mm: 24x30 cm and 35x43 cm are the usual formats."""


def to_dicom(phantom: Phantom, syntax: Syntax = "explicit", private: bool = False) -> bytes:
    """Return the radiograph as a DICOM file, header and all.

    `private` adds private elements of the kind that devices leave, patient data in them. Raises ValueError for an
    unknown transfer syntax.
    """
    if syntax not in SYNTAXES:
        raise ValueError(f"syntax is {syntax!r}; it must be one of {', '.join(SYNTAXES)}")
    spec = phantom.spec
    person, visit = identity(spec)
    dataset = _file(spec, visit, SYNTAXES[syntax])
    _add_patient(dataset, person, visit)
    _add_study(dataset, spec, visit)
    _add_image(dataset, phantom)
    if spec.storage == "DX":
        _add_dx(dataset, spec)
    else:
        _add_cr(dataset, spec)
    if private:
        _add_private(dataset, person, visit)
    if syntax == "rle":
        dataset.compress(SYNTAXES[syntax], generate_instance_uid=False, encoding_plugin="pydicom")
    elif SYNTAXES[syntax].is_encapsulated:
        dataset.PixelData = encapsulate([_compressed(_stored(phantom), spec.bits, syntax)])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _compressed(pixels: NDArray[np.uint16], bits: int, syntax: Syntax) -> bytes:
    import imagecodecs

    if syntax == "jpeg-lossless":
        return bytes(imagecodecs.jpeg_encode(pixels, lossless=True, predictor=1, bitspersample=bits))
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", reversible=True, bitspersample=bits))


def _file(spec: PhantomSpec, visit: Visit, syntax: uid.UID) -> FileDataset:
    storage = (
        uid.DigitalXRayImageStorageForPresentation if spec.storage == "DX" else uid.ComputedRadiographyImageStorage
    )
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = storage
    meta.MediaStorageSOPInstanceUID = uid.UID(visit.instance_uid)
    meta.ImplementationClassUID = uid.UID(IMPLEMENTATION)
    meta.ImplementationVersionName = "EDGERAD_PHANTOM"
    meta.TransferSyntaxUID = syntax if not syntax.is_encapsulated else uid.ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = storage
    dataset.SOPInstanceUID = uid.UID(visit.instance_uid)
    return dataset


def _add_patient(dataset: Dataset, person: Patient, visit: Visit) -> None:
    dataset.SpecificCharacterSet = person.charset.split("\\") if "\\" in person.charset else person.charset
    dataset.PatientName = person.name
    dataset.PatientID = person.patient_id
    dataset.IssuerOfPatientID = "PHANTOM-HIS"
    dataset.PatientBirthDate = f"{person.birth_date:%Y%m%d}"
    dataset.PatientSex = person.sex
    dataset.PatientAge = visit.age


def _add_study(dataset: Dataset, spec: PhantomSpec, visit: Visit) -> None:
    device = scanner(spec.scanner)
    day, time = f"{visit.when:%Y%m%d}", f"{visit.when:%H%M%S}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid.UID(visit.study_uid), uid.UID(visit.series_uid)
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = day
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = time
    dataset.AccessionNumber = visit.accession
    dataset.StudyID = visit.accession[-5:]
    dataset.ReferringPhysicianName = visit.referrer
    dataset.OperatorsName = visit.operator
    dataset.InstitutionName = visit.institution
    dataset.InstitutionalDepartmentName = "Radiology"
    dataset.StationName = visit.station
    dataset.StudyDescription = "XR CHEST 1 VIEW" if spec.body == "child" else "XR CHEST PA"
    dataset.SeriesDescription = "Chest AP" if spec.body == "child" else "Chest PA"
    dataset.ProtocolName = "CHEST PAED" if spec.body == "child" else "CHEST ADULT"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    dataset.Manufacturer, dataset.ManufacturerModelName = device.manufacturer, device.model
    dataset.DeviceSerialNumber = f"PH{spec.patient % 4 + 1:04d}"
    dataset.SoftwareVersions = "1.0"


def _add_image(dataset: Dataset, phantom: Phantom) -> None:
    """Image Pixel, General Image and VOI LUT modules, PS3.3 C.7.6.3, C.7.6.1, C.11.2."""
    spec = phantom.spec
    top = (1 << spec.bits) - 1
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = spec.photometric
    dataset.Rows, dataset.Columns = spec.rows, spec.cols
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, spec.bits, spec.bits - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = _stored(phantom).astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.WindowCenter, dataset.WindowWidth = str((top + 1) // 2), str(top + 1)
    dataset.WindowCenterWidthExplanation = "NORMAL"
    spacing = round(DETECTOR_MM[spec.body] / max(spec.rows, spec.cols), 4)
    dataset.ImagerPixelSpacing = [spacing, spacing]
    dataset.PatientOrientation = ["L", "F"]
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = "AP" if spec.body == "child" else "PA"
    dataset.KVP = "66" if spec.body == "child" else "120"
    dataset.Exposure = str(max(1, round(2 * spec.exposure)))
    dataset.LossyImageCompression = "00"


def _stored(phantom: Phantom) -> NDArray[np.uint16]:
    """Return the pixels as the photometric interpretation wants them: MONOCHROME1 shows the lowest value white."""
    if phantom.spec.photometric == "MONOCHROME2":
        return phantom.pixels
    return np.uint16((1 << phantom.spec.bits) - 1) - phantom.pixels


def _add_cr(dataset: Dataset, spec: PhantomSpec) -> None:
    """CR Series and CR Image modules, PS3.3 C.8.1; many such devices say nothing about burned-in annotation."""
    dataset.Modality = "CR"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.CassetteOrientation = "PORTRAIT" if spec.rows >= spec.cols else "LANDSCAPE"
    dataset.PlateType = "ST-VI"
    dataset.RelativeXRayExposure = round(200 * spec.exposure)
    dataset.PixelSpacing = dataset.ImagerPixelSpacing


def _add_dx(dataset: Dataset, spec: PhantomSpec) -> None:
    """DX Series, Anatomy Imaged, Image, Detector and Positioning modules, PS3.3 C.8.11."""
    inverse = spec.photometric == "MONOCHROME1"
    dataset.Modality = "DX"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", ""]
    dataset.ImageLaterality = "U"
    dataset.AnatomicRegionSequence = Sequence([_code("43799004", "SCT", "Chest")])
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = 1 if inverse else -1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    dataset.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    dataset.BurnedInAnnotation = "YES" if spec.text else "NO"
    dataset.DetectorType = "SCINTILLATOR"
    dataset.PositionerType = "NONE"
    dataset.AcquisitionContextSequence = Sequence()
    view = ("399348003", "antero-posterior") if spec.body == "child" else ("272479007", "postero-anterior")
    dataset.ViewCodeSequence = Sequence([_code(view[0], "SCT", view[1])])


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _add_private(dataset: Dataset, person: Patient, visit: Visit) -> None:
    """Private elements as devices leave them: harmless settings, and the patient once more."""
    block = dataset.private_block(0x0019, "EDGERAD PHANTOM ACQ", create=True)
    block.add_new(0x01, "LO", "GRID 8:1")
    block.add_new(0x02, "DS", "1.25")
    block.add_new(0x03, "PN", person.roman.replace(" ", "^"))
    block.add_new(0x04, "LO", f"{person.patient_id}/{visit.accession}")
    block = dataset.private_block(0x0029, "EDGERAD PHANTOM PROC", create=True)
    # Of even length, as every value must be (PS3.5 7.1.1); nobody pads an UN.
    block.add_new(0x10, "UN", f"PAT={person.roman:<41};DOB={person.birth_date:%Y%m%d}".encode())
