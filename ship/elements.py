"""A second reader of DICOM files, independent of pydicom and strict: what it reads, every reader reads alike.

It takes Explicit VR Little Endian with defined lengths, tags in ascending order, values of even length, and not one
byte that belongs to no element (PS3.5 sections 7.1 to 7.5, PS3.10 section 7.1). Anything else could look different
to another reader, and is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_SHORT = frozenset((
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
    b"ST", b"TM", b"UI", b"UL", b"US",
))  # fmt: skip
_ITEM = 0xFFFEE000
_MAX_DEPTH = 8


class Malformed(Exception):
    """The bytes are not what the strict form allows; the text names the rule."""


@dataclass(frozen=True, slots=True)
class Element:
    """One element: tag (one number), VR, value (bytes; a sequence has none), and the tags of the sequences above it."""

    tag: int
    vr: str
    value: bytes
    path: tuple[int, ...]

    @property
    def name(self) -> str:
        """The tag as people write it."""
        return f"({self.tag >> 16:04X},{self.tag & 0xFFFF:04X})"

    @property
    def texts(self) -> list[str]:
        """The values of a text, without padding; raises Malformed when they are not UTF-8 (ISO_IR 192)."""
        try:
            text = self.value.decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed(f"no UTF-8 in {self.name}") from None
        return [part.strip(" \0") for part in text.split("\\")] if text else []


def read(data: bytes) -> Iterator[Element]:
    """Every element of a file at every depth, in order, the file meta information first; raises Malformed."""
    if data[:128] != bytes(128):
        raise Malformed("the preamble is not empty")
    if data[128:132] != b"DICM":
        raise Malformed("no DICM")
    yield from _elements(data, 132, len(data), ())


def _elements(data: bytes, start: int, end: int, path: tuple[int, ...]) -> Iterator[Element]:
    if len(path) > _MAX_DEPTH:
        raise Malformed("sequences nested too deep")
    last = -1
    while start < end:
        tag, vr, body, after = _header(data, start, end)
        if tag <= last:
            raise Malformed("tags do not ascend")
        last = tag
        if vr == "SQ":
            yield Element(tag, vr, b"", path)
            yield from _items(data, body, after, (*path, tag))
        else:
            yield Element(tag, vr, data[body:after], path)
        start = after


def _header(data: bytes, start: int, end: int) -> tuple[int, str, int, int]:
    """Tag, VR, and where the value starts and ends."""
    if start + 8 > end:
        raise Malformed("a cut element")
    group, number, vr, length = struct.unpack_from("<HH2sH", data, start)
    body = start + 8
    if vr in _LONG:
        if length or start + 12 > end:
            raise Malformed("a cut or odd element")
        (length,) = struct.unpack_from("<I", data, start + 8)
        body = start + 12
    elif vr not in _SHORT:
        raise Malformed("an unknown value representation")
    if length % 2 or body + length > end:
        raise Malformed("a length that is undefined, odd or too large")
    return group << 16 | number, vr.decode(), body, body + length


def _items(data: bytes, start: int, end: int, path: tuple[int, ...]) -> Iterator[Element]:
    while start < end:
        if start + 8 > end:
            raise Malformed("a cut item")
        group, number, length = struct.unpack_from("<HHI", data, start)
        if group << 16 | number != _ITEM or start + 8 + length > end:
            raise Malformed("no item of defined length")
        yield from _elements(data, start + 8, start + 8 + length, path)
        start += 8 + length
