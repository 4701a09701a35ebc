"""Random changes that must not change the answer: geometry, spectrum, resampling, exposure, JPEG, text, frames.

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
BANDS = (0.7, 1.4, 2.8)  # standard deviations in grid pixels of the low-pass filters that bound the bands
USUAL_ENERGY = (2.8, 4.2, 6.2)  # root mean square in each band: medians of Kermany's 5,216 training images
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_DUPLEX)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz 0123456789 -./:"


@dataclass(frozen=True)
class AugmentConfig:
    """How strongly each change is drawn; chances in 0..1, angles in degrees, lengths as shares of the image."""

    frame_only: float = 0.05
    flip: float = 0.5
    rotate: float = 9.0
    narrowest: float = 0.8  # width over height: a 35 x 43 cm detector upright, and a child's collimated chest
    widest: float = 1.7
    zoom: float = 0.16
    closer: float = 0.0  # added to the zoom: less of what lies outside of the image shows
    aspect: float = 0.12
    shift: float = 0.07
    shear: float = 0.05
    foreign_frame: float = 0.3
    spectrum: float = 0.8
    sharpness: float = 0.0
    resample: float = 0.5
    coarsest: float = 0.45
    nearest: float = 0.1
    exposure: float = 0.8
    saturate: float = 0.0
    noise: float = 0.3
    text: float = 0.3
    jpeg: float = 0.4
    cutout: float = 0.2


DEFAULT_AUGMENT = AugmentConfig()


@dataclass(frozen=True)
class Geometry:
    """An affine map [2, 3] of the grid onto itself in pixels, and whether what lies outside is black."""

    matrix: npt.NDArray[np.float32]
    black: bool


def draw_geometry(
    rng: np.random.Generator,
    config: AugmentConfig = DEFAULT_AUGMENT,
    pose: npt.NDArray[np.float32] | None = None,
) -> Geometry:
    """Flip, turn, zoom, change the aspect ratio (it carries no meaning), shear and shift about the centre.

    The grid is an image squashed to a square, and a turn is one of the image: on the grid a shear, too, the more so the
    wider the image was, which is drawn, because the published training images do not tell it. With its `pose`, [2, 3]
    of grid pixels, an image is moved as if its chest lay where it does in most (see `framing`).
    """
    angle = np.deg2rad(rng.uniform(-config.rotate, config.rotate))
    width = np.exp(rng.uniform(np.log(config.narrowest), np.log(config.widest)))
    turn = np.array([[np.cos(angle), -np.sin(angle) / width], [np.sin(angle) * width, np.cos(angle)]])
    zoom, aspect = config.closer + rng.uniform(-config.zoom, config.zoom), rng.uniform(-config.aspect, config.aspect)
    scale = np.diag(np.exp([zoom + aspect, zoom - aspect]))
    if rng.random() < config.flip:
        scale[0, 0] *= -1
    shear = np.array([[1, rng.uniform(-config.shear, config.shear)], [0, 1]])
    linear = turn @ shear @ scale
    centre = np.full(2, GRID / 2)
    offset = centre - linear @ centre + rng.uniform(-config.shift, config.shift, 2) * GRID
    if pose is not None:
        linear = linear @ np.linalg.inv(pose[:, :2])
        offset = offset - linear @ pose[:, 2]
    return Geometry(np.hstack([linear, offset[:, np.newaxis]]).astype(np.float32), bool(rng.random() < 0.5))


def augment(
    grid: Grey,
    rng: np.random.Generator,
    config: AugmentConfig = DEFAULT_AUGMENT,
    input_size: int = INPUT_SIZE,
    *,
    geometry: Geometry | None = None,
    other: Grey | None = None,
) -> Input:
    """Return one random variant of a grey image uint8 [GRID, GRID] as model input uint8 [input_size, input_size, 1].

    `geometry` is drawn unless it is given. `other` is any other image of the set, whatever its label: its frame is now
    and then put around this one.
    """
    moved = geometry or draw_geometry(rng, config)
    border = cv2.BORDER_CONSTANT if moved.black else cv2.BORDER_REPLICATE
    image = _grey(cv2.warpAffine(grid, moved.matrix, (GRID, GRID), flags=cv2.INTER_LINEAR, borderMode=border))
    if rng.random() < config.spectrum:
        image = _spectrum(image, rng)
    if rng.random() < config.sharpness:
        image = _sharpness(image, rng)
    if rng.random() < config.resample:
        image = _resample(image, rng, config)
    if other is not None and rng.random() < config.foreign_frame:
        image = _foreign_frame(image, other, rng)
    if rng.random() < config.exposure:
        image = _exposure(image, rng, config.saturate)
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


def move_lesion(lesion: Grey, geometry: Geometry, cells: int) -> npt.NDArray[np.float32]:
    """Return how a lesion, uint8 [side, side], is spread over [cells, cells] after the move; sums to 1 or 0."""
    ratio = len(lesion) / GRID
    matrix = geometry.matrix * np.array([1, 1, ratio], np.float32)
    moved = cv2.warpAffine(lesion, matrix, lesion.shape[::-1], flags=cv2.INTER_LINEAR)
    spread = cv2.resize(moved.astype(np.float32), (cells, cells), interpolation=cv2.INTER_AREA)
    total = float(spread.sum())
    return np.asarray(spread / total if total > 0 else spread, np.float32)


def frame_only(grid: Grey, rng: np.random.Generator, input_size: int = INPUT_SIZE) -> Input:
    """Return model input on which nothing but a frame of the image is left: nobody can tell from it.

    Shown with the target 0.5, it teaches that borders, collimation, markers and text are no evidence.
    """
    image = grid.copy()
    top, bottom, left, right = (int(GRID * share) for share in rng.uniform(0.04, 0.22, 4))
    inside = image[top : GRID - bottom, left : GRID - right]
    inside[:] = int(rng.choice([0, 255, int(inside.mean()), int(image.mean()), int(rng.integers(256))]))
    if rng.random() < 0.5:
        image = _noise(image, rng)
    return to_input(to_grid(image), input_size)


def _spectrum(image: Grey, rng: np.random.Generator) -> Grey:
    """Give every fine band a random energy that has nothing to do with the image's own.

    The sharpness of a published image tells how large the original was, which tells the label: the bands are brought to
    one energy (that of an average radiograph) and from there changed at random, so that both labels look alike in it.
    """
    coarse = image.astype(np.float32)
    bands = []
    for sigma in BANDS:
        smoother = np.asarray(cv2.GaussianBlur(coarse, (0, 0), sigma), np.float32)
        bands.append(coarse - smoother)
        coarse = smoother
    for band, usual in zip(bands, USUAL_ENERGY, strict=True):
        energy = float(np.sqrt(np.mean(band * band))) + 0.3
        equal = rng.uniform(0.5, 1.0)  # how much of the image's own energy is forgotten
        gain = (usual / energy) ** equal * np.exp(rng.normal(0, 0.45))
        coarse = coarse + band * np.float32(min(gain, 4.0))
    return _clip(coarse)


def _sharpness(image: Grey, rng: np.random.Generator) -> Grey:
    """Blur, or sharpen as an unsharp mask would."""
    blurred = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.4)))
    if rng.random() < 0.5:
        return _grey(blurred)
    amount = float(rng.uniform(0.3, 1.6))
    return _grey(cv2.addWeighted(image, 1 + amount, blurred, -amount, 0))


def _resample(image: Grey, rng: np.random.Generator, config: AugmentConfig) -> Grey:
    """Lose resolution as an unknown scaler would: down by a random kernel, up again by another.

    Down to the share `coarsest` of a side, and by the chance `nearest` without any averaging.
    """
    side = int(GRID * rng.uniform(config.coarsest, 1.0))
    down, up = (KERNELS[int(index)] for index in rng.integers(len(KERNELS), size=2))
    if rng.random() < config.nearest:
        down = cv2.INTER_NEAREST
    small = cv2.resize(image, (side, side), interpolation=down)
    return _grey(cv2.resize(small, (image.shape[1], image.shape[0]), interpolation=up))


def _foreign_frame(image: Grey, other: Grey, rng: np.random.Generator) -> Grey:
    """Put the frame of another image around this one, so that a frame says nothing about its label."""
    rows, columns = image.shape
    keep = np.zeros((rows, columns), np.float32)
    top, bottom, left, right = (round(share * rows) for share in rng.uniform(0.0, 0.13, 4))
    keep[top : rows - bottom, left : columns - right] = 1
    if rng.random() < 0.7:
        keep = np.asarray(cv2.GaussianBlur(keep, (0, 0), float(rng.uniform(0.5, 5))), np.float32)
    around = other[:, ::-1] if rng.random() < 0.5 else other
    return _clip(image * keep + around * (1 - keep))


def _exposure(image: Grey, rng: np.random.Generator, saturate: float) -> Grey:
    """Gamma and a sigmoid-like contrast through one table; linear gain is undone by the stretch anyway.

    Up to the share `saturate` of the range is lost in black, or in white, as where a detector or a window ends.
    """
    levels = np.linspace(0, 1, 256) ** rng.uniform(0.65, 1.5)
    contrast = rng.uniform(-0.35, 0.35)
    levels = levels + contrast * levels * (1 - levels) * (2 * levels - 1) * 2
    low, high = rng.uniform(-saturate, 0.12), rng.uniform(0.85, 1 + saturate)
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
