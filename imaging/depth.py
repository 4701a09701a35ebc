"""From the words that are stored to pixel values: BitsAllocated, BitsStored, HighBit and sign are read together.

PS3.5 8.1.1 (pixel cells), PS3.3 C.7.6.3. Bits that retired overlays claim by OverlayBitPosition (60xx,0102) are masked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydicom.tag import Tag

from imaging.attributes import integer, named, unusable
from imaging.refusal import Unreadable

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Words = npt.NDArray[np.unsignedinteger[Any]]
Values = npt.NDArray[np.int16 | np.uint16 | np.uint8 | np.int8]
ROWS_AT_A_TIME = 256
"""Rows that are checked at a time where a check needs copies: memory stays flat."""


@dataclass(frozen=True)
class Depth:
    """The pixel cell that the header declares, in bits."""

    allocated: int
    stored: int
    high: int
    signed: bool

    @property
    def shift(self) -> int:
        """Unused bits below the lowest stored one: above 0 where data are left-justified."""
        return self.high + 1 - self.stored


@dataclass(frozen=True)
class Cells:
    """Pixel values [rows, columns], how many bits they take, and the values that are padding."""

    values: Values
    bits: int
    signed: bool
    padding: tuple[int, int] | None
    """First and last value of PixelPaddingValue (0028,0120) to PixelPaddingRangeLimit (0028,0121)."""


def declared_depth(dataset: Dataset, precision: int | None = None) -> Depth:
    """Read the pixel cell; the `precision` of a codestream counts where the header says nothing that fits together.

    Raises Unreadable.
    """
    own = None if precision is None else 8 if precision <= 8 else 16
    cell = integer(dataset, "BitsAllocated") or own
    if cell is None:
        raise Unreadable("bad-attribute", f"{named('BitsAllocated')} is missing")
    stored = integer(dataset, "BitsStored")
    stored = cell if stored is None else stored
    high = integer(dataset, "HighBit")
    high = stored - 1 if high is None else high
    sign = integer(dataset, "PixelRepresentation")
    if sign not in (None, 0, 1):
        raise unusable("PixelRepresentation", "is neither 0 nor 1")
    if 0 < stored <= cell and stored - 1 <= high < cell:
        return Depth(cell, stored, high, sign == 1)
    if own is not None and precision is not None:
        return Depth(own, precision, precision - 1, sign == 1)
    what = f"{named('BitsStored')} {stored} and {named('HighBit')} {high} do not fit {named('BitsAllocated')} {cell}"
    raise Unreadable("contradiction", what)


def cells_of(words: Words, depth: Depth, dataset: Dataset) -> Cells:
    """Return the values of words that are stored as such (native and RLE data). Raises Unreadable `contradiction`."""
    padding = _Padding.of(dataset, depth)
    words = _without_overlays(words, depth, dataset)
    used = int(np.bitwise_or.reduce(words, axis=None))
    below = used & ((1 << depth.shift) - 1)
    if below and not used >> depth.stored:
        raise Unreadable("contradiction", f"{named('HighBit')} {depth.high}, but the pixels are not left-justified")
    if not used >> (depth.high + 1):
        return _cut(words, depth, padding)
    if depth.signed and _all_rows(words, lambda rows: _is_extended(rows, depth)):
        return _cut(words, depth, padding)
    if padding is not None and _all_rows(words, lambda rows: (rows >> (depth.high + 1) == 0) | padding.holds(rows)):
        # Padding may lie outside the stored bits; it then stays what it is, and so does everything else.
        whole = Depth(depth.allocated, depth.allocated, depth.allocated - 1, depth.signed)
        return _cut(words, whole, padding)
    what = f"pixels reach above {named('HighBit')} {depth.high} ({named('BitsStored')} {depth.stored})"
    raise Unreadable("contradiction", what)


def cells_of_codestream(
    samples: npt.NDArray[Any], precision: int, depth: Depth, dataset: Dataset, *, knows_sign: bool
) -> Cells:
    """Return the values of a decoded codestream, which knows its own depth: it decides where the header differs.

    `knows_sign` says that the codestream tells whether samples are signed (JPEG 2000). Elsewhere PixelRepresentation
    (0028,0103) tells whether they are two's complement.
    """
    if knows_sign and integer(dataset, "PixelRepresentation") is not None:
        depth = replace(depth, signed=_is_signed(samples, precision, declared=depth.signed))
        if samples.dtype.kind == "i" and not depth.signed:
            samples = samples.view(f"u{samples.dtype.itemsize}") & ((1 << precision) - 1)
    if samples.dtype.kind == "i":
        signed = Depth(8 * samples.dtype.itemsize, precision, precision - 1, True)
        padding = _Padding.of(dataset, signed)
        return Cells(samples, precision, True, padding.exact() if padding else None)
    cell = Depth(8 * samples.dtype.itemsize, min(depth.stored, precision), min(depth.high, precision - 1), depth.signed)
    words = _without_overlays(samples, cell, dataset)
    used = int(np.bitwise_or.reduce(words, axis=None))
    if used >> precision and not depth.signed:
        raise Unreadable("corrupt", f"decoded samples have more bits than the {precision} of their codestream")
    own = Depth(cell.allocated, precision, precision - 1, depth.signed)
    padding = _Padding.of(dataset, own)
    if cell.shift and used & ((1 << cell.shift) - 1):
        cell = own  # not left-justified, whatever HighBit says
    elif used >> (cell.high + 1) and not (cell.signed and _all_rows(words, lambda rows: _is_extended(rows, cell))):
        cell = own  # more bits than BitsStored says
    return _cut(words, cell, padding)


def _is_signed(samples: npt.NDArray[Any], precision: int, *, declared: bool) -> bool:
    """Return whether samples are signed, where a codestream that knows it and the header may differ.

    Either of them can be wrong: some encoders declare two's complement as unsigned. Read with the wrong sign, an image
    is torn where its values pass the middle of the range: the smoother reading counts, else the codestream's.
    """
    said = samples.dtype.kind == "i"
    if said == declared:
        return said
    rows = samples[:: max(1, len(samples) // ROWS_AT_A_TIME)].astype(np.int32) & ((1 << precision) - 1)
    turned = np.where(rows >> (precision - 1), rows - (1 << precision), rows)
    unsigned, signed = (float(np.abs(np.diff(reading, axis=1)).mean()) for reading in (rows, turned))
    return said if unsigned == signed else signed < unsigned


@dataclass(frozen=True)
class _Padding:
    """PixelPaddingValue and its range limit as words of the cell: the bits count, whatever sign their VR has."""

    first: int
    last: int
    depth: Depth

    @classmethod
    def of(cls, dataset: Dataset, depth: Depth) -> _Padding | None:
        value = integer(dataset, "PixelPaddingValue")
        if value is None:
            return None
        limit = integer(dataset, "PixelPaddingRangeLimit")
        return cls(value, value if limit is None else limit, depth)

    def exact(self) -> tuple[int, int]:
        """Return the range of values, of the whole cell."""
        first, last = sorted((self._value(self.first), self._value(self.last)))
        return first, last

    def stored(self, cell: Depth) -> tuple[int, int]:
        """Return the range of values as the stored bits hold them."""
        first, last = sorted((self._within(self.first, cell), self._within(self.last, cell)))
        return first, last

    def holds(self, words: Words) -> npt.NDArray[np.bool_]:
        first, last = self.exact()
        values = words.view(f"i{words.dtype.itemsize}") if self.depth.signed else words
        return np.asarray((values >= first) & (values <= last))

    def _value(self, number: int) -> int:
        return _signed(number, self.depth.allocated) if self.depth.signed else number % (1 << self.depth.allocated)

    def _within(self, number: int, cell: Depth) -> int:
        """Return a padding number as a value of the stored bits, or as one outside them, which no pixel has."""
        half = 1 << (cell.stored - 1)
        low, high = (-half, half - 1) if cell.signed else (0, 2 * half - 1)
        word = number % (1 << cell.allocated)
        for value in (number, _signed(word, cell.allocated) if cell.signed else word):
            if low <= value <= high:
                return value
        if not cell.shift and number >= 2 * half:
            return number
        word >>= cell.shift  # written as the words are: left-justified
        return _signed(word, cell.stored) if cell.signed else word % (1 << cell.stored)


def _signed(number: int, bits: int) -> int:
    word = number % (1 << bits)
    return word - (1 << bits) if word >> (bits - 1) else word


def _cut(words: Words, depth: Depth, padding: _Padding | None) -> Cells:
    """Take the stored bits out of their cells, with their sign."""
    shown = padding.stored(depth) if padding else None
    unused = depth.allocated - 1 - depth.high
    if not depth.signed:
        values = words >> depth.shift if depth.shift else words
        return Cells(values, depth.stored, False, shown)
    as_signed = words.view(f"i{words.dtype.itemsize}")
    if depth.stored < depth.allocated:
        as_signed = as_signed << unused
        as_signed >>= unused + depth.shift
    return Cells(as_signed, depth.stored, True, shown)


def _is_extended(words: Words, depth: Depth) -> npt.NDArray[np.bool_]:
    """Whether the bits above the highest are all 0 or all copies of the sign."""
    above = words >> (depth.high + 1)
    sign = (words >> depth.high) & 1
    ones = (1 << (depth.allocated - 1 - depth.high)) - 1
    return np.asarray((above == 0) | ((sign == 1) & (above == ones)))


def _all_rows(words: Words, check: Any) -> bool:
    return all(bool(check(words[at : at + ROWS_AT_A_TIME]).all()) for at in range(0, len(words), ROWS_AT_A_TIME))


def _without_overlays(words: Words, depth: Depth, dataset: Dataset) -> Words:
    """Clear the bits outside the stored ones that overlays without data of their own claim (PS3.3 C.9.2, retired)."""
    field = ((1 << depth.stored) - 1) << depth.shift
    claimed = 0
    for group in range(0x6000, 0x6100, 2):
        if Tag(group, 0x0102) not in dataset or Tag(group, 0x3000) in dataset:
            continue
        position = _position(dataset, group)
        if position is not None and 0 <= position < depth.allocated:
            claimed |= 1 << position
    claimed &= ~field
    return words & words.dtype.type(~claimed & ((1 << depth.allocated) - 1)) if claimed else words


def _position(dataset: Dataset, group: int) -> int | None:
    try:
        value = dataset[group, 0x0102].value
        return None if value in (None, "") else int(value)
    except (TypeError, ValueError, NotImplementedError):
        raise Unreadable("bad-attribute", f"OverlayBitPosition ({group:04X},0102) is no whole number") from None
