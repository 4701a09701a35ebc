"""JPEG Lossless, process 14, selection value 1 (1.2.840.10008.1.2.4.70): what most CR devices send compressed.

No Python package at hand encodes it. ITU-T T.81 Annex H (lossless mode), Annex C and K.2 (Huffman tables).
"""

from __future__ import annotations

import heapq
from struct import pack

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def encode(image: NDArray[np.uint16], bits: int) -> bytes:
    """Return the image [rows, cols] of `bits` significant bits (2 to 16) as a JPEG Lossless stream."""
    rows, cols = image.shape
    differences = _differences(image, bits)
    magnitude = np.abs(differences)
    category = np.zeros(differences.shape, np.int64)
    for power in range(16):
        category += magnitude >> power > 0
    lengths = _code_lengths(np.bincount(category, minlength=17))
    symbols = sorted(range(17), key=lambda symbol: (lengths[symbol], symbol))
    codes = _codes(symbols, lengths)

    # T.81 H.1.2.2: a negative difference is sent less one; category 16 (32768) needs no further bits
    extra = np.where(differences < 0, differences + (1 << category) - 1, differences)
    width = np.where(category == 16, 0, category)
    extra = np.where(category == 16, 0, extra)
    value = (codes[category] << width) | extra
    scan = _pack(value, np.array(lengths)[category] + width)

    frame = pack(">HHBHHB3B", 0xFFC3, 11, bits, rows, cols, 1, 1, 0x11, 0)
    counts = [sum(length == n for length in lengths) for n in range(1, 17)]
    table = pack(">HHB16B", 0xFFC4, 19 + len(symbols), 0, *counts) + bytes(symbols)
    start = pack(">HHB2B3B", 0xFFDA, 8, 1, 1, 0x00, 1, 0, 0)
    return b"\xff\xd8" + frame + table + start + scan + b"\xff\xd9"


def _differences(image: NDArray[np.uint16], bits: int) -> Integers:
    """Return the differences to the pixel on the left (first column: above), modulo 2^16, in -32767..32768, flat."""
    signed = image.astype(np.int64)
    predicted = np.empty_like(signed)
    predicted[:, 1:] = signed[:, :-1]
    predicted[1:, 0] = signed[:-1, 0]
    predicted[0, 0] = 1 << (bits - 1)
    wrapped: Integers = ((signed - predicted + 32767) % 65536 - 32767).ravel()
    return wrapped


def _code_lengths(counts: Integers) -> list[int]:
    """Return Huffman code lengths of the 17 categories, at most 16, the all-ones code left free (T.81 K.2)."""
    floor = max(1, int(counts.sum()) >> 11)  # keeps the rarest code well below 16 bits
    heap = [(max(floor, int(count)), symbol, [symbol]) for symbol, count in enumerate(counts)]
    heap.append((0, 17, [17]))
    heapq.heapify(heap)
    lengths = [0] * 18
    while len(heap) > 1:
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        members = first[2] + second[2]
        for symbol in members:
            lengths[symbol] += 1
        heapq.heappush(heap, (first[0] + second[0], min(first[1], second[1]), members))
    return lengths[:17]


def _codes(symbols: list[int], lengths: list[int]) -> Integers:
    """Return each symbol's code (T.81 C.2): consecutive numbers, shorter codes first."""
    codes = np.zeros(17, np.int64)
    code, length = 0, 0
    for symbol in symbols:
        code <<= lengths[symbol] - length
        length = lengths[symbol]
        codes[symbol] = code
        code += 1
    return codes


def _pack(values: Integers, widths: Integers) -> bytes:
    """Return the values' bits one after another, the last byte filled with ones, a zero stuffed after each 0xFF."""
    ends = np.cumsum(widths)
    total = int(ends[-1])
    padding = -total % 8
    starts = ends - widths
    size = (total + padding) // 8
    aligned = values << (40 - widths - (starts & 7))
    first = starts >> 3
    packed = np.zeros(size + 5, np.float64)
    for place in range(5):  # a code of up to 32 bits that starts within a byte touches five; no two share a bit
        packed += np.bincount(first + place, weights=(aligned >> (32 - 8 * place)) & 0xFF, minlength=size + 5)
    stream = packed[:size].astype(np.uint8)
    stream[-1] |= (1 << padding) - 1
    stuffed: NDArray[np.uint8] = np.insert(stream, np.flatnonzero(stream == 0xFF) + 1, 0)
    return stuffed.tobytes()
