"""Take the one frame out of encapsulated pixel data (PS3.5 A.4), also where its last parts are damaged."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from imaging.refusal import Unreadable

ITEM, DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
MAX_FRAGMENTS = 65_536


@dataclass(frozen=True)
class Frame:
    """The bytes of one frame, and whether the data ended inside its last fragment."""

    data: bytes | memoryview
    cut: bool


def only_frame(pixels: memoryview) -> Frame:
    """Return the frame of single-frame encapsulated pixel data: all fragments, joined.

    A missing sequence delimiter is no loss: whether the frame is whole is for its codestream to say. Raises Unreadable
    where there is no fragment, or an element that is neither item nor delimiter.
    """
    fragments: list[memoryview] = []
    offset, cut, first = 0, False, True
    while offset + 8 <= len(pixels):
        tag = bytes(pixels[offset : offset + 4])
        (length,) = struct.unpack_from("<I", pixels, offset + 4)
        offset += 8
        if tag == DELIMITER:
            break
        if tag != ITEM:
            if fragments:  # whatever follows the frame without a delimiter is not part of it
                break
            raise Unreadable("corrupt", "the encapsulated pixel data do not begin with an item")
        if len(fragments) > MAX_FRAGMENTS:
            raise Unreadable("too-large", f"more than {MAX_FRAGMENTS} fragments in one frame")
        if not first:  # the first item is the Basic Offset Table
            fragments.append(pixels[offset : offset + length])
        first = False
        cut = offset + length > len(pixels)
        offset += length
    if not fragments:
        raise Unreadable("truncated", "the encapsulated pixel data hold no fragment")
    return Frame(b"".join(fragments) if len(fragments) > 1 else fragments[0], cut)
