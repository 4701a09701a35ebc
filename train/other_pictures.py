"""Pictures that are no upright frontal chest radiograph, drawn by code: what the view check learns to refuse.

Each kind is a function of a random generator that returns float32 [SIDE, SIDE] of any range. `turned` makes the other
kind of mistake: a real radiograph inverted, turned, or too small a part of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from types import MappingProxyType

import cv2
import numpy as np
import numpy.typing as npt

SIDE = 224
FONT = cv2.FONT_HERSHEY_SIMPLEX
Picture = npt.NDArray[np.float32]
Draw = Callable[[np.random.Generator], Picture]
Points = npt.NDArray[np.float64]


def _blank(value: float = 0.0) -> Picture:
    return np.full((SIDE, SIDE), value, np.float32)


def _clouds(rng: np.random.Generator, slope: float) -> Picture:
    """Noise whose amplitude falls with frequency^slope, 0..1: clouds at 1 to 2, white noise at 0."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, np.newaxis], np.fft.rfftfreq(SIDE)[np.newaxis])
    frequency[0, 0] = 1.0
    phase = rng.uniform(0, 2 * np.pi, frequency.shape)
    field = np.fft.irfft2(np.exp(1j * phase) / frequency**slope, (SIDE, SIDE))
    return np.asarray((field - field.min()) / np.ptp(field), np.float32)


def _stroke(image: Picture, points: Points, widths: npt.ArrayLike, value: float) -> None:
    """Draw a tube along points [n, 2] in pixels."""
    for (start, end), width in zip(pairwise(points), np.broadcast_to(widths, len(points) - 1), strict=True):
        cv2.line(image, _at(start), _at(end), value, max(1, round(float(width))), cv2.LINE_AA)


def _at(point: npt.ArrayLike) -> tuple[int, int]:
    x, y = np.rint(np.asarray(point, np.float64)).astype(int)
    return int(x), int(y)


def _by(x: float, y: float) -> Points:
    return np.array([x, y], np.float64)


def _ellipse(image: Picture, centre: npt.ArrayLike, axes: tuple[float, float], angle: float, value: float) -> None:
    cv2.ellipse(
        image, _at(centre), (max(1, round(axes[0])), max(1, round(axes[1]))), angle, 0, 360, value, -1, cv2.LINE_AA
    )


def _polygon(image: Picture, points: Points, value: float) -> None:
    cv2.fillPoly(image, [np.rint(points).astype(np.int32)], value, cv2.LINE_AA)


def _turn(image: Picture, angle: float, scale: float = 1.0, shift: npt.ArrayLike = (0, 0)) -> Picture:
    matrix = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), angle, scale)
    matrix[:, 2] = matrix[:, 2] + np.asarray(shift, np.float64)
    return np.asarray(cv2.warpAffine(image, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE), np.float32)


def _bones(rng: np.random.Generator, flesh: Picture, bone: Picture) -> Picture:
    """Soft tissue and bone as a radiograph shows them, with scatter, noise and now and then a collimator."""
    image: npt.NDArray[np.floating] = rng.uniform(0.25, 0.5) * cv2.GaussianBlur(flesh, (0, 0), rng.uniform(2, 5))
    image = image + rng.uniform(0.3, 0.6) * cv2.GaussianBlur(bone, (0, 0), rng.uniform(0.6, 1.5))
    image = image * (0.85 + 0.3 * _clouds(rng, 1.2))
    image = _turn(np.asarray(image, np.float32), rng.uniform(-35, 35), rng.uniform(0.8, 1.5), rng.uniform(-20, 20, 2))
    shown = np.asarray(image + rng.normal(0, 0.01, image.shape), np.float32)
    if rng.random() < 0.4:
        edge = round(rng.uniform(0.05, 0.22) * SIDE)
        shown[:, :edge] = shown[:, -edge:] = 0
    return shown


def _digit(flesh: Picture, bone: Picture, root: Points, tip: Points, width: float, joints: tuple[float, ...]) -> None:
    _stroke(flesh, np.stack([root, tip]), width, 1.0)
    for near, far in pairwise(joints):
        start, end = root + (tip - root) * (near + 0.03), root + (tip - root) * (far - 0.03)
        _stroke(bone, np.stack([start, end]), width * 0.42, 0.8)
        for head in (start, end):
            _ellipse(bone, head, (width * 0.3, width * 0.3), 0, 1.0)


def hand(rng: np.random.Generator) -> Picture:
    """A hand with its fingers spread, or both."""
    flesh, bone = _blank(), _blank()
    for middle in (SIDE / 2,) if rng.random() < 0.7 else (SIDE * 0.28, SIDE * 0.74):
        size = rng.uniform(0.8, 1.1) * (1 if middle == SIDE / 2 else 0.55)
        palm = np.array([middle, SIDE * 0.68])
        _ellipse(flesh, palm, (38 * size, 46 * size), 0, 1.0)
        _stroke(flesh, np.array([palm, [middle, SIDE]]), 50 * size, 1.0)
        for wrist in (-9, 9):
            _stroke(
                bone, np.array([[middle + wrist * size, SIDE], palm + _by(wrist * size, 42 * size)]), 14 * size, 0.9
            )
        spread = rng.uniform(0.8, 1.2)
        for angle, length in zip((-62, -18, -2, 13, 30), (74, 112, 122, 114, 92), strict=True):
            turn = np.deg2rad(angle * spread)
            root = palm + np.array([np.sin(turn), 1 - np.cos(turn)]) * 22 * size + _by(0, 24 * size)
            tip = root + np.array([np.sin(turn), -np.cos(turn)]) * length * size * rng.uniform(0.9, 1.08)
            _digit(flesh, bone, root, tip, 21 * size, (0.0, 0.42, 0.66, 0.84, 1.0))
        for _ in range(8):
            _ellipse(
                bone, palm + _by(rng.uniform(-17, 17) * size, rng.uniform(24, 44) * size), (6 * size, 5 * size), 0, 0.9
            )
    return _bones(rng, flesh, bone)


def foot(rng: np.random.Generator) -> Picture:
    """A foot from above, with long parallel metatarsals, or from the side with its heel."""
    flesh, bone = _blank(), _blank()
    if rng.random() < 0.5:
        _polygon(flesh, np.array([[70, 224], [66, 120], [76, 50], [150, 62], [160, 130], [140, 224]]), 1.0)
        for number in range(5):
            root = np.array([88 + 12.0 * number, 150 + 4 * number])
            tip = np.array([80 + 18.0 * number, 34 + 9 * number + rng.uniform(-4, 4)])
            _digit(flesh, bone, root, tip, 19 if number == 0 else 13, (0.0, 0.55, 0.82, 1.0))
        for _ in range(7):
            _ellipse(bone, [rng.uniform(86, 136), rng.uniform(155, 215)], (13, 11), rng.uniform(0, 180), 0.9)
    else:
        _polygon(
            flesh,
            np.array([[110, 0], [165, 0], [170, 110], [196, 160], [190, 190], [20, 188], [24, 160], [105, 110]]),
            1.0,
        )
        _stroke(bone, np.array([[138, 0], [140, 105]]), 24, 0.9)
        _ellipse(bone, [165, 158], (28, 18), 25, 0.95)
        _ellipse(bone, [128, 135], (24, 14), 10, 0.9)
        for number in range(4):
            _stroke(bone, np.array([[105, 150 + 4 * number], [34, 168 + 4 * number]]), 8, 0.7)
    return _bones(rng, flesh, bone)


def limb(rng: np.random.Generator) -> Picture:
    """A long bone or two with a joint: knee, elbow, forearm, lower leg."""
    flesh, bone = _blank(), _blank()
    width, bend = rng.uniform(45, 110), rng.uniform(-40, 40)
    joint = np.array([SIDE / 2, SIDE * rng.uniform(0.35, 0.65)])
    ends = np.array([[SIDE / 2 + bend, -20.0], [SIDE / 2 + rng.uniform(-10, 10), SIDE + 20.0]])
    for number, end in enumerate(ends):
        _stroke(flesh, np.stack([joint, end]), width, 1.0)
        thick = rng.uniform(0.18, 0.34) * width
        for offset in (-0.22, 0.22) if number == 1 and rng.random() < 0.6 else (0.0,):
            shift = np.array([offset * width, 0.0])
            _stroke(bone, np.stack([joint + shift, end + shift]), thick, 0.75)
            _stroke(bone, np.stack([joint + shift, end + shift]), thick * 0.5, 0.55)
        _ellipse(bone, joint + _by(0, (-1) ** number * -0.16 * width), (width * 0.34, width * 0.2), 0, 0.9)
    return _bones(rng, flesh, bone)


def skull(rng: np.random.Generator) -> Picture:
    """A head, from the front or the side: a bright vault, orbits or a jaw, teeth."""
    flesh, bone = _blank(), _blank()
    centre = np.array([SIDE / 2 + rng.uniform(-8, 8), 98.0])
    _ellipse(flesh, centre, (82, 92), 0, 1.0)
    _ellipse(bone, centre, (76, 86), 0, 1.0)
    _ellipse(bone, centre, (68, 78), 0, 0.6)
    if rng.random() < 0.5:
        for side in (-1, 1):
            _ellipse(bone, centre + _by(side * 30, 26), (19, 16), 0, 0.35)
        _ellipse(bone, centre + _by(0, 52), (9, 18), 0, 0.3)
    else:
        _ellipse(bone, centre + _by(-50, 34), (18, 15), 0, 0.35)
        _polygon(bone, np.array([[50, 150], [130, 140], [140, 190], [62, 206]]), 0.75)
        _stroke(bone, np.array([[150, 150], [165, 224]]), 26, 0.6)
    for tooth in np.arange(-4, 5):
        _ellipse(bone, centre + _by(tooth * 8.0, 82), (3.5, 7), 0, 1.0)
    _polygon(flesh, np.array([[80, 180], [145, 180], [160, 224], [66, 224]]), 0.9)
    return _bones(rng, flesh, bone)


def trunk(rng: np.random.Generator) -> Picture:
    """An abdomen or pelvis: spine, iliac wings, hips, bowel gas; bright all over."""
    flesh, bone = _blank(1.0), _blank()
    gas = _blank()
    middle = SIDE / 2 + rng.uniform(-8, 8)
    top = rng.uniform(-60, 30)
    for number in range(6):
        y = top + 26 * number
        cv2.rectangle(bone, _at([middle - 15, y]), _at([middle + 15, y + 20]), 0.8, -1)
        _stroke(bone, np.array([[middle - 30, y + 10], [middle + 30, y + 10]]), 5, 0.6)
    low = top + 150
    for side in (-1, 1):
        wing = np.array([[14, 0], [70, -42], [92, -6], [72, 44], [30, 40]]) * [side, 1] + _by(middle, low + 10)
        _polygon(bone, wing.astype(np.float64), 0.7)
        _ellipse(bone, [middle + side * 66, low + 62], (17, 17), 0, 0.95)
        _stroke(bone, np.array([[middle + side * 70, low + 66], [middle + side * 88, low + 130]]), 22, 0.8)
        _ellipse(bone, [middle + side * 26, low + 74], (14, 18), 0, 0.2)
    for _ in range(int(rng.integers(2, 12))):
        _ellipse(
            gas,
            rng.uniform(30, 190, 2) - [0, 25],
            (rng.uniform(6, 24), rng.uniform(6, 16)),
            rng.uniform(0, 180),
            rng.uniform(0.3, 0.9),
        )
    image = 0.55 * flesh + 0.4 * cv2.GaussianBlur(bone, (0, 0), 1.2) - 0.4 * cv2.GaussianBlur(gas, (0, 0), 3)
    return _turn((image + 0.15 * _clouds(rng, 1.4)).astype(np.float32), rng.uniform(-12, 12), rng.uniform(0.9, 1.3))


def lateral(rng: np.random.Generator) -> Picture:
    """A chest from the side: one field of lung before the spine, the heart in front, two domes, raised arms."""
    y = np.linspace(0, 1, 12)
    back = np.stack([150 + 34 * np.sin(np.pi * y) * rng.uniform(0.7, 1.2), 24 + 170 * y], 1)
    front = np.stack([84 - 40 * np.sin(np.pi * y * 0.75) * rng.uniform(0.7, 1.2), 24 + 150 * y], 1)
    body, lung, dense = _blank(), _blank(), _blank()
    _polygon(body, np.concatenate([front - [26, 0], (back + _by(40, 0))[::-1]]), 1.0)
    _stroke(body, np.array([[70, 40], [30, -10]]), 60, 1.0)
    _stroke(body, np.array([[150, 40], [185, -10]]), 50, 1.0)
    cv2.rectangle(body, (40, 180), (205, 224), 1.0, -1)
    _polygon(lung, np.concatenate([front, back[::-1]]), 1.0)
    _ellipse(dense, [84, 136], (34, 42), -25, 0.8)
    for place in back:
        cv2.rectangle(dense, _at(place + _by(2, -5)), _at(place + _by(26, 5)), 0.5, -1)
    for number in range(8):
        start = back[2 + number] + _by(10, 0)
        _stroke(dense, np.stack([start, start + _by(-70, 34), start + _by(-112, 60)]), 4, 0.22)
    for level in (188, 198):
        _ellipse(dense, [112, level + 26], (92, 40), 0, 0.7)
    image = (
        0.7 * cv2.GaussianBlur(body, (0, 0), 3)
        - 0.5 * cv2.GaussianBlur(lung, (0, 0), 4)
        + 0.45 * cv2.GaussianBlur(dense, (0, 0), 2)
    )
    image = (image + 0.12 * _clouds(rng, 1.3)).astype(np.float32)
    if rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
    return _turn(image, rng.uniform(-10, 10), rng.uniform(0.95, 1.35), rng.uniform(-15, 15, 2))


def slice_image(rng: np.random.Generator) -> Picture:
    """An axial slice of CT or MR: a bright outline on black, organs inside; trunk or head."""
    image = _blank()
    head = rng.random() < 0.5
    width, height = (rng.uniform(70, 88), rng.uniform(84, 105)) if head else (rng.uniform(88, 108), rng.uniform(58, 84))
    centre = np.array([SIDE / 2, SIDE / 2]) + rng.uniform(-8, 8, 2)
    _ellipse(image, centre, (width, height), 0, rng.uniform(0.4, 0.9))
    _ellipse(image, centre, (width - 7, height - 7), 0, rng.uniform(0.3, 0.6))
    for _ in range(int(rng.integers(4, 16))):
        place = centre + rng.uniform(-0.6, 0.6, 2) * [width, height]
        _ellipse(image, place, (rng.uniform(5, 32), rng.uniform(5, 32)), rng.uniform(0, 180), rng.uniform(0.05, 1.0))
    if not head and rng.random() < 0.6:
        for side in (-1, 1):
            _ellipse(image, centre + _by(side * width * 0.48, -4), (width * 0.33, height * 0.6), side * 10, 0.05)
        _ellipse(image, centre + _by(0, height * 0.6), (15, 15), 0, 1.0)
    inside = cv2.GaussianBlur((image > 0.02).astype(np.float32), (0, 0), 1)
    image += inside * 0.25 * (_clouds(rng, rng.uniform(0.6, 1.6)) - 0.5)
    if rng.random() < 0.3:
        image = 1 - image
    return _turn(image.astype(np.float32), rng.uniform(-20, 20), rng.uniform(0.7, 1.4))


def sector(rng: np.random.Generator) -> Picture:
    """An ultrasound's fan of speckle on black."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    radius, angle = np.hypot(x - SIDE / 2, y + 20), np.arctan2(x - SIDE / 2, y + 20)
    fan = (np.abs(angle) < rng.uniform(0.5, 0.9)) & (radius > rng.uniform(30, 60)) & (radius < rng.uniform(190, 250))
    speckle = rng.gamma(1.5, 0.4, (SIDE, SIDE)).astype(np.float32)
    return np.asarray(fan * (cv2.GaussianBlur(speckle, (0, 0), 1) * _clouds(rng, 1.5) ** 1.5), np.float32)


def scene(rng: np.random.Generator) -> Picture:
    """Things before one another, each with its own grain: statistics of photographs (dead leaves, power-law sizes)."""
    image = _clouds(rng, 1.5) if rng.random() < 0.5 else _blank(float(rng.random()))
    for _ in range(int(rng.integers(15, 220))):
        size = min(9.0 / rng.uniform(0.06, 1.0) ** 1.2, 110.0)
        layer, value = _blank(), float(rng.random())
        centre = rng.uniform(0, SIDE, 2)
        if rng.random() < 0.5:
            _ellipse(layer, centre, (size, size * rng.uniform(0.3, 1)), rng.uniform(0, 180), 1.0)
        else:
            turn = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
            _polygon(layer, centre + size * np.stack([np.cos(turn), np.sin(turn)], 1), 1.0)
        grain = value + rng.uniform(0, 0.4) * (_clouds(rng, 1.3) - 0.5) if size > 40 else value
        image = image * (1 - layer) + layer * grain
    light = np.linspace(rng.uniform(0.5, 1.2), 1.0, SIDE, dtype=np.float32)
    image = image * (light if rng.random() < 0.5 else light[:, np.newaxis])
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.5)).astype(np.float32)


def texture(rng: np.random.Generator) -> Picture:
    """Clouds, stripes, checks, rings or grain: something with no object in it."""
    kind = int(rng.integers(6))
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    turn = rng.uniform(0, np.pi)
    along = x * np.cos(turn) + y * np.sin(turn)
    if kind == 0:
        return _clouds(rng, rng.uniform(0.4, 2.5))
    if kind == 1:
        return np.asarray(np.sin(along / rng.uniform(2, 30)) + rng.normal(0, 0.1, x.shape), np.float32)
    if kind == 2:
        step = rng.uniform(6, 50)
        return np.asarray(((x // step + y // step) % 2) + rng.normal(0, 0.05, x.shape), np.float32)
    if kind == 3:
        centre = rng.uniform(0, SIDE, 2)
        return np.asarray(np.cos(np.hypot(x - centre[0], y - centre[1]) / rng.uniform(3, 40)), np.float32)
    if kind == 4:
        return np.asarray(along / SIDE + rng.normal(0, rng.uniform(0.01, 0.1), x.shape), np.float32)
    grain = rng.normal(0, 1, (SIDE, SIDE)).astype(np.float32)
    return cv2.GaussianBlur(grain, (0, 0), rng.uniform(1.2, 14)).astype(np.float32)


def screen(rng: np.random.Generator) -> Picture:
    """A page or a program's window: lines of text, boxes, bars, a chart."""
    dark = rng.random() < 0.4
    page = np.full((SIDE, SIDE), 25 if dark else 242, np.uint8)
    ink = 230 if dark else 25
    for _ in range(int(rng.integers(0, 6))):
        corner = rng.uniform(0, SIDE, 2)
        filled = -1 if rng.random() < 0.6 else 1
        cv2.rectangle(page, _at(corner), _at(corner + rng.uniform(20, 140, 2)), int(rng.integers(256)), filled)
    size = float(rng.uniform(0.25, 0.6))
    for line in np.arange(10, SIDE, rng.uniform(9, 22)):
        if rng.random() < 0.8:
            letters = "".join(chr(int(code)) for code in rng.integers(33, 122, int(rng.integers(3, 45))))
            cv2.putText(page, letters, _at([rng.uniform(2, 60), line]), FONT, size, ink, 1, cv2.LINE_AA)
    if rng.random() < 0.5:
        cv2.rectangle(page, (0, 0), (SIDE, int(rng.integers(8, 26))), int(rng.integers(256)), -1)
    return np.asarray(page / np.float32(255), np.float32)


def fractal(rng: np.random.Generator) -> Picture:
    """Escape times of a Julia set."""
    span = rng.uniform(0.4, 1.6)
    y, x = np.mgrid[-span : span : SIDE * 1j, -span : span : SIDE * 1j]
    z = x + 1j * y + complex(*rng.uniform(-0.4, 0.4, 2))
    c = 0.7885 * np.exp(1j * rng.uniform(0, 2 * np.pi))
    count = np.zeros(z.shape, np.float32)
    for _ in range(40):
        inside = np.abs(z) < 4
        z[inside] = z[inside] ** 2 + c
        count += inside
    return np.sqrt(count, dtype=np.float32)


OTHERS: Mapping[str, Draw] = MappingProxyType(
    {
        "hand": hand, "foot": foot, "limb": limb, "skull": skull, "trunk": trunk, "lateral": lateral,
        "slice": slice_image, "ultrasound": sector, "scene": scene, "texture": texture, "screen": screen,
        "fractal": fractal,
    }
)  # fmt: skip


def _part(image: Picture, rng: np.random.Generator) -> Picture:
    """A close-up: at most two fifths of a side are left."""
    side = round(SIDE * rng.uniform(0.15, 0.4))
    x, y = rng.integers(0, SIDE - side, 2)
    return cv2.resize(image[y : y + side, x : x + side], (SIDE, SIDE), interpolation=cv2.INTER_LINEAR).astype(
        np.float32
    )


def _montage(image: Picture, rng: np.random.Generator) -> Picture:
    """Several on one sheet, or a small one in a window."""
    if rng.random() < 0.6:
        half = cv2.resize(image, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)
        return np.tile(half, (2, 2)).astype(np.float32)
    back = screen(rng) * 255
    side = round(SIDE * rng.uniform(0.3, 0.5))
    x, y = rng.integers(0, SIDE - side, 2)
    back[y : y + side, x : x + side] = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return back.astype(np.float32)


TURNED: Mapping[str, Callable[[Picture, np.random.Generator], Picture]] = MappingProxyType(
    {
        "inverted": lambda image, _: 255 - image,
        "upside down": lambda image, _: np.ascontiguousarray(image[::-1, ::-1]),
        "flipped": lambda image, _: np.ascontiguousarray(image[::-1]),
        "on its left side": lambda image, _: np.ascontiguousarray(np.rot90(image)),
        "on its right side": lambda image, _: np.ascontiguousarray(np.rot90(image, 3)),
        "a part": _part,
        "a sheet": _montage,
    }
)
