"""One frame as a codestream whose precision and sign are those of the header."""

from __future__ import annotations

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from tests.oracle.combinations import Combination

Values = NDArray[np.int32]

SIZ, SSIZ_OFFSET = b"\xff\x51", 40
"""Marker of a JPEG 2000 codestream's sizes, and where the precision of the first component follows (ISO 15444-1 A.5.1).
"""
NEAR_DB = 90
"""Quality of lossy JPEG 2000 in dB for 16 bits, 6 dB less for each bit less."""


def codestream(values: Values, combination: Combination) -> bytes:
    """Return values (rows x columns) encoded as the combination's transfer syntax wants them."""
    bits, kind = combination.stored, combination.syntax
    unsigned = (values & ((1 << bits) - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    if kind in {"jpeg-baseline", "jpeg-extended"}:
        stream = bytes(imagecodecs.jpeg8_encode(unsigned, level=97, bitspersample=bits))
        # An eight-bit process 4 image has the frame of extended sequential DCT, SOF1.
        return stream.replace(b"\xff\xc0", b"\xff\xc1", 1) if kind == "jpeg-extended" else stream
    if kind in {"jpeg-lossless", "jpeg-lossless-sv1"}:
        predictor = 1 if kind == "jpeg-lossless-sv1" else 6
        return bytes(imagecodecs.jpeg8_encode(unsigned, lossless=True, predictor=predictor, bitspersample=bits))
    if kind in {"jpeg-2000", "jpeg-2000-lossy"}:
        sample = {(8, False): np.uint8, (8, True): np.int8, (16, False): np.uint16, (16, True): np.int16}
        typed = values.astype(sample[(8 if bits == 8 else 16, combination.signed)])
        lossy = kind == "jpeg-2000-lossy"
        quality = NEAR_DB - 6 * (16 - bits) if lossy else 0
        return bytes(
            imagecodecs.jpeg2k_encode(typed, level=quality, reversible=not lossy, codecformat="J2K", bitspersample=bits)
        )
    if kind == "htj2k":
        return _high_throughput(values, bits, combination.signed)
    raise ValueError(f"{kind} is not encoded here")


def _high_throughput(values: Values, bits: int, signed: bool) -> bytes:
    """Return an HTJ2K codestream with a precision between 8 and 16 bits and with a sign.

    The encoder knows whole bytes without sign only. Values are shifted so that its DC level shift (ISO 15444-1 G.1.2)
    gives what that of the wanted precision would give, and the precision is written into the SIZ segment.
    """
    held = 8 if bits == 8 else 16
    centred = values if signed else values - (1 << (bits - 1))
    shifted = (centred + (1 << (held - 1))).astype(np.uint8 if held == 8 else np.uint16)
    stream = bytearray(imagecodecs.htj2k_encode(shifted, reversible=True))
    stream[stream.index(SIZ) + SSIZ_OFFSET] = (0x80 if signed else 0) | (bits - 1)
    return bytes(stream)
