"""What a compressed frame says about its own size, read without decoding it: a decoder would allocate what it says."""

from __future__ import annotations

import struct

_SOC_SIZ = b"\xff\x4f\xff\x51"
_JP2 = b"\x00\x00\x00\x0cjP  "
_FRAME_HEADERS = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15 (ISO/IEC 10918-1 Table B.1) without DHT, JPG and DAC, and SOF55 (JPEG-LS, ISO/IEC 14495-1)."""
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD9)))
_SCAN = 0xDA


def announced_sizes(frame: bytes) -> set[tuple[int, int]]:
    """Rows and columns by every frame header of a JPEG, JPEG-LS or JPEG 2000 frame; empty when there is none."""
    if frame.startswith((_JP2, _SOC_SIZ)):
        return _jpeg_2000(frame)
    return _jpeg(frame) if frame.startswith(b"\xff\xd8") else set()


def _jpeg(frame: bytes) -> set[tuple[int, int]]:
    found, position = set(), 2
    while position + 4 <= len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _STANDALONE:
            position += 2
            continue
        (length,) = struct.unpack_from(">H", frame, position + 2)
        if marker in _FRAME_HEADERS and position + 9 <= len(frame):
            rows, columns = struct.unpack_from(">HH", frame, position + 5)
            found.add((rows, columns))
        if marker == _SCAN:
            break
        position += 2 + length
    return found


def _jpeg_2000(frame: bytes) -> set[tuple[int, int]]:
    """The reference grid of every codestream (SIZ, ISO/IEC 15444-1 A.5.1)."""
    found, position = set(), frame.find(_SOC_SIZ)
    while position >= 0 and position + 24 <= len(frame):
        right, bottom, left, top = struct.unpack_from(">IIII", frame, position + 8)
        found.add((bottom - top, right - left))
        position = frame.find(_SOC_SIZ, position + 4)
    return found
