"""The shapes of a chest in lung heights: outlines that vary from body to body, none of a real person.

Coordinates: u = 0 on the midline, positive to the image's right (the patient's left in a frontal view); v = 0 at the
lung apices, 1 at the costophrenic angles. The ribs are helices on elliptical cylinders, projected along the beam, so
posterior and anterior arcs, their crossing and their tangent at the chest wall come out by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgerad.phantom.canvas import Floats, Points, rounded, smooth, tube
from edgerad.phantom.spec import Body, PhantomSpec

RIBS = 12
ANTERIOR_RIBS = 9
"""Ribs 10 to 12 end below the diaphragm, where their front ends cannot be made out."""

_LEVELS = np.array([-0.10, -0.03, 0.05, 0.15, 0.30, 0.50, 0.70, 0.85, 1.0, 1.2, 1.6])
_WIDTHS = np.array([0.10, 0.28, 0.47, 0.63, 0.80, 0.93, 0.99, 1.0, 1.0, 0.97, 0.90])


@dataclass(frozen=True, slots=True)
class Chest:
    """The measures of one body, in lung heights."""

    body: Body
    half_width: float
    """Of the rib cage's inside at its widest."""
    wall: float
    """Thickness of the chest wall at the side."""
    spine: float
    """Half width of a vertebral body."""
    domes: tuple[float, float]
    """Height v of the right and left dome of the diaphragm."""
    heart: float
    """Share of the left hemithorax that the left ventricle reaches."""
    arms_up: float
    lean: float
    """Tangent of the obliquity: displacement to the right per lung height towards the film's far side."""
    rib_drop: float
    rib_width: float
    thymus: float

    def width(self, v: float) -> float:
        """Return the half width of the rib cage's inside at height v."""
        return float(np.interp(v, _LEVELS, _WIDTHS)) * self.half_width

    def width_map(self, v: Floats) -> Floats:
        """Return the same for a whole raster, by a table."""
        steps = 256
        table = np.interp(np.arange(-steps, 2 * steps) / steps, _LEVELS, _WIDTHS).astype(np.float32)
        index = np.clip((v + 1) * steps, 0, 3 * steps - 1).astype(np.int32)
        widths: Floats = table[index] * np.float32(self.half_width)
        return widths


def make_chest(spec: PhantomSpec, rng: np.random.Generator) -> Chest:
    """Draw the measures of a body."""
    child = spec.body == "child"
    dome = 0.77 + 0.13 * spec.inspiration + rng.uniform(-0.02, 0.02)
    return Chest(
        body=spec.body,
        half_width=rng.uniform(0.68, 0.80) if child else rng.uniform(0.54, 0.64),
        wall=rng.uniform(0.11, 0.19) if child else rng.uniform(0.10, 0.20),
        spine=rng.uniform(0.075, 0.09) if child else rng.uniform(0.06, 0.07),
        domes=(dome, dome + rng.uniform(0.02, 0.06)),
        heart=rng.uniform(0.50, 0.62) if child else rng.uniform(0.46, 0.60),
        arms_up=rng.uniform(0.0, 1.0) if child else 0.0,
        lean=float(np.tan(np.deg2rad(spec.obliquity))),
        rib_drop=rng.uniform(0.32, 0.46) if child else rng.uniform(0.40, 0.54),
        rib_width=rng.uniform(0.019, 0.023) if child else rng.uniform(0.019, 0.022),
        thymus=max(0.0, rng.normal(0.3, 0.4)) if child else 0.0,
    )


def mirrored(side: int, points: Points) -> Points:
    """Return points given for the image's right, on the side -1 (image left, patient's right) or 1."""
    flipped: Points = points * np.array([side, 1.0])
    return flipped


def torso(chest: Chest) -> Points:
    """Return the outline of neck, shoulders and trunk."""
    edge = chest.half_width + chest.wall
    neck = 0.30 if chest.body == "child" else 0.20
    half = np.array([
        [neck * 0.9, -1.5], [neck * 0.92, -0.45], [neck * 1.1, -0.27], [edge * 0.62, -0.16 - 0.04 * chest.arms_up],
        [edge * 0.92, -0.08 - 0.10 * chest.arms_up], [edge * 1.06, 0.06], [edge * 1.04, 0.22], [edge * 1.0, 0.38],
        [edge * 1.0, 0.6], [edge * 1.01, 0.85], [edge * 1.0, 1.1], [edge * 0.98, 2.4],
    ])  # fmt: skip
    return smooth(np.vstack([half, mirrored(-1, half)[::-1]]), closed=True)


def arm_axis(chest: Chest, side: int) -> Points:
    """Return the axis of an upper arm, from the head of the humerus outwards."""
    edge = chest.half_width + chest.wall
    down = np.array([[0.98, 0.02], [1.14, 0.22], [1.26, 0.55], [1.34, 1.1], [1.36, 1.7]])
    up = np.array([[0.98, 0.00], [1.16, -0.02], [1.42, -0.08], [1.9, -0.20], [2.4, -0.3]])
    mixed = (1 - chest.arms_up) * down + chest.arms_up * up
    return mirrored(side, smooth(mixed * np.array([edge, 1.0]), steps=24))


def lung(chest: Chest, side: int) -> Points:
    """Return one lung's outline as if there were no heart: apex, chest wall, costophrenic angle, dome, midline."""
    dome = chest.domes[0] if side < 0 else chest.domes[1]
    angle = dome + 0.13 if side < 0 else dome + 0.12
    w = chest.half_width
    wall = [[chest.width(v) * 0.985, v] for v in (0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.85)]
    outline = np.array([
        [0.20 * w / 0.7, -0.035], [0.27 * w / 0.7, -0.02], *wall, [w * 0.972, angle], [w * 0.90, angle - 0.048],
        [w * 0.74, dome + 0.030], [w * 0.52, dome], [w * 0.32, dome + 0.025], [0.10, dome + 0.09],
        [0.055, dome], [0.06, 0.5], [0.09, 0.15], [0.12, 0.02],
    ])  # fmt: skip
    return mirrored(side, smooth(outline, closed=True))


def abdomen(chest: Chest) -> Points:
    """Return what lies below the diaphragm."""
    right, left = lung(chest, -1), lung(chest, 1)
    edge = chest.half_width + 0.5 * chest.wall

    def arc(outline: Points, side: int) -> Points:
        below = outline[8 * 9 : 8 * 14]
        return below if side < 0 else below[::-1]

    roof = np.vstack([arc(right, -1), arc(left, 1)])
    return np.vstack([[-edge, 1.06], roof, [edge, 1.06], [edge, 2.5], [-edge, 2.5]])


def heart(chest: Chest) -> Points:
    """Return the outline of heart and great vessels, clockwise from the superior vena cava."""
    left = chest.heart * chest.half_width
    right = (0.24 if chest.body == "child" else 0.21) * chest.half_width + 0.03
    base = max(chest.domes) + 0.05
    shift = 0.18 * chest.lean
    narrow = 0.095 if chest.body == "child" else 0.085
    outline = np.array([
        [-narrow, 0.04], [-narrow - 0.02 - 0.05 * chest.thymus, 0.25], [-narrow - 0.015, 0.40], [-right, 0.55],
        [-right * 1.12, 0.67], [-right * 0.98, base - 0.12], [-0.10, base + 0.02], [0.10, base + 0.06],
        [left * 0.80, base + 0.02], [left * 1.0, base - 0.06], [left * 0.985, base - 0.15], [left * 0.86, 0.60],
        [left * 0.60 + 0.02, 0.47], [narrow + 0.055 + 0.05 * chest.thymus, 0.36],
        [narrow + 0.045 + 0.07 * chest.thymus, 0.28], [narrow + 0.05, 0.20], [narrow + 0.01, 0.12], [narrow, 0.04],
    ])  # fmt: skip
    return smooth(outline + np.array([shift, 0.0]), closed=True)


def rib(chest: Chest, side: int, number: int, anterior: bool) -> Points:
    """Return the outline of the posterior or anterior part of a rib, numbered from 0."""
    top = -0.075 + 0.096 * number
    start = 0.07 if number else 0.25
    floating = number >= RIBS - 2
    end = 2.45 - 0.04 * number if anterior else (2.2 - 0.1 * number if floating else 1.60)
    theta = np.linspace(1.47 if anterior else start, end, 30)
    drop = chest.rib_drop * min(1.0, 0.45 + 0.12 * number)
    a = chest.width(top + 0.5 * drop) * 1.012
    v = top + drop * 0.5 * (1 - np.cos(theta)) - 0.022 * np.sin(np.minimum(2 * theta, np.pi))
    if anterior:
        v += 0.05 * (theta - 1.5) ** 2
    depth = -np.cos(theta) * 0.65 * a  # towards the front
    u = side * a * np.sin(theta) ** 0.9 + chest.lean * depth
    half = chest.rib_width * (1.0 + 0.12 * np.sin(theta * 2 + number)) * (0.92 if number else 0.8)
    if anterior:
        half = half * np.interp(theta, [1.5, 2.2, 2.45], [0.9, 1.15, 1.3])
    if floating:
        half = half * np.sqrt(np.clip((end - theta) / 0.35, 0, 1))
    return tube(np.stack([u, v], 1), half)


def clavicle(chest: Chest, side: int) -> Points:
    """Return a collar bone's outline: an S from the breastbone to the shoulder."""
    w = chest.half_width + 0.5 * chest.wall
    rise = 0.16 if chest.body == "child" else 0.10
    rise += 0.10 * chest.arms_up
    axis = smooth(np.array([
        [0.065, 0.085], [0.16, 0.055], [w * 0.42, 0.055 - 0.45 * rise],
        [w * 0.66, 0.02 - 0.9 * rise], [w * 0.9, -0.01 - 0.8 * rise],
    ]))  # fmt: skip
    half = np.interp(np.linspace(0, 1, len(axis)), [0, 0.12, 0.5, 0.85, 1], [0.030, 0.021, 0.016, 0.018, 0.006])
    outline: Points = mirrored(side, tube(axis, half)) + np.array([0.45 * chest.lean * chest.half_width, 0.0])
    return outline


def scapula(chest: Chest, side: int) -> tuple[Points, Points]:
    """Return a shoulder blade: its outline and its spine (the ridge)."""
    w = chest.half_width + chest.wall
    out = 0.10 * chest.arms_up
    outline = smooth(np.array([
        [w * 0.90, 0.02], [w * (0.66 + out), 0.06], [w * (0.65 + out), 0.20], [w * (0.72 + out), 0.38],
        [w * (0.80 + out), 0.50], [w * (0.88 + out), 0.40], [w * 0.97, 0.20], [w * 1.0, 0.08],
    ]), closed=True)  # fmt: skip
    ridge = smooth(np.array([[w * (0.67 + out), 0.13], [w * 0.82, 0.05], [w * 0.97, -0.05]]))
    return mirrored(side, outline), mirrored(side, ridge)


def humerus(chest: Chest, side: int) -> Points:
    """Return the outline of an upper arm's bone with its round head."""
    axis = arm_axis(chest, side)
    along = np.linspace(0, 1, len(axis))
    half = np.interp(along, [0, 0.06, 0.14, 0.3, 1.0], [0.060, 0.082, 0.070, 0.040, 0.038])
    return tube(axis, rounded(half, axis))


def vertebra(chest: Chest, number: int) -> tuple[Points, list[Points]]:
    """Return the body of a vertebra, numbered from the first thoracic, and its pedicles and spinous process."""
    pitch = 0.098
    v = -0.09 + pitch * number
    grow = 0.85 + 0.03 * np.clip(number, -4, 12)
    w, h = chest.spine * grow, pitch * 0.40
    lean = -0.25 * chest.lean
    body = np.array([
        [-w, -h], [-w * 0.5, -h * 0.94], [0, -h * 0.9], [w * 0.5, -h * 0.94], [w, -h], [w * 0.90, -h * 0.3],
        [w * 0.90, h * 0.3], [w, h], [w * 0.5, h * 0.94], [0, h * 0.9], [-w * 0.5, h * 0.94], [-w, h],
        [-w * 0.90, h * 0.3], [-w * 0.90, -h * 0.3],
    ])  # fmt: skip
    ring = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    oval = np.stack([np.cos(ring), np.sin(ring)], 1)
    parts = [oval * [w * 0.17, h * 0.38] + [side * w * 0.60 + 2 * lean * 0.1, -h * 0.25] for side in (-1, 1)]
    parts.append(oval * [w * 0.13, h * 0.45] + [3 * lean * 0.1, h * 0.75])
    centre = np.array([lean * 0.2, v])
    return smooth(body, closed=True, steps=3) + centre, [part + centre for part in parts]


def airway(chest: Chest) -> list[tuple[Points, float]]:
    """Return trachea and main bronchi: axis and half width of each."""
    x = 0.012 + 0.12 * chest.lean
    fork = 0.30
    trachea = smooth(np.array([[x, -0.6], [x, 0.0], [x - 0.012, fork]]))
    right = smooth(np.array([[x - 0.012, fork - 0.01], [x - 0.065, fork + 0.075], [x - 0.12, fork + 0.15]]))
    left = smooth(np.array([[x - 0.012, fork - 0.01], [x + 0.075, fork + 0.075], [x + 0.16, fork + 0.12]]))
    wide = 0.030 if chest.body == "child" else 0.036
    return [(trachea, wide), (right, wide * 0.72), (left, wide * 0.62)]


def vessels(chest: Chest, side: int, rng: np.random.Generator, fullness: float = 1.0) -> list[tuple[Points, float]]:
    """Return the branches of a lung's vascular tree, thick ones last: axis and width of each."""
    hilum = np.array([0.11 + 0.02 * (side > 0), 0.43 if side < 0 else 0.40])
    w = chest.half_width
    paths: list[list[tuple[float, float]]] = []
    widths: list[float] = []

    def grow(start: tuple[float, float], heading: float, width: float, length: float, order: int) -> None:
        points, (u, v) = [start], start
        for _ in range(5):
            heading += rng.normal(0, 0.13)
            u, v = u + length / 5 * np.cos(heading), v + length / 5 * np.sin(heading)
            points.append((u, v))
        paths.append(points)
        widths.append(width)
        if order < 4 and width > 0.0022:
            for turn in (rng.uniform(0.15, 0.5), -rng.uniform(0.15, 0.5)):
                grow(
                    points[-1],
                    heading + turn,
                    width * rng.uniform(0.6, 0.75),
                    length * rng.uniform(0.6, 0.85),
                    order + 1,
                )
            grow(
                points[3], heading + rng.choice([-1, 1]) * rng.uniform(0.5, 0.9), width * 0.5, length * 0.55, order + 2
            )

    for heading in np.linspace(-1.45, 1.35, 9):
        reach = w * (0.30 if abs(heading) < 0.9 else 0.34)
        lower = 0.004 * (heading > 0)
        u, v = hilum + np.array([rng.normal(0, 0.015), 0.07 * heading / 1.4 + rng.normal(0, 0.012)])
        grow((u, v), heading + rng.normal(0, 0.08), (0.011 + lower) * fullness, reach, 0)
    curves = mirrored(side, smooth(paths, steps=3))  # of more than a hundred branches at once: one alone costs as much
    return sorted(zip(curves, widths, strict=True), key=lambda branch: branch[1])
