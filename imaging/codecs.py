"""Decode one compressed frame: by imagecodecs (libjpeg-turbo, CharLS, OpenJPEG), to exactly the samples that it holds.

Decoders that guess when data are missing are not trusted: a frame that ends early is refused.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom import uid

from imaging.codestream import BadCodestream, Codestream, read_codestream
from imaging.encapsulated import Frame
from imaging.limits import Limits, check_memory
from imaging.refusal import Unreadable

Samples = npt.NDArray[np.integer[Any]]
JPEG_FAMILY: Final = frozenset(uid.JPEGTransferSyntaxes) | frozenset(uid.JPEGLSTransferSyntaxes)
JPEG_2000_FAMILY: Final = frozenset(uid.JPEG2000TransferSyntaxes) | frozenset(
    (uid.HTJ2K, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL)
)
COMPRESSED: Final = JPEG_FAMILY | JPEG_2000_FAMILY | {uid.RLELossless}
"""Encapsulated transfer syntaxes that are decoded."""
RLE_HEADER: Final = 64
_EOI: Final = b"\xff\xd9"
_TAILS: Final = (b"\x00" * 512, b"\x5a" * 512)
"""Two different continuations of a JPEG: the decoder of a whole frame needs neither."""


def declared_by(frame: Frame) -> Codestream:
    """Return what a JPEG, JPEG-LS or JPEG 2000 frame declares; Unreadable when its headers do not say it clearly."""
    try:
        return read_codestream(frame.data)
    except BadCodestream as error:
        raise Unreadable("truncated" if frame.cut else "corrupt", str(error)) from None


def check_decoding(stream: Codestream, size: int, limits: Limits) -> None:
    """Refuse what would take too much memory to decode."""
    check_memory(size + stream.decoding_bytes, limits)


def decode_frame(frame: Frame, stream: Codestream, photometric: str) -> Samples:
    """Decode to [rows, columns], or RGB [rows, columns, 3]; dtype by the codestream's precision and sign.

    `photometric`, PhotometricInterpretation (0028,0004), says how colours are stored where the codestream does not.
    Raises Unreadable: `truncated` for a frame that ends before its last pixel, else `corrupt`.
    """
    import imagecodecs

    data: Any = frame.data
    whole = data[: stream.length] if stream.length else bytes(data).rstrip(b"\0") + _EOI
    early = frame.cut or stream.length is None
    try:
        if stream.family == "jpeg-2000":
            samples = imagecodecs.jpeg2k_decode(whole)
        elif stream.family == "jpeg-ls":
            samples = imagecodecs.jpegls_decode(whole)
        else:
            samples = _jpeg(whole, stream, photometric)
    except MemoryError:
        raise Unreadable("too-large", "not enough memory to decode the pixels") from None
    except Unreadable:
        raise
    except Exception as error:  # noqa: BLE001 - each codec has its own errors
        if early or _ends_early(error):
            raise Unreadable("truncated", "the codestream ends before its last pixel") from None
        raise Unreadable("corrupt", f"the pixel data do not decode ({type(error).__name__})") from None
    expected = (stream.rows, stream.columns, stream.components)
    if samples.shape != (expected if stream.components > 1 else expected[:2]):
        raise Unreadable("corrupt", "the decoded pixels have another shape than the codestream declares")
    if (
        stream.components == 3
        and stream.family != "jpeg"
        and photometric.startswith("YBR_FULL")
        and not stream.transformed
    ):
        return _to_rgb(samples)
    return np.asarray(samples)


def decode_rle(frame: Frame, rows: int, columns: int, allocated: int, samples: int) -> Samples:
    """Decode RLE (PS3.5 Annex G) to raw words [samples, rows, columns] of `allocated` bits; raises Unreadable."""
    import imagecodecs

    _check_segments(frame.data, samples * allocated // 8)
    decoded = bytearray(rows * columns * samples * allocated // 8)
    try:
        data: Any = frame.data
        written = len(imagecodecs.dicomrle_decode(data, np.dtype(f"<u{allocated // 8}"), out=decoded))
    except Exception as error:  # noqa: BLE001 - as above
        if "TOO_SMALL" in str(error):
            raise Unreadable("corrupt", "the run lengths give more pixels than the header says") from None
        raise Unreadable("truncated", "the run lengths end before the last pixel, or are damaged") from None
    if written < len(decoded):
        raise Unreadable("truncated", f"the run lengths give {written} bytes of pixels, {len(decoded)} expected")
    return np.frombuffer(decoded, f"<u{allocated // 8}").reshape(samples, rows, columns)


def _check_segments(data: bytes | memoryview, expected: int) -> None:
    """Check the RLE header (PS3.5 G.5): the decoder would follow its offsets beyond the end of the data."""
    if len(data) < RLE_HEADER:
        raise Unreadable("truncated", "the run lengths end inside their header")
    count, *offsets = struct.unpack_from("<16I", data)
    if count != expected:
        raise Unreadable("contradiction", f"{count} RLE segments, the header asks for {expected}")
    offsets = offsets[:count]
    if offsets != sorted(offsets) or offsets[0] < RLE_HEADER:
        raise Unreadable("corrupt", "the offsets of the RLE segments are not in order")
    if offsets[-1] >= len(data):
        raise Unreadable("truncated", "the run lengths end before their last segment")


def _jpeg(whole: Any, stream: Codestream, photometric: str) -> Samples:
    """Decode JPEG with Huffman coding, 8 to 16 bits, lossy or lossless.

    libjpeg fills in what is missing and only warns. A frame is whole if what follows it changes nothing: it is decoded
    with two different continuations, into the same memory.
    """
    import imagecodecs

    if stream.components not in (1, 3):
        raise Unreadable("unsupported", f"a JPEG of {stream.components} components")
    colours: dict[str, Any] = {}
    if stream.components == 3:
        stored = "YCBCR" if _is_transformed(stream, photometric) else "RGB"
        colours = {"colorspace": stored, "outcolorspace": "RGB"}
    longer = bytearray(whole)
    longer[-len(_EOI) :] = _TAILS[0] + _EOI
    samples: Any = imagecodecs.jpeg_decode(longer, **colours)
    first = zlib.crc32(samples)
    longer[-len(_TAILS[1] + _EOI) :] = _TAILS[1] + _EOI
    imagecodecs.jpeg_decode(longer, **colours, out=samples)
    if zlib.crc32(samples) != first:
        raise Unreadable("truncated", "the codestream ends before its last pixel")
    return np.asarray(samples)


def _is_transformed(stream: Codestream, photometric: str) -> bool:
    if stream.transformed is not None and stream.family != "jpeg-lossless":
        return stream.transformed
    return photometric != "RGB"


def _to_rgb(samples: Samples) -> Samples:
    from pydicom.pixels.processing import convert_color_space

    return np.asarray(convert_color_space(np.asarray(samples), "YBR_FULL", "RGB"))


def _ends_early(error: Exception) -> bool:
    words = str(error).lower()
    return any(part in words for part in ("too small", "end of", "premature", "more input data"))
