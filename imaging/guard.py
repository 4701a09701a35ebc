"""The guard at every door: a DICOM file's structure is checked before anything is parsed, inflated or decoded.

It walks over the data elements without keeping them, so that its memory does not grow with the file: a file mapped into
memory (`mmap`) can be checked as well as bytes.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Final

from pydicom import uid

from imaging.limits import DEFAULT_LIMITS, MIB, Limits
from imaging.refusal import Unreadable

Buffer = bytes | bytearray | mmap.mmap
PIXEL_DATA, SEQUENCE_END, ITEM, ITEM_END = 0x7FE00010, 0xFFFEE0DD, 0xFFFEE000, 0xFFFEE00D
FLOAT_PIXEL_DATA: Final = (0x7FE00008, 0x7FE00009)
UNDEFINED: Final = 0xFFFFFFFF
LONG_VRS: Final = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
"""Value representations with a length of 32 bits (PS3.5 7.1.2)."""
LARGE_VALUE: Final = 256 * 1024
"""Bytes of a value that is not kept: no attribute that says whose image it is, or how its pixels are read, has more."""
MAX_META: Final = 64 * 1024
INFLATE_SLICE: Final = 64 * 1024
INFLATED_HEADER: Final = 8 * MIB
"""Of a deflated file that is only looked at, the first bytes of the data set that are kept."""


@dataclass(frozen=True)
class Layout:
    """Where the parts of a DICOM file lie.

    `body` is the data set, inflated where the file is deflated, and `start` its first byte in `body`. `pixels` is the
    offset of the PixelData element (7FE0,0010), None where there is none. `end` is where the walk stopped before it.
    """

    syntax: str | None
    """TransferSyntaxUID (0002,0010); None without file meta information."""
    implicit: bool
    little_endian: bool
    body: Buffer
    start: int
    pixels: int | None
    end: int
    truncated: bool
    """Whether the data end inside an element."""

    @property
    def floats(self) -> bool:
        """Whether the pixels are floating-point numbers."""
        order = "<" if self.little_endian else ">"
        here = bytes(self.body[self.end : self.end + 4])
        return here in [struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF) for tag in FLOAT_PIXEL_DATA]


def check_file(file: BinaryIO, limits: Limits = DEFAULT_LIMITS) -> Layout:
    """Check a file on disk without reading it into memory; raises Unreadable.

    Of a deflated file the first `INFLATED_HEADER` bytes of the data set are kept; the rest is inflated and counted.
    """
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise Unreadable("empty", "the file has 0 bytes")
    if size > limits.max_bytes:
        raise Unreadable("too-large", f"{size} bytes, the limit is {limits.max_bytes}")
    return layout(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), limits, keep=INFLATED_HEADER)


def layout(data: Buffer, limits: Limits = DEFAULT_LIMITS, keep: int | None = None) -> Layout:
    """Find the parts of a DICOM file, with or without preamble (PS3.10 7.1); raises Unreadable.

    Refuses a deflated data set that inflates beyond `max_bytes` (PS3.5 A.5), too many elements, and sequences that are
    nested too deep. `keep` limits how much of an inflated data set is kept.
    """
    syntax, start = meta_of(data)
    body: Buffer = data
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        body, start = _inflate(data, start, limits, keep), 0
    implicit, little = encoding_of(syntax, body, start)
    pixels, end, truncated = _walk(body, start, implicit, little, limits)
    return Layout(syntax, implicit, little, body, start, pixels, end, truncated)


def meta_of(data: Buffer) -> tuple[str | None, int]:
    """Return TransferSyntaxUID and where the data set begins; the meta information is explicit little endian."""
    offset = 132 if data[128:132] == b"DICM" else 0
    syntax = None
    while data[offset : offset + 2] == b"\x02\x00":
        vr = data[offset + 4 : offset + 6]
        if vr in LONG_VRS:
            value, length = offset + 12, _unpack("<I", data, offset + 8)
        else:
            value, length = offset + 8, _unpack("<H", data, offset + 6)
        if value + length > len(data):
            raise Unreadable("truncated", "the DICOM file ends inside its meta information")
        if value + length > MAX_META:
            raise Unreadable("corrupt", "the file meta information is longer than any that is known")
        if data[offset : offset + 4] == b"\x02\x00\x10\x00":
            syntax = data[value : value + length].rstrip(b"\0 ").decode("ascii", "replace")
        offset = value + length
    return syntax or None, offset


def _inflate(data: Buffer, at: int, limits: Limits, keep: int | None) -> bytearray:
    """Inflate from `at` on, up to the byte limit; what lies beyond `keep` is counted and dropped.

    The data are taken in slices, because zlib copies what it did not consume at every call. When all of them are
    consumed, zlib may still hold output.
    """
    inflater, kept, size = zlib.decompressobj(-zlib.MAX_WBITS), bytearray(), 0
    while not inflater.eof:
        piece = inflater.unconsumed_tail
        if not piece:
            piece = bytes(data[at : at + INFLATE_SLICE])
            at += len(piece)
        try:
            part = inflater.decompress(piece, MIB)
        except zlib.error:
            raise Unreadable("corrupt", "the deflated data set does not inflate") from None
        if not piece and not part:
            raise Unreadable("truncated", "the deflated data set ends too early")
        if keep is None or size < keep:
            kept += part
        size += len(part)
        if size > limits.max_bytes:
            raise Unreadable("too-large", f"the deflated data set exceeds {limits.max_bytes} bytes")
    return kept


def encoding_of(syntax: str | None, body: Buffer, start: int) -> tuple[bool, bool]:
    """Return whether the data set is implicit, and little endian: by its syntax, but for a VR that contradicts it.

    Some writers declare one and write the other; an explicit data set has two capital letters at the fifth byte.
    """
    first = body[start + 4 : start + 6]
    looks_explicit = len(first) == 2 and first.isalpha() and first.isupper()
    big = syntax == uid.ExplicitVRBigEndian or (syntax is None and looks_explicit and body[start : start + 1] == b"\0")
    return not looks_explicit, not big


def _walk(body: Buffer, offset: int, implicit: bool, little: bool, limits: Limits) -> tuple[int | None, int, bool]:
    """Return where PixelData begins (or None), where the walk ended, and whether the data end inside an element."""
    tag_of: Callable[[Buffer, int], tuple[int, ...]] = struct.Struct("<HH" if little else ">HH").unpack_from
    size, count, kept = len(body), 0, 0
    ends: list[int | None] = []
    """Of each open sequence and item: its end, or None where a delimiter ends it."""
    while offset + 8 <= size:
        while ends and (end := ends[-1]) is not None and offset >= end:
            ends.pop()
        group, element = tag_of(body, offset)
        tag = group << 16 | element
        count += 1
        if count > limits.max_elements:
            raise Unreadable("too-large", f"more than {limits.max_elements} data elements")
        if not ends and tag in (PIXEL_DATA, *FLOAT_PIXEL_DATA):
            return (offset if tag == PIXEL_DATA else None), offset, False
        if tag in (ITEM_END, SEQUENCE_END):
            _close(ends)
            offset += 8
            continue
        value, length, nested = _element(body, offset, tag, implicit, little)
        if tag == PIXEL_DATA and length == UNDEFINED:  # of an icon: its fragments hold no elements
            offset = _behind_fragments(body, value, little, limits)
        elif nested or length == UNDEFINED:  # UN of undefined length is a sequence, too (PS3.5 6.2.2)
            ends.append(None if length == UNDEFINED else value + length)
            if len(ends) > 2 * limits.max_depth:  # a sequence and its item make two
                raise Unreadable("corrupt", f"sequences nested deeper than {limits.max_depth} levels")
            offset = value
        elif value + length > size:
            return None, offset, True
        else:
            kept += length if ends or length <= LARGE_VALUE else 0
            if kept > limits.max_header:
                raise Unreadable("too-large", f"the header holds more than {limits.max_header} bytes of values")
            offset = value + length
    return None, offset, offset < size


def _behind_fragments(body: Buffer, offset: int, little: bool, limits: Limits) -> int:
    """Return the offset behind encapsulated pixel data (PS3.5 A.4), or the end of the data."""
    unpack = struct.Struct("<HHI" if little else ">HHI").unpack_from
    for _ in range(limits.max_elements):
        if offset + 8 > len(body):
            return len(body)
        group, element, length = unpack(body, offset)
        offset += 8 + (length if length != UNDEFINED else 0)
        if group << 16 | element == SEQUENCE_END:
            return offset
    raise Unreadable("too-large", f"more than {limits.max_elements} fragments in an icon")


def _close(ends: list[int | None]) -> None:
    """Close the innermost sequence or item that a delimiter ends, and what is open inside it."""
    while ends and ends.pop() is not None:
        pass


def _element(body: Buffer, offset: int, tag: int, implicit: bool, little: bool) -> tuple[int, int, bool]:
    """Return where the value begins, its length, and whether elements or items are nested in it."""
    order = "<" if little else ">"
    vr = bytes(body[offset + 4 : offset + 6])
    if tag == ITEM or implicit or not (vr.isalpha() and vr.isupper()):
        return offset + 8, _unpack(f"{order}I", body, offset + 4), tag == ITEM
    if vr not in LONG_VRS:
        return offset + 8, _unpack(f"{order}H", body, offset + 6), False
    return offset + 12, _unpack(f"{order}I", body, offset + 8), vr == b"SQ"


def _unpack(form: str, data: Buffer, offset: int) -> int:
    try:
        return int(struct.unpack_from(form, data, offset)[0])
    except struct.error:
        raise Unreadable("truncated", "the DICOM file ends inside an element") from None
