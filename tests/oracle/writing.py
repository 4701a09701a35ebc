"""A phantom written as a DICOM file in any of the combinations."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from edgerad.phantom import random_spec, render
from tests.oracle.codecs import Values, codestream
from tests.oracle.combinations import NATIVE, Combination

SEED, SIZE = 20, 176
PADDED_COLUMNS = 9
NEAR = 2
"""How far a near-lossless JPEG-LS value may lie from the original, in stored values."""
SLOPES = {"slope": ("1", "-1024"), "fraction": ("0.4375", "-16.5")}
SYNTAXES = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big-endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "rle": uid.RLELossless,
    "jpeg-baseline": uid.JPEGBaseline8Bit,
    "jpeg-extended": uid.JPEGExtended12Bit,
    "jpeg-lossless": uid.JPEGLossless,
    "jpeg-lossless-sv1": uid.JPEGLosslessSV1,
    "jpeg-ls": uid.JPEGLSLossless,
    "jpeg-ls-near": uid.JPEGLSNearLossless,
    "jpeg-2000": uid.JPEG2000Lossless,
    "jpeg-2000-lossy": uid.JPEG2000,
    "htj2k": uid.HTJ2KLossless,
}
CONVERTERS = {
    "implicit": ("dcmconv", "+ti"),
    "big-endian": ("dcmconv", "+tb"),
    "deflated": ("dcmconv", "+td"),
    "rle": ("dcmcrle",),
    "jpeg-ls": ("dcmcjpls", "+el", "+pc"),
    "jpeg-ls-near": ("dcmcjpls", "+en", "+md", str(NEAR), "+un"),
}
"""Programs of dcmtk that write a transfer syntax from explicit VR little endian."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file and what went into it: the stored values as numbers, and which of them are padding."""

    combination: Combination
    path: Path
    values: Values
    padded: NDArray[np.bool_]


def write(combination: Combination, folder: Path) -> Written:
    """Write the radiograph into a folder. Needs dcmtk."""
    values, padded = stored_values(combination)
    dataset = header(combination)
    add_padding(dataset, combination)
    add_overlay(dataset, combination)
    add_modality(dataset, combination)
    add_voi(dataset, combination)
    path = folder / f"{combination.name}.dcm"
    converter = CONVERTERS.get(combination.syntax)
    if combination.syntax in NATIVE or converter:
        dataset.PixelData = native(values, combination)
        dataset["PixelData"].VR = "OB" if combination.allocated == 8 and combination.signed else "OW"
        bits_only = combination.syntax.startswith("jpeg-ls") and combination.signed  # dcmtk encodes no signed values so
        dataset.PixelRepresentation = int(combination.signed and not bits_only)
        save(dataset, uid.ExplicitVRLittleEndian, path)
        if converter:
            plain = path.rename(path.with_suffix(".plain"))
            subprocess.run([*converter, str(plain), str(path)], check=True, capture_output=True)
            plain.unlink()
        if bits_only:
            encoded = dcmread(path)
            encoded.PixelRepresentation = 1
            encoded.save_as(path)
    else:
        dataset.PixelData = encapsulate([codestream(values, combination)])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        save(dataset, SYNTAXES[combination.syntax], path)
    return Written(combination, path, values, padded)


def save(dataset: FileDataset, syntax: uid.UID, path: Path) -> None:
    """Write a data set as a file."""
    dataset.file_meta.TransferSyntaxUID = syntax
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    path.write_bytes(buffer.getvalue())


@cache
def radiograph() -> NDArray[np.float64]:
    """Return a normal chest between 0 and 1, with an odd number of rows and of columns."""
    phantom = render(random_spec(SEED, finding="normal", size=SIZE))
    rows, columns = phantom.pixels.shape
    pixels = phantom.pixels.astype(np.float64)[: (rows - 1) | 1, : (columns - 1) | 1]
    return np.asarray((pixels - pixels.min()) / (pixels.max() - pixels.min()), np.float64)


def lowest(combination: Combination) -> int:
    """Return the lowest value that can be stored."""
    return -(1 << (combination.stored - 1)) if combination.signed else 0


def highest(combination: Combination) -> int:
    """Return the highest value that can be stored."""
    return lowest(combination) + (1 << combination.stored) - 1


def stored_values(combination: Combination) -> tuple[Values, NDArray[np.bool_]]:
    """Return the values that are stored, over the whole range, and where they are padding."""
    image = radiograph()
    values = np.rint(image * ((1 << combination.stored) - 1)).astype(np.int32) + lowest(combination)
    if combination.syntax == "jpeg-ls-near":
        # JPEG-LS codes no sign: an error at the end of the range would change it.
        values = np.clip(values, lowest(combination) + NEAR, highest(combination) - NEAR)
    padded = np.zeros(values.shape, bool)
    if combination.padding != "none":
        # What is no padding must not look like it.
        low, high = lowest(combination), highest(combination)
        values = np.clip(values, low + 4, high - 1).astype(np.int32)
        padded[:, :PADDED_COLUMNS] = True
        fill = {
            "lowest": np.full(values.shape, low),
            "highest": np.full(values.shape, high),
            "range": low + np.arange(values.size).reshape(values.shape) % 4,
        }[combination.padding]
        values = np.where(padded, fill, values).astype(np.int32)
    return values, padded


def native(values: Values, combination: Combination) -> bytes:
    """Return values as Pixel Data in little endian: two's complement in the stored bits, above them 0 or an overlay."""
    words = values.astype(np.int64) & ((1 << combination.stored) - 1)
    if combination.left:
        words <<= combination.allocated - combination.stored
    if combination.overlay == "above":
        words |= (np.indices(words.shape).sum(axis=0) % 3 == 0).astype(np.int64) << combination.stored
    data = words.astype("<u1" if combination.allocated == 8 else "<u2").tobytes()
    return data + b"\0" * (len(data) % 2)


def header(combination: Combination) -> FileDataset:
    """Return a data set of a Digital X-Ray image for presentation without its pixels (PS3.3 A.26)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = uid.generate_uid(entropy_srcs=["edgerad oracle", combination.name])
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = dataset.SeriesInstanceUID = uid.generate_uid(entropy_srcs=["edgerad oracle"])
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Oracle^Phantom", "ORACLE", "19700101"
    dataset.PatientSex, dataset.StudyDate, dataset.StudyTime = "O", "20260101", "120000"
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", "PA"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = combination.photometric
    dataset.Rows, dataset.Columns = radiograph().shape
    dataset.BitsAllocated, dataset.BitsStored = combination.allocated, combination.stored
    dataset.HighBit = (combination.allocated if combination.left else combination.stored) - 1
    dataset.PixelRepresentation = int(combination.signed)
    dataset.BurnedInAnnotation = "NO"
    if combination.shape != "none":
        dataset.PresentationLUTShape = combination.shape
    return dataset


def add_padding(dataset: Dataset, combination: Combination) -> None:
    """Add the padding's attributes (PS3.3 C.7.5.1.1.2)."""
    if combination.padding == "none":
        return
    kind = "SS" if combination.signed else "US"
    value = highest(combination) if combination.padding == "highest" else lowest(combination)
    dataset.add_new("PixelPaddingValue", kind, value)
    if combination.padding == "range":
        dataset.add_new("PixelPaddingRangeLimit", kind, lowest(combination) + 3)


def add_overlay(dataset: Dataset, combination: Combination) -> None:
    """Add an overlay whose bits lie in the words of the image (PS3.3 C.9.2, retired)."""
    if combination.overlay == "none":
        return
    dataset.add_new(0x60000010, "US", dataset.Rows)
    dataset.add_new(0x60000011, "US", dataset.Columns)
    dataset.add_new(0x60000040, "CS", "G")
    dataset.add_new(0x60000050, "SS", [1, 1])
    dataset.add_new(0x60000100, "US", combination.allocated)
    dataset.add_new(0x60000102, "US", combination.stored)


def add_modality(dataset: Dataset, combination: Combination) -> None:
    """Add a rescale or a modality look-up table (PS3.3 C.11.1)."""
    kind = combination.modality
    if kind in SLOPES or kind == "negative-slope":
        slope, intercept = SLOPES.get(kind, ("-1", str(highest(combination))))
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = slope, intercept, "US"
    elif kind != "none":
        low, high = lowest(combination), highest(combination)
        item = table(kind, low, high - low + 1, combination, gamma=0.8)
        item.ModalityLUTType = "US"
        dataset.ModalityLUTSequence = Sequence([item])


def rescaled_range(combination: Combination) -> tuple[float, float]:
    """Return the lowest and the highest value after the modality transformation."""
    kind = combination.modality
    if kind.startswith("lut"):
        return 0, (1 << bits_of(kind)) - 1
    low, high = lowest(combination), highest(combination)
    if kind in SLOPES:
        slope, intercept = (float(number) for number in SLOPES[kind])
        return low * slope + intercept, high * slope + intercept
    return (0, high - low) if kind == "negative-slope" else (low, high)


def add_voi(dataset: Dataset, combination: Combination) -> None:
    """Add a window or a VOI look-up table (PS3.3 C.11.2) that covers a part of the range, so that both ends are cut."""
    kind = combination.voi
    low, high = rescaled_range(combination)
    span = high - low
    if kind.startswith("lut"):
        if kind == "lut65536":
            first, count = (-32768 if low < 0 else 0), 65536
        else:
            first, count = int(low + span // 8), min(65535, int(span // 4 * 3))
        dataset.VOILUTSequence = Sequence([table(kind, first, count, combination, gamma=1.2)])
    elif kind != "none":
        dataset.WindowCenter, dataset.WindowWidth = str(round(low + span * 0.45)), str(max(2, round(span * 0.7)))
        if kind != "linear" or combination.signed:
            dataset.VOILUTFunction = {"linear-exact": "LINEAR_EXACT"}.get(kind, kind.upper())


def bits_of(kind: str) -> int:
    """Return the bits of each entry of a kind of table."""
    return {"lut65536": 16, "lut12-reversed": 12}.get(kind) or int(kind.removeprefix("lut").partition("-")[0])


def table(kind: str, first: int, count: int, combination: Combination, gamma: float) -> Dataset:
    """Return an item with a look-up table of so many entries; `first` is the first value that it maps."""
    bits = bits_of(kind)
    entries = np.rint(np.linspace(0, 1, count) ** gamma * ((1 << bits) - 1)).astype(np.uint16)
    if kind.endswith("-reversed"):
        entries = entries[::-1]
    item = Dataset()
    number = 0 if count == 65536 else count
    # A negative first value is often written as US (its two's complement); SS cannot hold many entries.
    if first < 0 and combination.photometric == "MONOCHROME2" and number <= 32767:
        item.add_new("LUTDescriptor", "SS", [number, first, bits])
    else:
        item.add_new("LUTDescriptor", "US", [number, first & 0xFFFF, bits])
    if kind == "lut8-bytes":
        data = entries.astype(np.uint8).tobytes()
        item.add_new("LUTData", "OW", data + b"\0" * (len(data) % 2))
    elif combination.photometric == "MONOCHROME2" or count * 2 > 65534:
        item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    else:
        item.add_new("LUTData", "US", entries.tolist())
    return item
