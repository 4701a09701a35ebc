"""What is refused before anything is decoded, and how far to decode."""

from __future__ import annotations

from dataclasses import dataclass

from imaging.refusal import Unreadable

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits on one image; sizes are checked in headers and codestreams before anything is inflated or decoded."""

    max_pixels: int = 64_000_000
    max_bytes: int = 160 * MIB
    """64 megapixels of 16 bits, and a generous header."""
    max_memory: int = 256 * MIB
    """Bytes that the encoded and the decoded pixels may take together, by estimate (`imaging.codecs`)."""
    max_elements: int = 50_000
    """Data elements and sequence items in one DICOM file."""
    max_header: int = 32 * MIB
    """Bytes of the values that are kept of a DICOM header; larger values are passed over (`imaging.guard`)."""
    max_depth: int = 32
    """Levels of nested DICOM sequences."""
    min_side: int = 64
    reduce_to: int | None = 448
    """Decode no finer than this many pixels on the shorter side (twice the model's grid); None for full resolution."""


DEFAULT_LIMITS = Limits()


def check_size(rows: int, columns: int, limits: Limits) -> None:
    """Raise Unreadable if an image of this size is too large or too small."""
    if rows * columns > limits.max_pixels:
        megapixels = f"{rows * columns / 1e6:.1f} megapixels"
        raise Unreadable("too-large", f"{megapixels}, the limit is {limits.max_pixels / 1e6:g}")
    if min(rows, columns) < limits.min_side:
        raise Unreadable("too-small", f"{columns} x {rows} pixels, at least {limits.min_side} a side are needed")


def check_memory(needed: int, limits: Limits) -> None:
    """Raise Unreadable if decoding would take more bytes of memory than allowed."""
    if needed > limits.max_memory:
        raise Unreadable("too-large", f"decoding takes {needed // MIB} MiB, the limit is {limits.max_memory // MIB}")
