"""Read one DICOM radiograph: gates by SOP class, modality, body part and view, then pixels on the MONOCHROME2 scale.

The grey-scale pipeline is that of PS3.3 C.11 (modality LUT, VOI LUT) and C.7.6.3.1.2 (photometric interpretation).
"""

from __future__ import annotations

import logging
import re
import struct
import warnings
import zlib
from io import BytesIO
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import uid
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

from serve.decode import DecodedImage, Limits, check_size, reduce_pixels
from serve.preprocess import Plane
from serve.reasons import Unreadable
from serve.screen import chroma

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

HEADER_KEYWORDS = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyInstanceUID",
    "SOPInstanceUID", "StudyDate", "StudyTime", "Modality", "ViewPosition", "BodyPartExamined", "InstitutionName",
)  # fmt: skip
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
RADIOGRAPHIC_MODALITIES = frozenset({"", "CR", "DX", "RG"})
CAPTURED_MODALITIES = RADIOGRAPHIC_MODALITIES | {"OT", "SC"}
MODALITIES = RADIOGRAPHIC_MODALITIES | {
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
MIN_WINDOW_SHARE = (
    0.5  # a VOI window that would clip more of the pixels than this shows something else than a whole chest
)
RLE_HEADER = 64
JPEG_FAMILY = frozenset(uid.JPEGTransferSyntaxes) | frozenset(uid.JPEGLSTransferSyntaxes)
JPEG_2000_FAMILY = frozenset(uid.JPEG2000TransferSyntaxes) | frozenset(
    {uid.HTJ2K, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL}
)


def decode_dicom(data: bytes, limits: Limits) -> tuple[DecodedImage, float]:
    """Decode a DICOM file to grey pixels and its measured colour; raises Unreadable and nothing else."""
    _silence_pydicom()
    dataset: Dataset | None = None
    try:
        dataset = read_dataset(data, limits)
        return _decode(dataset, limits)
    except Unreadable as refusal:
        if dataset is not None:
            refusal.header = header_of(dataset)
        raise
    except MemoryError:
        raise Unreadable("too-large", "not enough memory to decode the pixels") from None
    except Exception as error:  # noqa: BLE001 - parser and codecs raise what they like; their texts may quote the header
        raise Unreadable("corrupt", f"header and pixels do not fit together ({type(error).__name__})") from None


def _decode(dataset: Dataset, limits: Limits) -> tuple[DecodedImage, float]:
    check_kind(dataset)
    rows, columns = _checked_shape(dataset, limits)
    stored = _stored_pixels(dataset)
    if stored.shape[:2] != (rows, columns):
        raise Unreadable("corrupt", f"the pixels are {stored.shape[:2]}, the header says {(rows, columns)}")
    colour = 0.0
    if stored.ndim == 3:
        if stored.dtype not in (np.uint8, np.uint16):
            raise Unreadable("unsupported", f"colour of {stored.dtype.itemsize * 8} bits a sample")
        rgb = np.ascontiguousarray(stored)
        colour = chroma(rgb)
        grey: Plane = reduce_pixels(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), limits.reduce_to)
    else:
        grey = _to_monochrome2(dataset, stored, limits)
    return DecodedImage(_to_uint16(grey), "dicom", rows, columns, header_of(dataset)), colour


def read_dataset(data: bytes, limits: Limits) -> Dataset:
    """Parse the data set, pixels still encoded; raises Unreadable."""
    try:
        _check_deflated(data, limits)
        dataset = pydicom.dcmread(BytesIO(data), force=data[128:132] != b"DICM")
    except Unreadable:
        raise
    except EOFError:
        raise Unreadable("truncated", "the DICOM data end inside an element") from None
    except InvalidDicomError:
        raise Unreadable("unsupported", "the data are not DICOM") from None
    except Exception as error:  # noqa: BLE001 - pydicom raises many types, and their texts may quote values
        raise Unreadable("corrupt", f"the DICOM data set does not parse ({type(error).__name__})") from None
    if "SOPClassUID" not in dataset and "Rows" not in dataset:
        raise Unreadable("corrupt", "the data set names neither a SOP class nor an image")
    return dataset


def check_kind(dataset: Dataset) -> None:
    """Refuse what is surely no single frontal chest radiograph; what the header leaves open passes."""
    sop_class, modality = _text(dataset, "SOPClassUID"), _text(dataset, "Modality").upper()
    if modality in OTHER_PROJECTIONS:
        raise Unreadable("not-chest", f"modality {modality}")
    known = RADIOGRAPHY | SECONDARY_CAPTURE
    if sop_class and sop_class not in known:
        raise Unreadable("not-a-radiograph", f"SOP class {_uid_name(sop_class)}")
    allowed = RADIOGRAPHIC_MODALITIES if sop_class in RADIOGRAPHY else CAPTURED_MODALITIES
    if modality not in allowed:
        # What is none of the standard's codes could be anything, a name too, so it is not repeated.
        raise Unreadable("not-a-radiograph", f"modality {modality if modality in MODALITIES else 'unknown'}")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise Unreadable("multi-frame", f"{int(dataset.NumberOfFrames)} frames")
    part = re.sub(r"[^A-Z]", "", _text(dataset, "BodyPartExamined").upper())
    found = next((word for word in NOT_CHEST if word in part), None)
    if found and not any(word in part for word in CHEST):
        raise Unreadable("not-chest", f"body part {found}")
    view = _text(dataset, "ViewPosition").upper()
    if view in NOT_FRONTAL:
        raise Unreadable("not-frontal", f"view position {view}")


def header_of(dataset: Dataset) -> dict[str, str]:
    """Return the worklist's keywords that have a value; patient data."""
    values = {keyword: _text(dataset, keyword)[:256] for keyword in HEADER_KEYWORDS}
    return {keyword: value for keyword, value in values.items() if value}


def codestream_shape(frame: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) that a JPEG, JPEG-LS or JPEG 2000 codestream declares; None if it shows none.

    Sources: ISO/IEC 10918-1 B.2.2 (SOF), ISO/IEC 14495-1 C.2.2 (SOF55), ISO/IEC 15444-1 A.5.1 (SIZ).
    """
    start = frame.find(b"\xff\x4f\xff\x51")
    if 0 <= start < 512:
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        return bottom - top, right - left
    offset = 2
    while offset + 9 <= len(frame) and frame[offset] == 0xFF:
        marker = frame[offset + 1]
        if marker == 0xFF:
            offset += 1
            continue
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            rows, columns = struct.unpack_from(">HH", frame, offset + 5)
            return rows, columns
        offset += 2 + int(struct.unpack_from(">H", frame, offset + 2)[0])
    return None


def _silence_pydicom() -> None:
    """Keep pydicom from quoting header values, which are patient data, in warnings and logs.

    Repeated at every call: whoever resets the warning filters in between would undo it.
    """
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")


def _check_deflated(data: bytes, limits: Limits) -> None:
    """Refuse a deflated data set that would inflate beyond the byte limit (PS3.5 A.5), before pydicom inflates it."""
    if data[128:132] != b"DICM":
        return
    # pydicom would inflate already to read the file meta information, so it is searched as bytes (PS3.10 7.1).
    if uid.DeflatedExplicitVRLittleEndian.encode() not in data[132:2048]:
        return
    if data[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        raise Unreadable("corrupt", "a deflated file without the length of its meta information")
    start = 144 + int(struct.unpack_from("<I", data, 140)[0])
    inflater, size, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, data[start:]
    while rest and not inflater.eof:
        try:
            size += len(inflater.decompress(rest, 1 << 20))
        except zlib.error:
            raise Unreadable("corrupt", "the deflated data set does not inflate") from None
        rest = inflater.unconsumed_tail
        if size > limits.max_bytes:
            raise Unreadable("too-large", f"the deflated data set exceeds {limits.max_bytes} bytes")
    if not inflater.eof:
        raise Unreadable("truncated", "the deflated data set ends too early")


def _checked_shape(dataset: Dataset, limits: Limits) -> tuple[int, int]:
    """Check size, frames and that the pixel data can hold what the header promises, before decoding."""
    if "Rows" not in dataset or "Columns" not in dataset:
        raise Unreadable("no-pixels", "no Rows (0028,0010) and Columns (0028,0011)")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    check_size(rows, columns, limits)
    if "PixelData" not in dataset:
        raise Unreadable("no-pixels", "no PixelData (7FE0,0010): an object without image, or cut off before it")
    syntax = _syntax(dataset)
    if syntax is None or not syntax.is_compressed or syntax == uid.DeflatedExplicitVRLittleEndian:
        bits = rows * columns * int(dataset.get("SamplesPerPixel", 1)) * int(dataset.get("BitsAllocated", 8))
        if _text(dataset, "PhotometricInterpretation") == "YBR_FULL_422":  # two pixels share their chroma
            bits = bits * 2 // 3
        if len(dataset.PixelData) * 8 < bits:
            raise Unreadable("truncated", f"{len(dataset.PixelData)} bytes of pixels, {bits // 8} expected")
        return rows, columns
    try:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    except (ValueError, EOFError, struct.error):
        raise Unreadable("truncated", "the encapsulated pixel data end too early") from None
    if syntax == uid.RLELossless:
        whole = rows * columns * int(dataset.get("SamplesPerPixel", 1)) * int(dataset.get("BitsAllocated", 8)) // 8
        if len(frame) > RLE_HEADER + 2 * whole:  # PS3.5 G.3.1: at worst 129 bytes for 128
            raise Unreadable("corrupt", f"{len(frame)} bytes of run lengths for {whole} bytes of pixels")
    if syntax in JPEG_FAMILY or syntax in JPEG_2000_FAMILY:
        try:
            declared = codestream_shape(frame)
        except struct.error:
            declared = None
        if declared != (rows, columns):
            raise Unreadable("corrupt", f"the codestream declares {declared}, the header {(rows, columns)}")
        if b"\xff\xd9" not in frame[-16:]:  # end of image, then padding
            raise Unreadable("truncated", "the codestream lacks its end marker")
    return rows, columns


def _stored_pixels(dataset: Dataset) -> Plane:
    """Decode to stored values [rows, columns], or RGB [rows, columns, 3]."""
    # PS3.5 chapter 10: without a declared syntax the default is Implicit VR Little Endian, as the parser assumed.
    syntax = _syntax(dataset) or uid.ImplicitVRLittleEndian
    try:
        array, properties = get_decoder(syntax).as_array(dataset, index=0, raw=False)
    except NotImplementedError:
        raise Unreadable("unsupported", f"no decoder for transfer syntax {_uid_name(syntax)}") from None
    except (MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - as above; the RLE decoder, in Rust, panics past Exception
        raise Unreadable("corrupt", f"the pixel data do not decode ({type(error).__name__})") from None
    photometric = str(properties["photometric_interpretation"])
    if photometric == "PALETTE COLOR":
        return np.asarray(apply_color_lut(array, dataset))
    if photometric not in {"MONOCHROME1", "MONOCHROME2"} and array.ndim != 3:
        raise Unreadable("unsupported", "a photometric interpretation other than grey, RGB, YBR or palette")
    return np.asarray(array)


def _to_monochrome2(dataset: Dataset, stored: Plane, limits: Limits) -> Plane:
    """Apply padding, reduction, modality LUT, VOI LUT and photometric interpretation, in this order.

    Reducing before the tables saves most of the time; on neighbouring pixels the tables are as good as linear.
    """
    values = _significant_bits(dataset, stored)
    invert = _text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    invert = invert or _text(dataset, "PresentationLUTShape").upper() == "INVERSE"
    filled = _fill_padding(dataset, values, bright=invert)
    scaled = np.asarray(apply_modality_lut(reduce_pixels(filled, limits.reduce_to), dataset))
    windowed = _apply_voi(dataset, scaled)
    return windowed.max() - windowed if invert else windowed


def _significant_bits(dataset: Dataset, stored: Plane) -> npt.NDArray[np.int32]:
    """Return the BitsStored (0028,0101) bits below HighBit (0028,0102); old overlays sit in the others."""
    allocated, bits = int(dataset.BitsAllocated), int(dataset.get("BitsStored") or dataset.BitsAllocated)
    high = int(dataset.get("HighBit", bits - 1))
    if not 0 < bits <= allocated or not bits - 1 <= high < allocated:
        raise Unreadable("corrupt", f"BitsStored {bits} and HighBit {high} of {allocated} allocated bits")
    values = stored.astype(np.int32) >> (high + 1 - bits)
    values &= (1 << bits) - 1
    if int(dataset.get("PixelRepresentation", 0)) == 1:
        values = np.where(values >> (bits - 1), values - (1 << bits), values).astype(np.int32)
    return values


def _fill_padding(dataset: Dataset, values: npt.NDArray[np.int32], *, bright: bool) -> npt.NDArray[np.int32]:
    """Set padding (PS3.3 C.7.5.1.1.2) to the end of the real values that will show as black."""
    padding = dataset.get("PixelPaddingValue")
    if padding is None:
        return values
    limit = dataset.get("PixelPaddingRangeLimit", padding)
    low, high = sorted((int(padding), int(limit)))
    mask = (values >= low) & (values <= high)
    if not mask.any() or mask.all():
        return values
    real = values[~mask]
    return np.where(mask, real.max() if bright else real.min(), values).astype(np.int32)


def _apply_voi(dataset: Dataset, values: Plane) -> npt.NDArray[np.float64]:
    """Apply the first VOI LUT or window (PS3.3 C.11.2), unless it hides most of the image or is malformed.

    A reader can change a narrow window (say, for the spine), the model cannot: it then gets the whole range.
    """
    plain = values.astype(np.float64)
    if "VOILUTSequence" not in dataset and "WindowCenter" not in dataset:
        return plain
    try:
        shown = _table(dataset, values) if "VOILUTSequence" in dataset else _window(dataset, plain)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, NotImplementedError):
        return plain
    low, high = shown.min(), shown.max()
    inside = float(np.mean((shown > low) & (shown < high)))
    original = float(np.mean((plain > plain.min()) & (plain < plain.max())))
    return shown if inside >= MIN_WINDOW_SHARE * original else plain


def _table(dataset: Dataset, values: Plane) -> npt.NDArray[np.float64]:
    """A VOI LUT is indexed by whole numbers; a modality LUT may have given others."""
    return np.asarray(apply_voi_lut(np.rint(values).astype(np.int32), dataset, index=0), np.float64)


def _window(dataset: Dataset, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Apply the first window, to 0..1 (PS3.3 C.11.2.1.2, C.11.2.1.3); pydicom's turns a negative slope around."""
    center, width = (float(np.ravel([dataset[keyword].value])[0]) for keyword in ("WindowCenter", "WindowWidth"))
    function = _text(dataset, "VOILUTFunction").upper() or "LINEAR"
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR":
        center, width = center - 0.5, max(width - 1, 1e-9)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _to_uint16(values: Plane) -> npt.NDArray[np.uint16]:
    plain = values.astype(np.float64)
    low, high = float(plain.min()), float(plain.max())
    if high <= low:
        return np.zeros(plain.shape, np.uint16)
    if values.dtype == np.uint8:  # colour turned grey: keep its scale, so that a blank picture stays blank
        return (plain * 257).astype(np.uint16)
    return np.rint((plain - low) * (65535 / (high - low))).astype(np.uint16)


def _syntax(dataset: Dataset) -> uid.UID | None:
    meta = getattr(dataset, "file_meta", None)
    value = meta.get("TransferSyntaxUID") if meta is not None else None
    return uid.UID(value) if value else None


def _uid_name(value: str) -> str:
    """Return a standard UID's name; another could hold anything, so it is not repeated."""
    name = uid.UID(value).name
    return "unknown" if name == value else name


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
    except Exception:  # noqa: BLE001 - a malformed value is as good as none here
        return ""
    return "" if value is None else str(value).strip()
