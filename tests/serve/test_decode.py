"""JPEG and PNG to grey pixels: told by content, limited before decoding, refused with the reason that fits."""

import io
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image as PillowImage

from edgerad.phantom import Phantom, to_dicom, to_jpeg
from edgerad.phantom.bad import huge_jpeg
from imaging.limits import Limits
from imaging.refusal import Unreadable
from imaging.resample import reduce_pixels
from serve.decode import DecodedImage, decode

DEFAULT = Limits()


def refused(data: bytes, limits: Limits = DEFAULT) -> str | None:
    """Return the reason that a decoder refuses with, or None when it decodes."""
    try:
        decode(data, limits)
    except Unreadable as refusal:
        return refusal.reason
    return None


def grey(phantom: Phantom) -> np.ndarray:
    """The phantom in 8 bits."""
    return np.ascontiguousarray((phantom.pixels >> 4).astype(np.uint8))


def png(pixels: np.ndarray) -> bytes:
    """Encode as PNG; colour as RGB."""
    done, data = cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[:, :, ::-1])
    assert done
    return data.tobytes()


def pillow(phantom: Phantom, kind: str, mode: str = "L", **options: object) -> bytes:
    """Encode with Pillow, which writes what the others cannot."""
    out = io.BytesIO()
    PillowImage.fromarray(grey(phantom)).convert(mode).save(out, kind, **options)
    return out.getvalue()


def distance(image: DecodedImage, phantom: Phantom) -> float:
    """Mean distance of decoded pixels from the phantom, in 8-bit levels."""
    scale = 1 if image.pixels.dtype == np.uint8 else 257
    return float(np.abs(image.pixels.astype(float) / scale - grey(phantom)).mean())


def test_a_jpeg_gives_its_pixels_and_its_size(phantom: Phantom) -> None:
    image = decode(to_jpeg(phantom, quality=95))
    assert (image.format, image.rows, image.columns) == ("jpeg", *phantom.pixels.shape)
    assert image.pixels.dtype == np.uint8
    assert image.header == {}
    assert distance(image, phantom) < 1.5


@pytest.mark.parametrize(
    "make",
    [
        lambda phantom: to_jpeg(phantom, quality=95, color=True),
        lambda phantom: pillow(phantom, "JPEG", quality=95, progressive=True),
        lambda phantom: pillow(phantom, "JPEG", "RGB", quality=95, subsampling=0),
        lambda phantom: pillow(phantom, "JPEG", quality=95) + b"\0" * 7,
    ],
    ids=["three equal channels", "progressive", "not subsampled", "padded"],
)
def test_jpeg_variants_give_the_same_picture(make: Callable[[Phantom], bytes], phantom: Phantom) -> None:
    assert distance(decode(make(phantom)), phantom) < 1.5


def test_an_orientation_in_exif_does_not_turn_the_pixels(phantom: Phantom) -> None:
    """A radiograph is stored as it is read; a viewer's hint for photographs would lay the patient down."""
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    image = decode(pillow(phantom, "JPEG", quality=95, exif=exif))
    assert (image.rows, image.columns) == phantom.pixels.shape
    assert distance(image, phantom) < 1.5


def test_a_cmyk_jpeg_is_unsupported(phantom: Phantom) -> None:
    assert refused(pillow(phantom, "JPEG", "CMYK")) == "unsupported"


def test_a_large_jpeg_is_decoded_no_finer_than_needed() -> None:
    pixels = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (2000, 2600, 1), np.uint8), (0, 0), 40)
    stretched = cv2.normalize(pixels, None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(stretched)[:, :, None], 90, "GRAY", "Gray")
    image = decode(data)
    assert (image.rows, image.columns) == (2000, 2600)
    assert 448 <= min(image.pixels.shape) < 2000
    assert decode(data, Limits(reduce_to=None)).pixels.shape == (2000, 2600)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_gives_its_pixels(phantom: Phantom, bits: int) -> None:
    pixels = grey(phantom) if bits == 8 else (phantom.pixels << 4).astype(np.uint16)
    image = decode(png(pixels), Limits(reduce_to=None))
    assert image.format == "png"
    np.testing.assert_array_equal(image.pixels, pixels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_png_with_colour_channels_or_alpha_gives_the_same_picture(phantom: Phantom, mode: str) -> None:
    assert distance(decode(pillow(phantom, "PNG", mode)), phantom) < 2


def test_a_coloured_picture_is_refused(phantom: Phantom) -> None:
    photo = np.stack([grey(phantom), grey(phantom) // 3, 255 - grey(phantom)], 2)
    assert refused(png(photo)) == "colour"
    assert refused(simplejpeg.encode_jpeg(photo, 90, "RGB", "420")) == "colour"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\0" * 20, "truncated"),
        (b"Chest PA: no acute finding.\n" * 40, "unsupported"),
        (b"GIF89a" + b"\0" * 200, "unsupported"),
        (b"%PDF-1.7\n" + b"\0" * 200, "unsupported"),
        (b"\xff\xd8\xff", "truncated"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
    ],
)
def test_what_is_no_image_is_refused(data: bytes, reason: str) -> None:
    assert refused(data) == reason


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_cut_file_is_truncated(phantom: Phantom, share: float) -> None:
    jpeg, picture = to_jpeg(phantom), png(grey(phantom))
    assert refused(jpeg[: int(len(jpeg) * share)]) == "truncated"
    assert refused(picture[: int(len(picture) * share)]) == "truncated"


def test_a_flipped_byte_in_a_png_is_corrupt(phantom: Phantom) -> None:
    data = bytearray(png(grey(phantom)))
    data[len(data) // 2] ^= 0x55
    assert refused(bytes(data)) == "corrupt"


def test_limits_hold_at_their_edge(phantom: Phantom) -> None:
    rows, columns = phantom.pixels.shape
    for data in (to_jpeg(phantom), png(grey(phantom)), to_dicom(phantom)):
        assert refused(data, Limits(max_pixels=rows * columns)) is None
        assert refused(data, Limits(max_pixels=rows * columns - 1)) == "too-large"
        assert refused(data, Limits(max_bytes=len(data))) is None
        assert refused(data, Limits(max_bytes=len(data) - 1)) == "too-large"
        assert refused(data, Limits(min_side=min(rows, columns) + 1)) == "too-small"


def test_a_hundred_megapixels_are_refused_without_decoding_them(monkeypatch: pytest.MonkeyPatch) -> None:
    data = huge_jpeg()
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("it must not be decoded"))
    with pytest.raises(Unreadable, match=r"too-large: 100\.0 megapixels"):
        decode(data)


def test_a_png_that_declares_a_hundred_megapixels_is_refused_by_its_header() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    assert refused(data) == "too-large"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32])
def test_reducing_keeps_type_and_mean(dtype: type) -> None:
    pixels: np.ndarray = np.random.default_rng(3).integers(0, 120, (900, 1205)).astype(dtype)
    reduced = reduce_pixels(pixels, 448)
    assert reduced.shape == (450, 602)
    assert reduced.dtype == dtype
    assert reduced.mean() == pytest.approx(pixels[:, :1204].mean(), abs=0.6)
    assert reduce_pixels(pixels, None) is pixels
    assert reduce_pixels(pixels, 451) is pixels
