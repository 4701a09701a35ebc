"""Depth: what the pixel cell declares and what the words hold are read together, in native and compressed data."""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
from pydicom import uid

from imaging.depth import Cells
from imaging.limits import DEFAULT_LIMITS
from imaging.part10 import read_dicom
from imaging.refusal import Unreadable
from imaging.stored import stored_pixels
from tests.imaging.files import chest, dataset, in_fragments, put, written

PLAIN = chest()
SIGNED = PLAIN.astype(np.int16) - 2048


def cells(data: bytes) -> Cells:
    """Read the pixel values of a file."""
    found = stored_pixels(read_dicom(data), DEFAULT_LIMITS).cells
    assert found is not None
    return found


def rle(words: npt.NDArray[Any], bits: int, **changes: Any) -> bytes:
    made = dataset(words, 8 * words.dtype.itemsize)
    made.compress(uid.RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    made.BitsStored, made.HighBit = bits, bits - 1
    for keyword, value in changes.items():
        setattr(made, keyword, value)
    return written(made)


def native(words: npt.NDArray[Any], bits: int, **changes: Any) -> bytes:
    return written(dataset(words, bits, **changes))


BOTH = pytest.mark.parametrize("make", [native, rle], ids=["native", "rle"])


@BOTH
@pytest.mark.parametrize(("bits", "high"), [(12, 11), (12, 15), (12, 13), (14, 15), (10, 14), (16, 15)])
def test_values_are_taken_from_where_high_bit_says(make: Any, bits: int, high: int) -> None:
    values = chest(bits)
    found = cells(make(values << (high + 1 - bits), bits, HighBit=high))
    np.testing.assert_array_equal(found.values, values)
    assert (found.bits, found.signed) == (bits, False)


@BOTH
@pytest.mark.parametrize("high", [11, 14, 15])
@pytest.mark.parametrize("extended", [True, False])
def test_signed_values_keep_their_sign(make: Any, high: int, extended: bool) -> None:
    words = SIGNED.view(np.uint16) if extended else SIGNED.view(np.uint16) & 0x0FFF
    words = (words << (high - 11)).astype(np.uint16)
    found = cells(make(words, 12, HighBit=high, PixelRepresentation=1))
    np.testing.assert_array_equal(found.values, SIGNED)
    assert found.signed


@BOTH
@pytest.mark.parametrize(
    ("words", "bits", "changes"),
    [
        (PLAIN, 10, {}),
        (PLAIN | np.uint16(0x8000), 12, {}),
        (chest(16), 12, {"HighBit": 13}),
        (PLAIN, 12, {"HighBit": 15}),
        (SIGNED.view(np.uint16) ^ np.uint16(0x4000), 12, {"PixelRepresentation": 1}),
        (chest(8).astype(np.uint8), 7, {}),
    ],
    ids=["fewer-bits", "a-bit-above", "high-bit-inside", "not-left-justified", "no-sign", "8-bit"],
)
def test_words_that_contradict_the_header_are_refused_by_name(make: Any, words: Any, bits: int, changes: Any) -> None:
    with pytest.raises(Unreadable) as refusal:
        cells(make(words, bits, **changes))
    assert refusal.value.reason == "contradiction"
    assert "HighBit (0028,0102)" in refusal.value.detail


@BOTH
@pytest.mark.parametrize("position", [12, 15])
def test_bits_of_an_overlay_are_masked(make: Any, position: int) -> None:
    words = PLAIN.copy()
    words[20:60, 30:90] |= 1 << position
    data = make(words, 12)
    made = read_back(data)
    made.add_new((0x6002, 0x0100), "US", 16)
    made.add_new((0x6002, 0x0102), "US", position)
    np.testing.assert_array_equal(cells(written(made)).values, PLAIN)
    made[0x6002, 0x0102].value = 27 - position  # another bit than the one that is used
    with pytest.raises(Unreadable):
        cells(written(made))


def test_bits_of_an_overlay_below_left_justified_values_are_masked() -> None:
    words = (PLAIN << 4) | np.uint16(1)
    made = dataset(words, 12, HighBit=15)
    made.add_new((0x6000, 0x0102), "US", 0)
    np.testing.assert_array_equal(cells(written(made)).values, PLAIN)


def read_back(data: bytes) -> Any:
    from tests.imaging.files import reread

    return reread(data)


@pytest.mark.parametrize("declared", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["j2k", "jls", "lossless"])
def test_a_codestream_knows_its_own_depth(kind: str, declared: int) -> None:
    made = coded(PLAIN, 12, kind)
    made.BitsStored, made.HighBit = declared, declared - 1
    found = cells(written(made))
    np.testing.assert_array_equal(found.values, PLAIN)


@pytest.mark.parametrize("kind", ["j2k", "jls", "lossless"])
@pytest.mark.parametrize(
    ("allocated", "stored", "high"), [(8, 8, 7), (8, 12, 11), (16, 20, 19), (16, 12, 3), (32, 12, 11)]
)
def test_a_header_that_contradicts_itself_gives_way_to_the_codestream(
    kind: str, allocated: int, stored: int, high: int
) -> None:
    made = coded(PLAIN, 12, kind)
    made.BitsAllocated, made.BitsStored, made.HighBit = allocated, stored, high
    np.testing.assert_array_equal(cells(written(made)).values, PLAIN)


@pytest.mark.parametrize("kind", ["j2k", "jls", "lossless"])
@pytest.mark.parametrize(("bits", "high"), [(14, 15), (12, 15), (12, 11)])
def test_left_justified_data_in_a_codestream_are_shifted_once(kind: str, bits: int, high: int) -> None:
    values = chest(bits)
    made = coded(values << (high + 1 - bits), 16, kind)
    made.BitsStored, made.HighBit = bits, high
    np.testing.assert_array_equal(cells(written(made)).values, values)
    made = coded(values, bits, kind)  # right-justified in the codestream, though HighBit says otherwise
    made.BitsStored, made.HighBit = bits, 15
    np.testing.assert_array_equal(cells(written(made)).values, values)


@pytest.mark.parametrize("kind", ["j2k", "j2k-signed", "jls", "lossless"])
@pytest.mark.parametrize("precision", [12, 16])
def test_signed_values_of_a_codestream(kind: str, precision: int) -> None:
    words: Any = SIGNED if kind == "j2k-signed" else SIGNED.view(np.uint16) & ((1 << precision) - 1)
    made = coded(words, precision, kind.removesuffix("-signed"))
    made.BitsStored, made.HighBit, made.PixelRepresentation = 12, 11, 1
    np.testing.assert_array_equal(cells(written(made)).values, SIGNED)


@pytest.mark.parametrize("precision", [12, 16])
@pytest.mark.parametrize("stream_is_right", [True, False])
def test_where_codestream_and_header_differ_in_sign_the_smooth_reading_counts(
    precision: int, stream_is_right: bool
) -> None:
    """JPEG 2000 says whether samples are signed; some encoders say it wrongly."""
    top = 1 << (precision - 1)
    plain = chest(precision)
    signed = (plain.astype(np.int32) - top).astype(np.int16)
    if stream_is_right:
        cases: list[tuple[Any, int, Any]] = [(plain, 1, plain), (signed, 0, signed)]
    else:  # the same bits under the other sign
        bits = signed.view(np.uint16) & ((1 << precision) - 1)
        wrapped = np.where(plain >= top, plain.astype(np.int32) - 2 * top, plain).astype(np.int16)
        cases = [(bits, 1, signed), (wrapped, 0, plain)]
    for words, declared, expected in cases:
        made = coded(words.astype(words.dtype), precision, "j2k")
        made.PixelRepresentation, made.BitsStored, made.HighBit = declared, precision, precision - 1
        np.testing.assert_array_equal(cells(written(made)).values.astype(int), expected.astype(int))


def coded(words: npt.NDArray[Any], precision: int, kind: str) -> Any:
    if kind == "j2k":
        frame = imagecodecs.jpeg2k_encode(words, level=0, codecformat="j2k", reversible=True, bitspersample=precision)
        syntax = uid.JPEG2000Lossless
    elif kind == "jls":
        frame, syntax = imagecodecs.jpegls_encode(words), uid.JPEGLSLossless
    else:
        frame = imagecodecs.jpeg_encode(words, lossless=True, predictor=1, bitspersample=precision)
        syntax = uid.JPEGLosslessSV1
    return in_fragments(dataset(PLAIN, 12), syntax, bytes(frame))


PADDED = PLAIN.copy()
PADDED[:, :40] = 0


@pytest.mark.parametrize(
    ("words", "changes", "padding"),
    [
        (np.where(PADDED == 0, 0, PLAIN).astype(np.uint16), [("PixelPaddingValue", "US", 0)], (0, 0)),
        (PLAIN, [("PixelPaddingValue", "US", None)], None),
        (PLAIN, [("PixelPaddingValue", "US", 5), ("PixelPaddingRangeLimit", "US", None)], (5, 5)),
        (PLAIN, [("PixelPaddingValue", "US", 5), ("PixelPaddingRangeLimit", "US", 2)], (2, 5)),
        (PLAIN, [("PixelPaddingValue", "IS", "7")], (7, 7)),
        (PLAIN, [("PixelPaddingValue", "US", [7, 7])], (7, 7)),
        (PLAIN, [("PixelPaddingValue", "SS", -1)], (4095, 4095)),
        (PLAIN, [("PixelPaddingValue", "US", 65535)], (65535, 65535)),
        (PLAIN, [("PixelPaddingValue", "US", 4096)], (4096, 4096)),
        (SIGNED, [("PixelPaddingValue", "US", 4095)], (-1, -1)),
        (SIGNED, [("PixelPaddingValue", "US", 63488)], (-2048, -2048)),
        (SIGNED, [("PixelPaddingValue", "SS", -2048)], (-2048, -2048)),
    ],
)
def test_padding_is_read_whatever_its_vr(words: Any, changes: Any, padding: tuple[int, int] | None) -> None:
    made = dataset(words)
    for keyword, vr, value in changes:
        put(made, keyword, vr, value)
    assert cells(written(made)).padding == padding


@pytest.mark.parametrize("outside", [0xFFFF, 0x8000])
def test_padding_outside_the_stored_bits_stays_padding(outside: int) -> None:
    words = PLAIN.copy()
    words[:, :40] = outside
    found = cells(written(put(dataset(words), "PixelPaddingValue", "US", outside)))
    assert found.padding == (outside, outside)
    np.testing.assert_array_equal(found.values, words)
    words[5, 5] = outside - 1
    with pytest.raises(Unreadable):
        cells(written(put(dataset(words), "PixelPaddingValue", "US", outside)))


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("PixelPaddingValue", "LO", "none"),
        ("PixelPaddingValue", "US", [1, 2]),
        ("BitsStored", "LO", "twelve"),
        ("PixelRepresentation", "US", 3),
        ("HighBit", "DS", "11.5"),
    ],
)
def test_what_is_present_but_unusable_is_named(keyword: str, vr: str, value: Any) -> None:
    with pytest.raises(Unreadable, match=keyword) as refusal:
        cells(written(put(dataset(), keyword, vr, value)))
    assert refusal.value.reason == "bad-attribute"


@pytest.mark.parametrize(("keyword", "value"), [("BitsStored", None), ("HighBit", None), ("PixelRepresentation", None)])
def test_what_is_empty_counts_as_absent(keyword: str, value: Any) -> None:
    made = put(dataset(chest(16), 16), keyword, "US", value)
    np.testing.assert_array_equal(cells(written(made)).values, chest(16))
