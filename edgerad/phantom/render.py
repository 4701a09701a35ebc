"""Draw a synthetic frontal chest radiograph: absorption of the body's parts summed along the beam, then the device."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgerad.phantom import anatomy
from edgerad.phantom.anatomy import Chest, make_chest
from edgerad.phantom.canvas import Canvas, Floats, fractal, rounded, tube
from edgerad.phantom.lesions import Lesion, make_lesion
from edgerad.phantom.marks import burn_text, collimate, draw_marker
from edgerad.phantom.scanner import expose, scanner
from edgerad.phantom.spec import Phantom, PhantomSpec

_COARSE = 512  # soft tissue has no finer detail than this many pixels across


def render(spec: PhantomSpec) -> Phantom:
    """Return the radiograph that the spec describes; deterministic."""
    device = scanner(spec.scanner)
    body, disease, detector = (np.random.default_rng((spec.seed, stream)) for stream in range(3))
    chest = make_chest(spec, body)
    canvas = place(spec, chest)
    factor = max(1, round(max(spec.rows, spec.cols) / _COARSE))
    coarse = canvas.reduced(factor)

    soft, lung_weight, lesion = _soft_tissue(spec, chest, coarse, body, disease)
    size = (spec.cols, spec.rows)
    absorbed = _enlarge(soft, size, factor)
    _add_vessels(absorbed, chest, canvas, _enlarge(lung_weight, size, factor), body)
    _add_bones(absorbed, chest, canvas, body)
    brightness = float(detector.normal(4, 7))
    display = expose(absorbed, device, spec.exposure, brightness, canvas, detector)
    field = collimate(display, spec, detector)
    marker = draw_marker(display, spec, field, detector)
    text = burn_text(display, spec)

    top = (1 << spec.bits) - 1
    pixels: NDArray[np.uint16] = np.rint(np.clip(display, 0, 1) * np.float32(top)).astype(np.uint16)
    mask = _enlarge(lesion.extent, size, factor) > 0.5
    return Phantom(spec, pixels, mask, _center(mask), marker, text)


def place(spec: PhantomSpec, chest: Chest) -> Canvas:
    """Return the canvas that shows the chest as a radiographer would frame it."""
    height = 1.45 if chest.body == "child" else 1.34
    width = 2 * (chest.half_width + chest.wall) + 0.22
    scale = min(spec.rows / height, spec.cols / width) * spec.zoom
    middle = 0.5 + 0.02
    x = spec.cols / 2 + spec.shift[0] * scale
    y = spec.rows / 2 + (spec.shift[1] - middle) * scale
    return Canvas(spec.rows, spec.cols, scale, (x, y), spec.tilt)


def _soft_tissue(
    spec: PhantomSpec, chest: Chest, canvas: Canvas, body: np.random.Generator, disease: np.random.Generator
) -> tuple[Floats, Floats, Lesion]:
    """Return the absorption of all but bones and vessels, the weight of aerated lung 0..1, and the lesion."""
    u, v = canvas.grid()
    rows, cols = u.shape
    trunk = canvas.depth([anatomy.torso(chest)], 0.62 * chest.half_width + 0.1)
    absorbed = np.float32(150) * trunk
    for side in (-1, 1):
        axis = anatomy.arm_axis(chest, side)
        arm = tube(axis, rounded(0.13 if chest.body == "child" else 0.14, axis))
        absorbed = np.maximum(absorbed, 70 * canvas.depth([arm], 0.12))
    absorbed += np.float32(5) * fractal(body, rows, cols, 0.5 * canvas.scale, 3, 0.6) * trunk

    outlines = [anatomy.lung(chest, side) for side in (-1, 1)]
    masks = [canvas.mask([outline], 0.006) for outline in outlines]
    heart = canvas.mask([anatomy.heart(chest)], 0.007)
    fill = canvas.depth([anatomy.heart(chest)], 0.16)
    free = 1 - np.float32(0.80) * heart
    aerated = (masks[0] * free, masks[1] * free)
    lesion = make_lesion(spec, chest, canvas, (u, v), (masks[0], masks[1]), disease)

    depth = np.float32(0.42) + np.float32(0.58) * canvas.depth(outlines, 0.20 * chest.half_width)
    air = (aerated[0] + aerated[1]) * depth
    lower = np.clip((v - 0.1) / 0.9, 0, 1)
    absorbed -= air * (np.float32(72) - np.float32(6) * lower) * (1 - lesion.filling) * (1 - lesion.fluid)
    grain = fractal(body, rows, cols, 0.05 * canvas.scale, 3, 0.7)
    absorbed += np.float32(2.2) * grain * air
    absorbed += lesion.texture * np.minimum(air, 1) + np.float32(16) * lesion.fluid

    absorbed += np.float32(14) * heart * (np.float32(0.4) + np.float32(0.6) * fill)
    below = canvas.mask([anatomy.abdomen(chest)], 0.008)
    deep = np.clip((v - min(chest.domes)) / 0.22, 0, 1)
    inside = np.clip(
        (np.float32(1.18) - np.abs(u) / chest.width_map(v)) * np.float32(2.6), 0, 1
    )  # no step at the body's side
    absorbed += below * trunk * inside * (np.float32(18) + np.float32(30) * deep)
    for side in (-1, 1):  # arteries and veins crowd at the hila
        near = ((u - side * 0.135) / 0.05) ** 2 + ((v - (0.44 if side < 0 else 0.41)) / 0.085) ** 2
        absorbed += np.float32(13) * np.exp(-near) * lower
    absorbed += np.float32(20) * np.exp(-((u / 0.16) ** 2)) * trunk * np.clip((v + 0.6) / 0.5, 0, 1)
    absorbed += np.float32(32) * np.exp(-((u / 0.34) ** 2)) * trunk * np.clip(-(v + 0.05) / 0.25, 0, 1)
    _subtract_gas(absorbed, chest, canvas, body)
    if chest.body == "adult" and spec.patient % 2:  # breasts
        for side in (-1, 1):
            angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            oval = np.stack([side * 0.62 * chest.half_width + 0.24 * np.cos(angle), 0.80 + 0.20 * np.sin(angle)], 1)
            absorbed += np.float32(13) * canvas.depth([oval], 0.12)
    return absorbed, np.minimum(aerated[0] + aerated[1], 1) * (1 - lesion.filling) * (1 - lesion.fluid), lesion


def _subtract_gas(absorbed: Floats, chest: Chest, canvas: Canvas, rng: np.random.Generator) -> None:
    """Take away what air in the airway, the stomach and the bowel does not absorb."""
    for axis, half_width in anatomy.airway(chest):
        absorbed -= np.float32(20) * canvas.mask([tube(axis, half_width)], 0.006)
    bubble = canvas.blank()
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    if rng.random() < 0.7:  # gastric bubble under the left dome
        size = rng.uniform(0.07, 0.15)
        centre = np.array([rng.uniform(0.42, 0.58) * chest.half_width, chest.domes[1] + 0.05 + 0.7 * size])
        shape = np.stack([1.35 * size * np.cos(angle), 0.75 * size * np.sin(angle)], 1)
        wobble = 1 + 0.10 * np.sin(2 * angle + rng.uniform(0, 6))[:, None]
        canvas.fill(bubble, [centre + shape * wobble])
    for _ in range(rng.integers(0, 5)):
        centre = np.array([rng.uniform(-0.5, 0.75) * chest.half_width, rng.uniform(1.14, 1.4)])
        size = rng.uniform(0.03, 0.07)
        canvas.fill(bubble, [centre + size * np.stack([1.5 * np.cos(angle), np.sin(angle)], 1)], 140)
    absorbed -= np.float32(rng.uniform(25, 50)) * canvas.soften(bubble, 0.012)


def _add_vessels(absorbed: Floats, chest: Chest, canvas: Canvas, weight: Floats, rng: np.random.Generator) -> None:
    """Draw the pulmonary vessels where the lung around them is aerated."""
    layer = canvas.blank()
    fullness = rng.uniform(0.8, 1.15)
    for side in (-1, 1):
        for axis, width in anatomy.vessels(chest, side, rng, fullness):
            canvas.stroke(layer, axis, width, int(min(max(30 + width * 19000, 40), 240)))
    absorbed += np.float32(19) * canvas.soften(layer, 0.003) * weight


def _add_bones(absorbed: Floats, chest: Chest, canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw spine, ribs, collar bones, shoulder blades, arms and (children look down) the jaw."""
    u, v = canvas.grid()
    ratio = np.minimum(np.abs(u) / (chest.width_map(v) + np.float32(1e-3)), 1.15)
    inner = np.clip((np.abs(u) - np.float32(0.05)) * 9, 0.08, 1)  # the spine hides where the ribs begin
    shown = 1 - np.float32(0.45) * np.clip((v - max(chest.domes)) * 6, 0, 1)  # scattered rays veil bones in the abdomen
    strength = np.float32(rng.uniform(0.85, 1.15) * (1.0 if chest.body == "child" else 0.85))
    hard = np.float32(27) * strength

    for anterior in (False, True):
        numbers = range(1, anatomy.ANTERIOR_RIBS) if anterior else range(1, anatomy.RIBS)
        outlines = [anatomy.rib(chest, side, n, anterior) for side in (-1, 1) for n in numbers]
        layer = canvas.fill(canvas.blank(), outlines, 150)
        for outline in outlines:
            canvas.stroke(layer, outline, 0.0045, 255, closed=True)
        profile = np.clip((ratio - 0.30) * 2.2, 0, 1) * 0.66 if anterior else (0.95 + 0.35 * ratio**8) * inner
        absorbed += hard * shown * profile.astype(np.float32) * canvas.soften(layer, 0.0035)

    layer = canvas.blank()
    for side in (-1, 1):
        first = [anatomy.rib(chest, side, 0, anterior) for anterior in (False, True)]
        canvas.fill(layer, first, 110)
        for outline in first:
            canvas.stroke(layer, outline, 0.0045, 150, closed=True)
    absorbed += hard * canvas.soften(layer, 0.0035)

    layer = canvas.blank()
    parts = [anatomy.vertebra(chest, n) for n in range(-5, 17)]
    canvas.fill(layer, [body for body, _ in parts], 125)
    for body, _ in parts:
        canvas.stroke(layer, body, 0.006, 170, closed=True)
    canvas.fill(layer, [piece for _, pieces in parts for piece in pieces], 225)
    absorbed += np.float32(26) * strength * canvas.soften(layer, 0.006)

    layer = canvas.fill(canvas.blank(), [anatomy.clavicle(chest, side) for side in (-1, 1)], 170)
    for side in (-1, 1):
        canvas.stroke(layer, anatomy.clavicle(chest, side), 0.006, 240, closed=True)
    absorbed += np.float32(30) * strength * canvas.soften(layer, 0.004)

    layer = canvas.blank()
    for side in (-1, 1):
        outline, ridge = anatomy.scapula(chest, side)
        canvas.fill(layer, [outline], 70)
        canvas.stroke(layer, outline, 0.008, 150, closed=True)
        canvas.stroke(layer, ridge, 0.022, 170)
        canvas.fill(layer, [anatomy.humerus(chest, side)], 190)
        canvas.stroke(layer, anatomy.humerus(chest, side), 0.012, 255, closed=True)
    absorbed += np.float32(30) * strength * canvas.soften(layer, 0.005)

    if chest.body == "child" and rng.random() < 0.5:
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        jaw = np.stack([0.30 * np.cos(angle), -0.62 + rng.uniform(0, 0.12) + 0.36 * np.sin(angle)], 1)
        layer = canvas.fill(canvas.blank(), [jaw], 130)
        canvas.stroke(layer, jaw, 0.03, 230, closed=True)
        absorbed += np.float32(55) * canvas.soften(layer, 0.008)


def _enlarge(image: Floats, size: tuple[int, int], factor: int) -> Floats:
    """Return the coarse image on the fine raster, pixel centres kept in place."""
    if factor == 1:
        return image
    rows, cols = image.shape
    whole = cv2.resize(image, (cols * factor, rows * factor), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(whole[: size[1], : size[0]]).astype(np.float32, copy=False)


def _center(mask: NDArray[np.bool_]) -> tuple[float, float] | None:
    moments = cv2.moments(mask.view(np.uint8), binaryImage=True)
    if not moments["m00"]:
        return None
    return moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
