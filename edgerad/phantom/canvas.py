"""A pixel raster addressed in lung heights: origin between the lung apices, u to the image's right, v down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Points = NDArray[np.float64]
_Image = TypeVar("_Image", Bytes, Floats)

_SHIFT = 4  # OpenCV draws with 1/16 pixel precision


def smooth(points: ArrayLike, closed: bool = False, steps: int = 8) -> Points:
    """Return Catmull-Rom curves through the points [..., n, 2], `steps` points a section."""
    knots = np.asarray(points, np.float64)
    first, last = knots[..., :1, :], knots[..., -1:, :]
    padded = np.concatenate([last, knots, knots[..., :2, :]] if closed else [first, knots, last], axis=-2)
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    before, start, end, after = (padded[..., i : padded.shape[-2] - 3 + i, None, :] for i in range(4))
    curve = 0.5 * (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * start - before - 3 * end + after) * t**3
    )
    flat: Points = curve.reshape(*knots.shape[:-2], -1, 2)
    return flat if closed else np.concatenate([flat, last], axis=-2)


def tube(center: Points, half_width: ArrayLike) -> Points:
    """Return the outline of a band along the curve [n, 2]; half_width is one number or n."""
    direction = np.gradient(center, axis=0)
    normal = np.stack([-direction[:, 1], direction[:, 0]], 1) / (np.linalg.norm(direction, axis=1)[:, None] + 1e-9)
    offset = normal * np.broadcast_to(np.asarray(half_width, np.float64), len(center))[:, None]
    return np.vstack([center + offset, (center - offset)[::-1]])


def rounded(half_width: ArrayLike, axis: Points) -> Points:
    """Return half widths along the axis [n, 2] that shrink to nothing at its start, as the cap of a tube does."""
    whole = np.broadcast_to(np.asarray(half_width, np.float64), len(axis))
    gone = np.r_[0, np.cumsum(np.linalg.norm(np.diff(axis, axis=0), axis=1))]
    left = np.clip(1 - gone / (whole + 1e-9), 0, 1)
    capped: Points = whole * np.sqrt(1 - left**2)
    return capped


class Canvas:
    """A raster of [rows, cols] and the similarity that maps body coordinates to its pixels."""

    def __init__(self, rows: int, cols: int, scale: float, origin: tuple[float, float], tilt: float) -> None:
        """Scale: pixels a lung height; origin: pixel x, y of (0, 0); tilt: degrees clockwise about (0, 0.5)."""
        self.rows, self.cols, self.scale = rows, cols, scale
        angle = np.deg2rad(tilt)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        pivot = np.array([0.0, 0.5])
        self._linear = scale * turn
        self._offset = np.asarray(origin) + scale * (pivot - turn @ pivot)

    def reduced(self, factor: int) -> Canvas:
        """Return the same view on a raster `factor` times coarser."""
        small = Canvas(-(-self.rows // factor), -(-self.cols // factor), self.scale / factor, (0, 0), 0)
        small._linear = self._linear / factor
        small._offset = (self._offset + 0.5) / factor - 0.5
        return small

    def grid(self) -> tuple[Floats, Floats]:
        """Return u and v of every pixel's centre, each [rows, cols]."""
        inverse = np.linalg.inv(self._linear)
        offset = inverse @ -self._offset
        x = np.arange(self.cols)[None, :]
        y = np.arange(self.rows)[:, None]
        u = (inverse[0, 0] * x + inverse[0, 1] * y + offset[0]).astype(np.float32)
        v = (inverse[1, 0] * x + inverse[1, 1] * y + offset[1]).astype(np.float32)
        return u, v

    def pixels(self, points: ArrayLike) -> Points:
        """Map body coordinates [n, 2] to pixel x, y."""
        mapped: Points = np.asarray(points, np.float64) @ self._linear.T + self._offset
        return mapped

    def blank(self) -> Bytes:
        """Return an empty layer."""
        return np.zeros((self.rows, self.cols), np.uint8)

    def _fixed(self, points: ArrayLike) -> NDArray[np.int32]:
        limit = 4.0 * (self.rows + self.cols)  # OpenCV's fixed point overflows far outside
        fixed: NDArray[np.int32] = np.rint(np.clip(self.pixels(points), -limit, limit) * (1 << _SHIFT)).astype(np.int32)
        return fixed

    def fill(self, layer: Bytes, outlines: Sequence[Points], value: int = 255) -> Bytes:
        """Fill each closed outline; where they overlap the value stays the same."""
        for outline in outlines:
            cv2.fillPoly(layer, [self._fixed(outline)], value, cv2.LINE_AA, _SHIFT)
        return layer

    def stroke(self, layer: Bytes, curve: Points, width: float, value: int = 255, closed: bool = False) -> None:
        """Draw a curve `width` lung heights wide, at least one pixel."""
        pixels = max(1, round(width * self.scale))
        cv2.polylines(layer, [self._fixed(curve)], closed, value, pixels, cv2.LINE_AA, _SHIFT)

    def mask(self, outlines: Sequence[Points], blur: float = 0.0) -> Floats:
        """Return the filled outlines as 0..1 with edges softened by a Gaussian of `blur` lung heights."""
        return self.soften(self.fill(self.blank(), outlines), blur)

    def soften(self, layer: Bytes, blur: float = 0.0) -> Floats:
        """Return a byte layer as float 0..1 after a Gaussian of `blur` lung heights."""
        sigma = blur * self.scale
        if sigma > 0.3:
            layer = gaussian(layer, sigma)
        return layer.astype(np.float32) * np.float32(1 / 255)

    def depth(self, outlines: Sequence[Points], reach: float) -> Floats:
        """Return the relative thickness of rounded bodies: 0 at the outline, rising as an ellipse to 1 at `reach`."""
        distance = cv2.distanceTransform(self.fill(self.blank(), outlines), cv2.DIST_L2, 5)
        distance = cv2.GaussianBlur(distance, (0, 0), 1.5)  # the staircase of a slanted outline would show as a comb
        inward = 1 - np.minimum(distance * np.float32(1 / (reach * self.scale)), 1)
        thickness: Floats = np.sqrt(1 - inward * inward)
        return thickness


def gaussian(image: _Image, sigma: float) -> _Image:
    """Blur; a wide one is done on a coarser raster, where it costs nothing and no eye sees the difference."""
    factor = int(sigma // 4)
    rows, cols = image.shape
    if factor < 2 or min(rows, cols) < 4 * factor:
        return cv2.GaussianBlur(image, (0, 0), sigma)  # type: ignore[return-value]
    small = cv2.resize(image, (-(-cols // factor), -(-rows // factor)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / factor)
    return cv2.resize(small, (cols, rows), interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]


def fractal(rng: np.random.Generator, rows: int, cols: int, cell: float, octaves: int, gain: float = 0.5) -> Floats:
    """Return noise of standard deviation about 1 whose largest structures are `cell` pixels wide."""
    total = np.zeros((rows, cols), np.float32)
    amplitude, power = 1.0, 0.0
    for octave in range(octaves):
        size = max(1.0, cell / 2**octave)
        shape = (max(2, int(rows / size) + 2), max(2, int(cols / size) + 2))
        coarse = rng.standard_normal(shape, dtype=np.float32)
        total += np.float32(amplitude) * cv2.resize(coarse, (cols, rows), interpolation=cv2.INTER_CUBIC)
        power += amplitude**2
        amplitude *= gain
    # cubic interpolation between independent nodes keeps about 0.72 of their standard deviation
    return total * np.float32(1 / (0.72 * power**0.5))
