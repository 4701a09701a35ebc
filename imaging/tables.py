"""Modality and VOI look-up tables, in every form in which devices write them (PS3.3 C.11.1.1 and C.11.2.1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydicom.multival import MultiValue

from imaging.attributes import items, named, value_of
from imaging.refusal import Unreadable

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


@dataclass(frozen=True)
class Table:
    """A look-up table: `entries[0]` is what `first` maps to; values before and behind map to the ends."""

    first: int
    entries: npt.NDArray[np.uint16]
    bits: int = 16
    """Bits of an entry, as the descriptor says: the range of the output."""

    def __call__(self, values: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
        """Map values of any shape; fractions are rounded."""
        whole = values if values.dtype.kind in "iu" else np.rint(values)
        index = np.clip(whole.astype(np.int64) - self.first, 0, len(self.entries) - 1)
        return self.entries[index]


def table_of(dataset: Dataset, sequence: str, *, signed: bool, little_endian: bool) -> Table | None:
    """Read the first table of `ModalityLUTSequence` or `VOILUTSequence`; None when there is none.

    `signed` says whether the values that the table maps can be negative: it decides how the first mapped value is read,
    for many devices write it with the VR of the other sign. Raises Unreadable `bad-table`, naming the table.
    """
    found = items(dataset, sequence)
    if not found:
        return None
    item = found[0]
    try:
        count, first, bits = (int(value) for value in _descriptor(item))
        data = value_of(item, "LUTData")
    except (Unreadable, TypeError, ValueError):
        raise _bad(sequence, f"its {named('LUTDescriptor')} is no three numbers") from None
    count %= 1 << 16
    count = count or 1 << 16  # 0 stands for 65,536
    if not 8 <= bits <= 16:
        raise _bad(sequence, f"its entries have {bits} bits, 8 to 16 are defined")
    if data is None:
        raise _bad(sequence, f"it has no {named('LUTData')}")
    entries = _entries(data, count, bits, little_endian=little_endian)
    if entries is None:
        raise _bad(sequence, f"its {named('LUTData')} are shorter than its {count} entries")
    first %= 1 << 16
    if signed and first >= 1 << 15:
        first -= 1 << 16
    return Table(first, entries, bits)


def _descriptor(item: Dataset) -> list[Any]:
    value = value_of(item, "LUTDescriptor")
    if isinstance(value, bytes):
        value = np.frombuffer(value, "<u2").tolist()
    found = list(value) if isinstance(value, MultiValue | list | tuple) else []
    if len(found) != 3:
        raise ValueError(len(found))
    return found


def _entries(data: Any, count: int, bits: int, *, little_endian: bool) -> npt.NDArray[np.uint16] | None:
    """Return the entries; 8-bit entries lie one in a byte, or one in a word: their length tells. None: too few."""
    if isinstance(data, bytes):
        words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if little_endian else ">u2")
        odd = data[len(words) * 2 :]
    else:
        values = np.atleast_1d(np.asarray(list(data) if isinstance(data, MultiValue | list | tuple) else [data]))
        words, odd = (values.astype(np.int64) & 0xFFFF).astype(np.uint16), b""
    if len(words) >= count:
        return words[:count].astype(np.uint16)
    packed = np.concatenate((words.astype("<u2").view(np.uint8), np.frombuffer(odd, np.uint8)))
    if bits == 8 and count <= len(packed) <= count + 1:
        return packed[:count].astype(np.uint16)
    return None


def _bad(sequence: str, why: str) -> Unreadable:
    return Unreadable("bad-table", f"{named(sequence)} cannot be applied: {why}")
