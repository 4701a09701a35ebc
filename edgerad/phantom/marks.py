"""What is on a film beside the patient: the collimator's edge, the lead marker, burned-in patient data."""

from __future__ import annotations

import cv2
import numpy as np

from edgerad.phantom.canvas import Floats
from edgerad.phantom.identity import identity
from edgerad.phantom.spec import Box, PhantomSpec

_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
)
_CAPITAL = 22.0
"""Height of a capital letter of OpenCV's stroke fonts at scale 1, in pixels."""


def collimate(display: Floats, spec: PhantomSpec, rng: np.random.Generator) -> Box:
    """Blacken what the collimator's blades hide, in place; return the exposed field."""
    rows, cols = display.shape
    left, right, top, bottom = (spec.collimation * rng.uniform(0.2, 1.0) for _ in range(4))
    x, y = round(left * cols), round(0.5 * top * rows)
    field = Box(x, y, cols - x - round(right * cols), rows - y - round(0.5 * bottom * rows))
    if spec.collimation:
        outside = np.ones_like(display, np.uint8)
        outside[field.y : field.y + field.height, field.x : field.x + field.width] = 0
        display[cv2.GaussianBlur(outside * 255, (0, 0), max(rows, cols) / 900) > 127] *= np.float32(0.06)
    return field


def draw_marker(display: Floats, spec: PhantomSpec, field: Box, rng: np.random.Generator) -> Box | None:
    """Draw the lead letter beside the patient's shoulder, in place; return its box."""
    if spec.marker is None:
        return None
    size = 0.030 * max(spec.rows, spec.cols) * rng.uniform(0.8, 1.3)
    scale, stroke = size / _CAPITAL, max(1, round(size / 9))
    (width, height), below = cv2.getTextSize(spec.marker, cv2.FONT_HERSHEY_SIMPLEX, scale, stroke)
    margin = rng.uniform(0.02, 0.06) * field.width
    x = field.x + margin if spec.marker == "R" else field.x + field.width - margin - width
    y = field.y + rng.uniform(0.06, 0.30) * field.height + height
    where = (round(x), round(y))
    layer = np.zeros(display.shape, np.uint8)
    cv2.putText(layer, spec.marker, where, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, stroke, cv2.LINE_AA)
    _paint(display, layer, float(rng.uniform(0.93, 1.0)))
    return Box(where[0], where[1] - height - stroke, width, height + below + stroke, spec.marker)


def burn_text(display: Floats, spec: PhantomSpec) -> tuple[Box, ...]:
    """Write the patient's data into a corner, in place; return a box a line."""
    style = spec.text
    if style is None:
        return ()
    person, visit = identity(spec)
    lines = [
        f"name:{person.roman}",
        f"id:{person.patient_id}",
        f"d.o.b.:{person.birth_date.isoformat()}",
        f"d.o.xray:{visit.when:%Y-%m-%d %H:%M}",
        visit.institution,
    ]
    size = max(7.0, style.height * max(spec.rows, spec.cols))
    scale, stroke, pitch = size / _CAPITAL, max(1, round(size / 12)), round(size * 1.65)
    font = _FONTS[style.font % len(_FONTS)]
    margin = round(size * 0.6)
    layer = np.zeros(display.shape, np.uint8)
    boxes = []
    for number, line in enumerate(lines):
        (width, height), below = cv2.getTextSize(line, font, scale, stroke)
        down = number if style.corner.startswith("top") else number - len(lines)
        y = (margin + pitch * (down + 1)) if down >= 0 else spec.rows - margin + pitch * (down + 1) - below
        x = margin if style.corner.endswith("left") else max(0, spec.cols - margin - width)
        cv2.putText(layer, line, (x, y), font, scale, 255, stroke, cv2.LINE_AA)
        boxes.append(Box(x, y - height - stroke, min(width, spec.cols - x), height + below + stroke, line))
    _paint(display, layer, style.level)
    return tuple(boxes)


def _paint(display: Floats, layer: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], level: float) -> None:
    """Blend the layer's strokes into the image."""
    where = layer > 0
    alpha = layer[where].astype(np.float32) / np.float32(255)
    display[where] = display[where] * (1 - alpha) + np.float32(level) * alpha
