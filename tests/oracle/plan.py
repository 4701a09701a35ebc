"""What is compared with which reader, why the rest is not, and how close the values must be."""

from __future__ import annotations

from typing import Literal

from tests.oracle.combinations import JPEG_2000, Combination
from tests.oracle.writing import bits_of, rescaled_range

Reader = Literal["dcmtk", "GDCM"]
What = Literal["stored", "rescaled", "displayed"]
READERS: tuple[Reader, ...] = ("dcmtk", "GDCM")
LOSSY_LEVELS = 1
"""How far two decoders of a lossy codestream may differ, in stored values: the inverse DCT and wavelet may be rounded
differently (ITU-T T.81 A.3.3, ITU-T T.83)."""
STEP_16 = 1 / 65535
FAULTS = {
    "no decoder": "dcmtk 3.6 has no decoder of JPEG 2000 and HTJ2K.",
    "left": "GDCM 3.2 does not shift left-justified values: it masks the lowest bits of the word. PS3.5 8.1.1 puts the "
    "value at High Bit.",
    "modality table": "GDCM applies no Modality LUT Sequence.",
    "whole numbers": "dcmtk 3.6 keeps whole numbers after a rescale with fractions. PS3.3 Table C.11-1 (m × SV + b) "
    "rounds nothing.",
    "no display": "GDCM applies no VOI LUT and no polarity.",
}
"""Why a reader is not asked for something."""


def why_not_compared(combination: Combination, what: What, reader: Reader) -> str | None:
    """Return the key of FAULTS that tells why a reader's values are not compared, None when they are."""
    if reader == "dcmtk":
        if combination.syntax in JPEG_2000:
            return "no decoder"
        return "whole numbers" if what == "rescaled" and combination.modality == "fraction" else None
    if what == "displayed":
        return "no display"
    if combination.left:
        return "left"
    return "modality table" if what == "rescaled" and combination.modality.startswith("lut") else None


def stored_tolerance(combination: Combination) -> int:
    """Return how far stored values may differ between decoders."""
    return LOSSY_LEVELS if combination.lossy else 0


def rescaled_tolerance(combination: Combination) -> float:
    """Return how far values after the modality step may differ, beside what the codec's tolerance becomes by it."""
    return 0.02 + stored_tolerance(combination) * steepest(combination)


def steepest(combination: Combination) -> float:
    """Return by how much one stored value more can change the value after the modality step."""
    if combination.modality.startswith("lut"):
        # The table is a power of .8 over the whole range: steepest at its first entry.
        count = 1 << combination.stored
        return float(((1 << bits_of(combination.modality)) - 1) * (1 / (count - 1)) ** 0.8 + 1)
    return 0.4375 if combination.modality == "fraction" else 1.0


def displayed_tolerance(combination: Combination) -> float:
    """Return how far displayed values between 0 and 1 may differ from dcmtk's.

    dcmtk writes 16 bits. It scales table entries of n bits by 2^16/2^n, where white is (2^16-1)/(2^n-1).
    """
    tolerance = 2 * STEP_16
    low, high = rescaled_range(combination)
    if combination.voi.startswith("lut"):
        tolerance += 2.0 ** -bits_of(combination.voi)
    if combination.modality == "fraction":
        tolerance += 1.5 / (0.7 * (high - low))  # dcmtk's whole numbers, see FAULTS
    return tolerance
