"""Findings of pneumonia as changes of the lung's content: what fills the air, and what is drawn into it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgerad.phantom.anatomy import Chest, mirrored
from edgerad.phantom.canvas import Canvas, Floats, fractal, smooth
from edgerad.phantom.spec import PhantomSpec


@dataclass(frozen=True, slots=True)
class Lesion:
    """What a finding does to the lungs, on the raster it was made for."""

    filling: Floats
    """Share of the air that is replaced by fluid, 0..1."""
    texture: Floats
    """Absorption to add, in grey levels."""
    fluid: Floats
    """Pleural fluid in the way of the beam, 0..1: it also hides the diaphragm's edge."""
    extent: Floats
    """How much of the lesion is at a pixel, 0..1: its mask is where this exceeds 0.5."""


_LOBES: dict[str, tuple[int, float, float, float, float]] = {
    # side, centre u (of the half width), centre v, reach u, reach v
    "right upper": (-1, 0.42, 0.20, 0.42, 0.20),
    "right middle": (-1, 0.42, 0.62, 0.42, 0.17),
    "right lower": (-1, 0.62, 0.72, 0.42, 0.22),
    "left upper": (1, 0.48, 0.22, 0.42, 0.22),
    "lingula": (1, 0.55, 0.58, 0.36, 0.18),
    "left lower": (1, 0.60, 0.74, 0.42, 0.20),
}


def make_lesion(
    spec: PhantomSpec, chest: Chest, canvas: Canvas, uv: tuple[Floats, Floats], lungs: tuple[Floats, Floats],
    rng: np.random.Generator,
) -> Lesion:  # fmt: skip
    """Return what the spec's finding does; `lungs` are the masks (right, left) of the aerated lungs."""
    empty = np.zeros_like(uv[0])
    if spec.finding == "consolidation":
        filling, extent = _consolidation(spec.severity, chest, canvas, uv, lungs, rng)
        return Lesion(filling, empty, empty, extent)
    if spec.finding == "effusion":
        return _effusion(spec.severity, chest, canvas, uv, lungs, rng)
    if spec.finding == "interstitial":
        filling, texture, extent = _interstitial(spec.severity, chest, canvas, uv, lungs, rng)
        return Lesion(filling, texture, empty, extent)
    return Lesion(empty, empty, empty, empty)


def _patch(
    centre: tuple[float, float], reach: tuple[float, float], uv: tuple[Floats, Floats], noise: Floats, edge: float
) -> Floats:
    """Return a fuzzy, irregular patch 0..1."""
    u, v = uv
    distance = np.sqrt(((u - centre[0]) / reach[0]) ** 2 + ((v - centre[1]) / reach[1]) ** 2)
    level = (1 - distance + 0.28 * noise) / edge
    patch: Floats = 1 / (1 + np.exp(-6 * np.clip(level, -3, 3)))
    return patch


def _consolidation(
    severity: float, chest: Chest, canvas: Canvas, uv: tuple[Floats, Floats], lungs: tuple[Floats, Floats],
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Air spaces filled in one or more lobes, with fuzzy edges and bronchi that stay open (air bronchogram)."""
    rows, cols = uv[0].shape
    noise = fractal(rng, rows, cols, 0.16 * canvas.scale, 4, 0.6)
    lobes = rng.permutation(list(_LOBES))[: 1 + (rng.random() < 0.25 + 0.35 * severity) + (severity > 0.8)]
    filling = np.zeros((rows, cols), np.float32)
    extent = np.zeros((rows, cols), np.float32)
    size = 0.52 + 0.55 * severity
    for order, name in enumerate(lobes):
        side, x, y, reach_u, reach_v = _LOBES[name]
        share = 1.0 if order == 0 else rng.uniform(0.4, 0.9)
        w = chest.half_width
        centre = (side * x * w + rng.normal(0, 0.03), y + rng.normal(0, 0.03))
        reach = (reach_u * w * size * share**0.5, reach_v * size * share**0.5)
        patch = _patch(centre, reach, uv, noise, rng.uniform(0.45, 0.9))
        if name == "right upper" and severity > 0.4:  # the minor fissure ends it sharply
            fissure = 0.40 + 0.10 * (np.abs(uv[0]) / w - 0.4)
            patch = patch * np.clip((fissure - uv[1]) / 0.012 + 0.5, 0, 1)
        patch = patch * lungs[0 if side < 0 else 1]
        strength = (0.10 + 0.82 * severity) * share
        mottled = patch * np.clip(0.80 + 0.22 * noise, 0.35, 1.1)
        filling = np.maximum(filling, strength * mottled * (1 - 0.4 * _open_bronchi(side, centre, canvas, rng)))
        extent = np.maximum(extent, patch)
    return np.clip(filling, 0, 0.97), extent


def _open_bronchi(side: int, target: tuple[float, float], canvas: Canvas, rng: np.random.Generator) -> Floats:
    """Return thin branching tubes from the hilum into the lesion, 0..1."""
    layer = canvas.blank()
    hilum = np.array([side * 0.12, 0.42])
    for _ in range(5):
        end = np.array(target) + rng.normal(0, 0.09, 2)
        bend = 0.5 * (hilum + end) + rng.normal(0, 0.03, 2)
        tip = end + 0.5 * (end - bend) + rng.normal(0, 0.05, 2)
        canvas.stroke(layer, smooth(np.array([hilum, bend, end, tip])), rng.uniform(0.007, 0.012))
    return canvas.soften(layer, 0.004)


def _effusion(
    severity: float, chest: Chest, canvas: Canvas, uv: tuple[Floats, Floats], lungs: tuple[Floats, Floats],
    rng: np.random.Generator,
) -> Lesion:  # fmt: skip
    """Fluid in the lowest pleural space, its upper edge a meniscus that climbs the chest wall; some lung beside it."""
    u, v = uv
    rows, cols = u.shape
    side = int(rng.choice([-1, 1]))
    own = lungs[0 if side < 0 else 1]
    dome = chest.domes[0] if side < 0 else chest.domes[1]
    from_wall = np.clip(chest.width_map(v) - side * u, 0, None) / chest.half_width
    level = max(1.0 - dome, 0) * 0.5 + 0.42 * severity**1.2
    climb = (0.10 + 0.22 * severity) * np.exp(-from_wall / 0.16)
    near_midline = 0.04 * severity * np.exp(-np.clip(side * u - 0.12, 0, None) / 0.08)
    surface = 1.02 - level - climb - near_midline
    fluid = np.clip((v - surface) / (0.045 + 0.04 * severity) + 0.5, 0, 1) * own
    noise = fractal(rng, rows, cols, 0.15 * canvas.scale, 4, 0.6)
    centre = (side * 0.55 * chest.half_width, 0.82 - 0.28 * severity)
    beside = _patch(centre, (0.42 * chest.half_width, 0.16 + 0.1 * severity), uv, noise, 0.9) * own
    extent = np.maximum(fluid, 0.6 * beside)
    return Lesion(
        np.clip(beside * (0.10 + 0.6 * severity) * np.clip(0.85 + 0.2 * noise, 0.3, 1.1), 0, 0.9),
        np.zeros((rows, cols), np.float32),
        (fluid * min(1.0, 0.45 + 0.7 * severity)).astype(np.float32),
        extent.astype(np.float32),
    )


def _interstitial(
    severity: float, chest: Chest, canvas: Canvas, uv: tuple[Floats, Floats], lungs: tuple[Floats, Floats],
    rng: np.random.Generator,
) -> tuple[Floats, Floats, Floats]:  # fmt: skip
    """Thickened walls: a net of lines, streaks and rings around the bronchi near the hila, and a faint haze; on both
    sides, rarely to the same degree."""
    u, v = uv
    rows, cols = u.shape
    weight = np.zeros((rows, cols), np.float32)
    for index, side in enumerate((-1, 1)):
        share = rng.uniform(0.65, 1.0)
        hilum = (side * 0.20, rng.uniform(0.45, 0.62))
        distance = np.sqrt(((u - hilum[0]) / (0.85 * chest.half_width)) ** 2 + ((v - hilum[1]) / 0.52) ** 2)
        weight = np.maximum(weight, share * np.clip(1.25 - distance, 0, 1) ** 0.7 * lungs[index])
    net = np.zeros((rows, cols), np.float32)
    for cell, gain in ((0.045, 1.0), (0.028, 0.8), (0.017, 0.6)):
        ridge = 1 - np.minimum(np.abs(fractal(rng, rows, cols, cell * canvas.scale, 2)) * np.float32(2.2), 1)
        net += np.float32(gain) * ridge * ridge
    net -= net.mean()
    rings = canvas.blank()
    for _ in range(10 + round(22 * severity)):
        side = int(rng.choice([-1, 1]))
        where = np.array([0.16 + abs(rng.normal(0, 0.13)), 0.46 + rng.normal(0, 0.15)])
        if rng.random() < 0.5:
            turn = np.linspace(0, 2 * np.pi, 10, endpoint=False)
            radius = rng.uniform(0.008, 0.015)
            loop = where + radius * np.stack([np.cos(turn), np.sin(turn) * rng.uniform(0.7, 1)], 1)
            canvas.stroke(rings, mirrored(side, loop), 0.005, 200, closed=True)
        else:  # tram lines: the two walls of a bronchus seen lengthwise
            heading = np.arctan2(where[1] - 0.42, where[0] - 0.08) + rng.normal(0, 0.2)
            along = np.array([np.cos(heading), np.sin(heading)]) * rng.uniform(0.04, 0.1)
            across = np.array([-along[1], along[0]]) / np.linalg.norm(along) * rng.uniform(0.006, 0.010)
            for edge in (across, -across):
                line = smooth(np.array([where + edge, where + edge + along]))
                canvas.stroke(rings, mirrored(side, line), 0.005, 200)
    texture = weight * severity * (np.float32(21) * net + np.float32(30) * canvas.soften(rings, 0.002))
    patchy = np.clip(0.8 + 0.35 * fractal(rng, rows, cols, 0.2 * canvas.scale, 3), 0, 1.6)
    filling = np.clip(weight * patchy * (0.05 + 0.42 * severity), 0, 0.7)
    return filling.astype(np.float32), texture.astype(np.float32), weight
