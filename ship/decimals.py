"""Decimal strings: numbers as DICOM writes them in text (PS3.5 6.2, DS)."""

from __future__ import annotations

import math

MAX_DECIMAL = 1e12
"""No measurement of an X-ray is larger: a longer number is an identifier in the wrong place."""


def decimal(number: float) -> str:
    """Return a number as a decimal string of at most 16 characters (PS3.5 6.2), as exact as that allows.

    Raises ValueError for what is no measurement.
    """
    if not math.isfinite(number) or abs(number) >= MAX_DECIMAL:
        raise ValueError("no measurement")
    for digits in range(15, 5, -1):
        written = f"{number:.{digits}g}"
        if len(written) <= 16:
            return written
    raise ValueError("no short form")
