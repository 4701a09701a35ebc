"""Radiographs of phantoms with text burned in, drawn so that every stroke's pixels are known.

What varies: letter height, place, polarity, contrast, font, script, rotation, number of lines, size of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from edgerad.phantom import random_spec, render
from ship.boxes import Box

Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Script = Literal["latin", "greek", "cyrillic", "chinese"]

SYSTEM_FONTS = (
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf",
    "/usr/share/fonts/truetype/dejavu/DejaVuSerif.ttf",
    "/usr/share/fonts/truetype/freefont/FreeMono.ttf",
)
"""Of Debian's fonts-dejavu-core and fonts-freefont-ttf: used where they are installed."""
HAND = "/usr/share/fonts/opentype/urw-base35/Z003-MediumItalic.otf"
"""Of Debian's fonts-urw-base35: a chancery hand, here with each letter at a height and on a line of its own."""
OWN_FONTS = ("opencv:sans", "opencv:italic", "opencv:uni", "pillow")
"""Fonts that the Python packages carry: the same on every machine."""
PLACES = ("top left", "top right", "bottom left", "bottom right", "left", "right", "top", "bottom", "middle")

_WORDS: dict[Script, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "latin": (
        ("Jane", "Guadalupe", "Ann", "Zbigniew", "María", "Lý", "Bjørn", "Albert", "Cierra", "Oluwaseun"),
        ("Doe", "Fitzgerald-Jones", "Ng", "Wojciechowski", "Núñez", "Smith", "Østergård", "Jeffers", "Okonkwo"),
    ),
    "greek": (("Ιωάννης", "Ελένη", "Γεώργιος"), ("Παπαδόπουλος", "Νικολάου", "Ζέρβα")),
    "cyrillic": (("Анна", "Дмитрий", "Ольга"), ("Иванова", "Щербаков", "Ким")),
    "chinese": (("小明", "丽华", "志强"), ("王", "欧阳", "陈")),
}


@dataclass(frozen=True, slots=True)
class Block:
    """Lines of text burned in together: `height` is that of a capital, in pixels; `contrast` in grey levels of 255."""

    place: str
    height: int
    contrast: int
    font: str
    script: Script
    rotation: int
    lines: int
    plate: bool = False
    """Whether the text stands on an opaque plate, as consoles draw it."""


@dataclass(frozen=True, slots=True)
class Stroke:
    """One burned-in line: its text, the pixels it changed (at half coverage or more), and its block."""

    text: str
    mask: Mask
    block: Block


@dataclass(frozen=True, slots=True)
class Burned:
    """A radiograph at 8 bits, its lines, the box x0, y0, x1, y1 of its lead marker, boxes of other text."""

    pixels: Grey
    strokes: tuple[Stroke, ...]
    marker: tuple[int, int, int, int] | None
    others: tuple[Box, ...] = ()


def fonts() -> tuple[str, ...]:
    """The fonts that can be had here, those that the packages carry first."""
    return OWN_FONTS + tuple(path for path in SYSTEM_FONTS if Path(path).is_file())


def random_block(rng: np.random.Generator, place: str, choice: Sequence[str], smallest: int, faintest: int) -> Block:
    """A block of 1 to 5 lines; a third of them as small, a third as faint as it gets."""
    font = str(rng.choice(list(choice)))
    script: Script = "latin"
    if font.startswith("opencv") and rng.random() < 0.4:
        script = ("greek", "cyrillic", "chinese")[int(rng.integers(3))]
    height = smallest if rng.random() < 1 / 3 else round(smallest * float(np.exp(rng.uniform(0, 1.4))))
    contrast = faintest if rng.random() < 1 / 3 else int(rng.integers(faintest, 200))
    rotation = int(rng.choice([0, 0, 0, 90, 180, 270]))
    return Block(place, height, contrast * int(rng.choice([-1, 1, 1])), font, script, rotation, int(rng.integers(1, 6)))


def burn(seed: int, blocks: Sequence[Block], *, size: int = 1024) -> Burned:
    """The phantom of that seed, its longer side `size` pixels, with the blocks drawn into it.

    Text adds its contrast to what is behind it: bright where the background is dark and the other way round when the
    asked polarity would saturate. A block that would touch another one, the marker or the border is left out.
    """
    rng = np.random.default_rng((seed, 0xB0))
    spec = random_spec((seed, 0xB1), size=size)
    phantom = render(spec)
    display = (phantom.pixels.astype(np.float32) * np.float32(255 / ((1 << spec.bits) - 1))).copy()
    taken = np.zeros(display.shape, bool)
    marker = None
    if (box := phantom.marker) is not None:
        marker = (box.x, box.y, box.x + box.width, box.y + box.height)
        reach = box.height
        taken[max(box.y - reach, 0) : marker[3] + reach, max(box.x - reach, 0) : marker[2] + reach] = True
    strokes: list[Stroke] = []
    for block in blocks:
        strokes += _draw(display, taken, block, rng)
    return Burned(np.rint(np.clip(display, 0, 255)).astype(np.uint8), tuple(strokes), marker)


def _draw(display: npt.NDArray[np.float32], taken: Mask, block: Block, rng: np.random.Generator) -> list[Stroke]:
    texts = _texts(block, rng)
    layers = [letters(text, block.font, block.height) for text in texts]
    pitch = round(block.height * float(rng.uniform(1.5, 2.2)))
    width, height = max(layer.shape[1] for layer in layers), pitch * (len(layers) - 1) + layers[-1].shape[0]
    alphas = []
    for number, layer in enumerate(layers):
        alpha = np.zeros((max(height, number * pitch + layer.shape[0]), width), np.float32)
        alpha[number * pitch : number * pitch + layer.shape[0], : layer.shape[1]] = layer / np.float32(255)
        alphas.append(_turned(alpha[:height], block.rotation))
    rows, columns = alphas[0].shape
    margin = int(rng.integers(2, 1 + max(3, block.height)))
    y, x = _corner(block.place, display.shape, (rows, columns), margin)
    if y < 0 or x < 0 or y + rows > display.shape[0] or x + columns > display.shape[1]:
        return []
    around = (slice(max(y - 8, 0), y + rows + 8), slice(max(x - 8, 0), x + columns + 8))
    if taken[around].any():
        return []
    taken[around] = True
    part = display[y : y + rows, x : x + columns]
    if block.plate:
        part[:] = 0 if block.contrast > 0 else 220
    high, low = float(np.percentile(part, 95)), float(np.percentile(part, 5))
    contrast = float(block.contrast)
    if not 0 <= (high if contrast > 0 else low) + contrast <= 255:
        contrast = -contrast
    if not 0 <= (high if contrast > 0 else low) + contrast <= 255:
        contrast = 255 - high if 255 - high > low else -low
    found = []
    for text, alpha in zip(texts, alphas, strict=True):
        part += alpha * np.float32(contrast)
        mask = np.zeros(display.shape, bool)
        mask[y : y + rows, x : x + columns] = alpha >= 0.5
        found.append(Stroke(text, mask, block))
    return found


def _turned(alpha: npt.NDArray[np.float32], degrees: int) -> npt.NDArray[np.float32]:
    """The layer turned to the left, on a canvas that holds it whole."""
    alpha = np.ascontiguousarray(np.rot90(alpha, degrees // 90))
    if (rest := degrees % 90) == 0:
        return alpha
    rows, columns = alpha.shape
    cosine, sine = float(np.cos(np.deg2rad(rest))), float(np.sin(np.deg2rad(rest)))
    wide, high = int(np.ceil(columns * cosine + rows * sine)), int(np.ceil(columns * sine + rows * cosine))
    matrix = cv2.getRotationMatrix2D((columns / 2, rows / 2), rest, 1.0)
    matrix[:, 2] += ((wide - columns) / 2, (high - rows) / 2)
    return np.asarray(cv2.warpAffine(alpha, matrix, (wide, high), flags=cv2.INTER_LINEAR), dtype=np.float32)


def _texts(block: Block, rng: np.random.Generator) -> list[str]:
    first, last = _WORDS[block.script]
    if block.font == "pillow":  # it has no accented letters
        first, last = tuple(filter(str.isascii, first)), tuple(filter(str.isascii, last))
    name = f"{rng.choice(list(last))} {rng.choice(list(first))}"
    date = f"{rng.integers(1930, 2020)}-{rng.integers(1, 13):02d}-{rng.integers(1, 29):02d}"
    other = f"{rng.integers(1, 29):02d}.{rng.integers(1, 13):02d}.{rng.integers(1930, 2020)}"
    choices = [name, f"ID {rng.integers(1000, 9999999)}", f"DOB {date}", other, f"{rng.integers(10000, 99999999)}"]
    return [choices[0], *(choices[1:] if rng.random() < 0.5 else choices[:0:-1])][: block.lines]


def _corner(place: str, shape: tuple[int, ...], size: tuple[int, int], margin: int) -> tuple[int, int]:
    rows, columns = shape[0] - size[0], shape[1] - size[1]
    y = margin if "top" in place else rows - margin if "bottom" in place else rows // 2
    x = margin if "left" in place else columns - margin if "right" in place else columns // 2
    return y, x


def letters(text: str, font: str, height: int) -> Grey:
    """The text's coverage 0..255, capitals `height` pixels high, cut to its ink."""
    probe = _ink("H", font, 100)
    return _ink(text, font, height * 100 / probe.shape[0])


def _ink(text: str, font: str, size: float) -> Grey:
    if font == HAND:
        return _written(text, size)
    pad = round(2 * size) + 8
    canvas = np.zeros((2 * pad, round(1.3 * size * (len(text) + 2)) + pad), np.uint8)
    if font.startswith("opencv:"):
        face: Any = cv2.FontFace(font.removeprefix("opencv:"))
        cv2.putText(canvas, text, (pad // 2, pad), (255,), face, round(size))
    else:
        image = Image.fromarray(canvas)
        loaded = ImageFont.load_default(size) if font == "pillow" else ImageFont.truetype(font, size)
        ImageDraw.Draw(image).text((pad // 2, pad // 3), text, fill=255, font=loaded)
        canvas = np.array(image)
    x, y, width, high = cv2.boundingRect(canvas)
    return canvas[y : y + high, x : x + width]


def _written(text: str, size: float) -> Grey:
    """Letters that stand unevenly; the same text is always written alike."""
    rng = np.random.default_rng(list(text.encode()))
    image = Image.new("L", (round(1.2 * size * (len(text) + 2)), round(4 * size)))
    draw, x = ImageDraw.Draw(image), size
    for letter in text:
        face = ImageFont.truetype(HAND, size * float(rng.uniform(0.85, 1.2)))
        draw.text((x, 2.5 * size + float(rng.normal(0, 0.05)) * size), letter, fill=255, font=face, anchor="ls")
        x += face.getlength(letter) * float(rng.uniform(0.85, 1.05))
    canvas = np.array(image)
    left, top, wide, high = cv2.boundingRect(canvas)
    return canvas[top : top + high, left : left + wide]
