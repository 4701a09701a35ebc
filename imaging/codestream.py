"""What a JPEG, JPEG-LS or JPEG 2000 codestream says about itself, read without decoding it.

Sources: ISO/IEC 10918-1 Annex B (JPEG), ISO/IEC 14495-1 Annex C (JPEG-LS), ISO/IEC 15444-1 Annex A (JPEG 2000).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final, Literal

Family = Literal["jpeg", "jpeg-lossless", "jpeg-ls", "jpeg-2000"]
_SOC_SIZ: Final = b"\xff\x4f\xff\x51"
_JP2: Final = b"\x00\x00\x00\x0cjP  "
_EOI: Final = b"\xff\xd9"
"""End of image in JPEG and JPEG-LS, end of codestream in JPEG 2000; entropy-coded data never hold it in any of them."""
_STANDALONE: Final = frozenset((0x01, *range(0xD0, 0xD9)))
_SOF: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE_SOF: Final = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_LOSSLESS_SOF: Final = frozenset((0xC3, 0xC7, 0xCB, 0xCF))
_JPEG_LS_SOF, _SCAN, _APP0, _APP14, _COD = 0xF7, 0xDA, 0xE0, 0xEE, 0x52


class BadCodestream(ValueError):
    """The bytes are no codestream of a known kind, or say different things about themselves."""


@dataclass(frozen=True)
class Codestream:
    """What a codestream declares."""

    family: Family
    rows: int
    columns: int
    components: int
    precision: int
    """Bits a sample."""
    signed: bool
    """Only JPEG 2000 can say that samples are signed."""
    transformed: bool | None
    """Whether colours are stored as luminance and chrominance; None where the codestream does not say."""
    length: int | None
    """Bytes up to and with the end marker; None where that is missing."""
    progressive: bool = False
    """Whether a decoder must keep all coefficients, 16 bits each (ISO/IEC 10918-1 SOF2)."""

    @property
    def decoding_bytes(self) -> int:
        """Bytes of memory that decoding takes, by estimate; OpenJPEG computes in 32 bits a sample."""
        samples = self.rows * self.columns * self.components
        working = 4 if self.family == "jpeg-2000" else 2 if self.progressive else 0
        return samples * ((1 if self.precision <= 8 else 2) + working)


def read_codestream(frame: bytes | memoryview) -> Codestream:
    """Read the headers of one frame; raises BadCodestream, also for two frame headers that differ."""
    data, start = memoryview(frame), bytes(frame[: len(_JP2)])
    try:
        if start.startswith((_JP2, _SOC_SIZ)):
            return _jpeg_2000(data)
        if start.startswith(b"\xff\xd8"):
            return _jpeg(data)
    except (struct.error, IndexError):
        raise BadCodestream("the codestream ends inside its headers") from None
    raise BadCodestream("the frame does not begin like a JPEG, JPEG-LS or JPEG 2000 codestream")


def _jpeg(data: memoryview) -> Codestream:
    position = 2
    found: tuple[Family, int, int, int, int] | None = None
    progressive = False
    transformed: bool | None = None
    while True:
        if data[position] != 0xFF:
            raise BadCodestream("a marker is missing in the codestream's headers")
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _STANDALONE:
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker in _SOF or marker == _JPEG_LS_SOF:
            precision, rows, columns, components = struct.unpack_from(">BHHB", data, position + 4)
            family: Family = "jpeg-ls" if marker == _JPEG_LS_SOF else "jpeg"
            if marker in _LOSSLESS_SOF:
                family = "jpeg-lossless"
            progressive = marker in _PROGRESSIVE_SOF
            this = (family, rows, columns, components, precision)
            if found is not None and found != this:
                raise BadCodestream("two frame headers of the codestream differ")
            found = this
        elif marker == _APP0 and bytes(data[position + 4 : position + 9]) == b"JFIF\0":
            transformed = True
        elif marker == _APP14 and bytes(data[position + 4 : position + 9]) == b"Adobe":
            transformed = data[position + 15] != 0
        if marker == _SCAN:
            break
        position += 2 + length
    if found is None:
        raise BadCodestream("the codestream has no frame header")
    if _find(data, b"\xff\xd8\xff", position) >= 0 and _second_image(data, position):
        raise BadCodestream("the frame holds two codestreams")
    end = _find(data, _EOI, position)
    family, rows, columns, components, precision = found
    whole = end + 2 if end >= 0 else None
    return Codestream(family, rows, columns, components, precision, False, transformed, whole, progressive)


def _second_image(data: memoryview, scan: int) -> bool:
    """Return whether a second codestream follows the first one; a decoder might take either."""
    end = _find(data, _EOI, scan)
    return end >= 0 and _find(data, b"\xff\xd8\xff", end) >= 0


def _jpeg_2000(data: memoryview) -> Codestream:
    start = _find(data, _SOC_SIZ)
    if start < 0:
        raise BadCodestream("the JP2 file holds no codestream")
    if _find(data, _SOC_SIZ, start + 4) >= 0:
        raise BadCodestream("the frame holds two codestreams")
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    (components,) = struct.unpack_from(">H", data, start + 40)
    if not 1 <= components <= 4:
        raise BadCodestream(f"the codestream has {components} components")
    sizes = {data[start + 42 + 3 * index] for index in range(components)}
    sampling = {bytes(data[start + 43 + 3 * index : start + 45 + 3 * index]) for index in range(components)}
    if len(sizes) > 1 or sampling != {b"\x01\x01"}:
        raise BadCodestream("the components of the codestream differ in depth or size")
    size = sizes.pop()
    position = start + 4 + struct.unpack_from(">H", data, start + 4)[0]
    transformed: bool | None = None
    while (marker := struct.unpack_from(">H", data, position)[0]) not in (0xFF90, 0xFFD9):  # the first tile, or the end
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker == 0xFF00 | _COD:
            transformed = data[position + 8] == 1
        position += 2 + length
    end = _find(data, _EOI, position)
    return Codestream(
        "jpeg-2000", bottom - top, right - left, components, (size & 0x7F) + 1, bool(size & 0x80), transformed,
        end + 2 if end >= 0 else None,
    )  # fmt: skip


def _find(data: memoryview, marker: bytes, start: int = 0) -> int:
    """Return the offset of a marker at or behind `start`, or -1; `memoryview` has no such method."""
    found = re.compile(re.escape(marker), re.DOTALL).search(data, start)
    return found.start() if found else -1
