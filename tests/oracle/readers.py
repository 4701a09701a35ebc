"""Two readers that share no code with edgerad: dcmtk's programs and GDCM."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import gdcm
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread, uid

from tests.oracle.codecs import Values
from tests.oracle.combinations import Combination

STEPS = 64
"""Into how many steps each unit is divided when dcmtk writes rescaled values."""
RESCALED_BITS = 24
DISPLAYED_BITS = 16
DECODERS = {
    uid.JPEGBaseline8Bit: "dcmdjpeg",
    uid.JPEGExtended12Bit: "dcmdjpeg",
    uid.JPEGLossless: "dcmdjpeg",
    uid.JPEGLosslessSV1: "dcmdjpeg",
    uid.JPEGLSLossless: "dcmdjpls",
    uid.JPEGLSNearLossless: "dcmdjpls",
    uid.RLELossless: "dcmdrle",
}
"""dcmtk's decoders by transfer syntax; the others that are not encapsulated need none."""
RENDERERS = {"dcmdjpeg": "dcmj2pnm", "dcmdjpls": "dcml2pnm"}
GDCM_TYPES = {
    gdcm.PixelFormat.UINT8: np.uint8,
    gdcm.PixelFormat.INT8: np.int8,
    gdcm.PixelFormat.UINT12: np.uint16,
    gdcm.PixelFormat.INT12: np.int16,
    gdcm.PixelFormat.UINT16: np.uint16,
    gdcm.PixelFormat.INT16: np.int16,
}


class CannotRead(Exception):
    """A reader does not read this file; the text says why."""


def dcmtk_stored(path: Path) -> Values:
    """Return the stored values (rows x columns) that dcmtk decodes.

    The decoded file is in explicit VR little endian. Bits Stored and High Bit say where in a word a value is (PS3.5
    8.1.1).
    """
    decoder = _decoder(path)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.dcm"
        _run([*([decoder] if decoder else ["dcmconv", "+te"]), str(path), str(plain)])
        dataset = dcmread(plain)
    kind = np.dtype("<u1" if dataset.BitsAllocated == 8 else "<u2")
    count = dataset.Rows * dataset.Columns
    words = np.frombuffer(dataset.PixelData, kind, count).astype(np.int32)
    shifted = words >> (dataset.HighBit + 1 - dataset.BitsStored)
    return _cut(shifted, dataset.BitsStored, bool(dataset.PixelRepresentation)).reshape(dataset.Rows, dataset.Columns)


def dcmtk_rescaled(path: Path) -> NDArray[np.float64]:
    """Return the values after dcmtk's modality transformation, to 1/STEPS.

    dcmtk shows them through a LINEAR window (PS3.3 C.11.2.1.2.1) that is so wide that nothing is cut and each
    unit becomes STEPS grey levels.
    """
    top = (1 << RESCALED_BITS) - 1
    low = -(top // STEPS) // 2
    width = top / STEPS + 1
    window = ["+Ww", f"{low + (width - 1) / 2 + 0.5}", f"{width}", "+Wfl"]
    # With a shape of one's own, here IDENTITY, dcmtk does not invert MONOCHROME1.
    return _rendered(path, [*window, "+Pid", "+opn", str(RESCALED_BITS)]) / STEPS + low


def dcmtk_displayed(path: Path, combination: Combination) -> NDArray[np.float64]:
    """Return what dcmtk displays by the file's own attributes, between 0 (black) and 1 (white).

    Without window and table dcmtk shows from the lowest to the highest value. It is told two things: LINEAR_EXACT,
    which it does not know, as the LINEAR window of the same line (PS3.3 C.11.2.1.2.1, C.11.2.1.3.2); and that
    MONOCHROME1 is inverted where Presentation LUT Shape is IDENTITY, for there it follows the shape alone.
    """
    options = ["+Wm"] if combination.voi == "none" else ["+Wi", "1"]
    if combination.voi.startswith("lut"):
        options = ["+Wl", "1"]
    elif combination.voi == "linear-exact":
        header = dcmread(path, stop_before_pixels=True)
        options = ["+Ww", str(header.WindowCenter + 0.5), str(header.WindowWidth + 1), "+Wfl"]
    if combination.photometric == "MONOCHROME1" and combination.shape == "IDENTITY":
        options.append("+Piv")
    shown = _rendered(path, [*options, "+opn", str(DISPLAYED_BITS)])
    return np.asarray(shown / ((1 << DISPLAYED_BITS) - 1), np.float64)


def _rendered(path: Path, options: list[str]) -> NDArray[np.int64]:
    renderer = RENDERERS.get(_decoder(path) or "", "dcm2pnm")
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.pgm"
        _run([renderer, "-O", *options, str(path), str(image)])
        words = image.read_text(encoding="ascii").split("\n", 1)[1].split()
    # P2, perhaps a comment, columns, rows, highest value, values.
    numbers = [int(word) for word in words if word.isdigit()]
    columns, rows = numbers[0], numbers[1]
    return np.array(numbers[3:], np.int64).reshape(rows, columns)


def _decoder(path: Path) -> str | None:
    syntax = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"]).file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and syntax not in DECODERS:
        raise CannotRead(f"dcmtk has no decoder of {syntax.name}")
    return DECODERS.get(syntax)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise CannotRead(f"{command[0]}: {done.stderr.strip()[-400:]}")


def gdcm_stored(path: Path) -> Values:
    """Return the stored values (rows x columns) that GDCM decodes."""
    return _gdcm(path)[0]


def gdcm_rescaled(path: Path) -> NDArray[np.float64]:
    """Return GDCM's stored values with the slope and intercept that GDCM reads."""
    values, slope, intercept = _gdcm(path)
    return np.asarray(values * slope + intercept, np.float64)


def _gdcm(path: Path) -> tuple[Values, float, float]:
    """Return the stored values, slope and intercept. The reader owns the image: it must live as long."""
    gdcm.ImageHelper.SetForceRescaleInterceptSlope(True)  # GDCM reads them for some storage classes only
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        raise CannotRead("GDCM does not read the file")
    image = reader.GetImage()
    kind = GDCM_TYPES[image.GetPixelFormat().GetScalarType()]
    columns, rows = image.GetDimension(0), image.GetDimension(1)
    data = image.GetBuffer().encode("utf-8", "surrogateescape")
    words = np.frombuffer(data, kind, rows * columns).reshape(rows, columns).astype(np.int32)
    # What stands above the stored bits is for the caller to leave out.
    values = _cut(words, image.GetPixelFormat().GetBitsStored(), bool(image.GetPixelFormat().GetPixelRepresentation()))
    return values, image.GetSlope(), image.GetIntercept()


def _cut(words: Values, bits: int, signed: bool) -> Values:
    """Return words as numbers of so many bits, in two's complement when `signed`."""
    values = words & ((1 << bits) - 1)
    return (np.where(values >> (bits - 1), values - (1 << bits), values) if signed else values).astype(np.int32)
