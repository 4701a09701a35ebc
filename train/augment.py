"""Random changes that must not change the answer: geometry, sharpness, resampling, exposure, JPEG, text, markers.

Each one answers a shortcut or a shift that was measured on these data (sharpness and resampling kernel of the published
training images, image size, aspect ratio, border, burned-in text). All of it works on one image at a time, on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from serve.preprocess import GRID, INPUT_SIZE, Input, to_grid, to_input

Grey = npt.NDArray[np.uint8]
KERNELS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_DUPLEX)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz 0123456789 -./:"


@dataclass(frozen=True)
class AugmentConfig:
    """How strongly each change is drawn; chances in 0..1, angles in degrees, lengths as shares of the image."""

    flip: float = 0.5
    rotate: float = 9.0
    stretch: float = 0.14
    shift: float = 0.07
    shear: float = 0.05
    resample: float = 0.5
    sharpness: float = 0.5
    exposure: float = 0.8
    noise: float = 0.3
    text: float = 0.3
    jpeg: float = 0.4
    cutout: float = 0.2


DEFAULT_AUGMENT = AugmentConfig()


def augment(
    grid: Grey, rng: np.random.Generator, config: AugmentConfig = DEFAULT_AUGMENT, input_size: int = INPUT_SIZE
) -> Input:
    """Return one random variant of a grey image uint8 [GRID, GRID] as model input uint8 [input_size, input_size, 1]."""
    image = _geometry(grid, rng, config)
    if rng.random() < config.resample:
        image = _resample(image, rng)
    if rng.random() < config.sharpness:
        image = _sharpness(image, rng)
    if rng.random() < config.exposure:
        image = _exposure(image, rng)
    if rng.random() < config.noise:
        image = _noise(image, rng)
    if rng.random() < config.text:
        image = _text(image, rng)
    if rng.random() < config.cutout:
        image = _cutout(image, rng)
    if rng.random() < config.jpeg:
        image = _jpeg(image, rng)
    kernel = cv2.INTER_AREA if rng.random() < 0.5 else KERNELS[int(rng.integers(len(KERNELS)))]
    return to_input(to_grid(image), input_size, kernel=kernel)


def _geometry(image: Grey, rng: np.random.Generator, config: AugmentConfig) -> Grey:
    """Flip, turn, stretch each axis on its own (aspect ratio carries no meaning), shear and shift about the centre."""
    rows, columns = image.shape
    angle = np.deg2rad(rng.uniform(-config.rotate, config.rotate))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale = np.diag(1 + rng.uniform(-config.stretch, config.stretch, 2))
    if rng.random() < config.flip:
        scale[0, 0] *= -1
    shear = np.array([[1, rng.uniform(-config.shear, config.shear)], [0, 1]])
    linear = turn @ shear @ scale
    centre = np.array([columns / 2, rows / 2])
    offset = centre - linear @ centre + rng.uniform(-config.shift, config.shift, 2) * (columns, rows)
    matrix = np.hstack([linear, offset[:, np.newaxis]]).astype(np.float32)
    border = cv2.BORDER_CONSTANT if rng.random() < 0.5 else cv2.BORDER_REPLICATE
    return _grey(cv2.warpAffine(image, matrix, (columns, rows), flags=cv2.INTER_LINEAR, borderMode=border))


def _resample(image: Grey, rng: np.random.Generator) -> Grey:
    """Lose resolution as an unknown scaler would: down by a random kernel, up again by another."""
    side = int(GRID * rng.uniform(0.5, 1.0))
    down, up = (KERNELS[int(index)] for index in rng.integers(len(KERNELS), size=2))
    small = cv2.resize(image, (side, side), interpolation=down)
    return _grey(cv2.resize(small, (image.shape[1], image.shape[0]), interpolation=up))


def _sharpness(image: Grey, rng: np.random.Generator) -> Grey:
    sigma = float(rng.uniform(0.4, 1.4))
    blurred = cv2.GaussianBlur(image, (0, 0), sigma)
    if rng.random() < 0.5:
        return _grey(blurred)
    amount = float(rng.uniform(0.3, 1.6))
    return _grey(cv2.addWeighted(image, 1 + amount, blurred, -amount, 0))


def _exposure(image: Grey, rng: np.random.Generator) -> Grey:
    """Gamma and a sigmoid-like contrast through one table; linear gain is undone by the stretch anyway."""
    levels = np.linspace(0, 1, 256) ** rng.uniform(0.65, 1.5)
    contrast = rng.uniform(-0.35, 0.35)
    levels = levels + contrast * levels * (1 - levels) * (2 * levels - 1) * 2
    low, high = rng.uniform(0, 0.12), rng.uniform(0.85, 1.0)
    return _grey(cv2.LUT(image, _clip((low + (high - low) * levels) * 255)))


def _noise(image: Grey, rng: np.random.Generator) -> Grey:
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(1, 6))
    return _clip(image + noise)


def _text(image: Grey, rng: np.random.Generator) -> Grey:
    """Burn in one to four lines near a corner, or a side marker, white or black, sometimes on a dark box."""
    image = image.copy()
    rows, columns = image.shape
    font, size = FONTS[int(rng.integers(len(FONTS)))], float(rng.uniform(0.25, 0.55))
    lines = int(rng.integers(1, 5))
    x, y = int(columns * rng.choice([0.02, 0.55])), int(rows * rng.choice([0.06, 0.8]))
    colour = int(rng.choice([255, 255, 255, 200, 0]))
    if rng.random() < 0.3:
        cv2.rectangle(image, (x - 3, y - 10), (x + 95, y + 11 * lines), int(255 - colour), -1)
    for line in range(lines):
        length = int(rng.integers(1, 20))
        text = "".join(LETTERS[int(index)] for index in rng.integers(len(LETTERS), size=length))
        cv2.putText(image, text, (x, y + 11 * line), font, size, colour, 1, cv2.LINE_AA)
    return image


def _cutout(image: Grey, rng: np.random.Generator) -> Grey:
    """Black out a strip at one edge (collimation) or a corner box (redaction), as de-identification does."""
    image = image.copy()
    rows, columns = image.shape
    if rng.random() < 0.5:
        depth = int(rng.uniform(0.03, 0.14) * rows)
        edge = int(rng.integers(4))
        view = (image[:depth], image[-depth:], image[:, :depth], image[:, -depth:])[edge]
    else:
        height, width = (int(rng.uniform(0.06, 0.25) * length) for length in (rows, columns))
        top, left = (0 if rng.random() < 0.5 else rows - height), (0 if rng.random() < 0.5 else columns - width)
        view = image[top : top + height, left : left + width]
    view[:] = 0
    return image


def _jpeg(image: Grey, rng: np.random.Generator) -> Grey:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 96))])
    decoded = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if done else None
    if decoded is None:
        raise RuntimeError("OpenCV could not encode a JPEG in memory")
    return _grey(decoded)


def _clip(values: npt.NDArray[np.floating]) -> Grey:
    clipped: Grey = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return clipped


def _grey(image: npt.NDArray[np.generic]) -> Grey:
    return image.astype(np.uint8, copy=False)
