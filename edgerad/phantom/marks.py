"""What is on a film beside the patient: the collimator's edge, the lead marker, burned-in patient data."""

from __future__ import annotations

import cv2
import numpy as np

from edgerad.phantom.canvas import Bytes, Floats
from edgerad.phantom.identity import identity
from edgerad.phantom.spec import Box, PhantomSpec

_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
)
_CAPITAL = 22.0
"""Height of a capital letter of OpenCV's fonts at scale 1, in pixels."""


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
    letter = _line(spec.marker, cv2.FONT_HERSHEY_SIMPLEX, size)
    width = letter.shape[1]
    margin = rng.uniform(0.02, 0.06) * field.width
    x = field.x + margin if spec.marker == "R" else field.x + field.width - margin - width
    y = field.y + rng.uniform(0.06, 0.30) * field.height
    return _paint(display, letter, round(x), round(y), float(rng.uniform(0.93, 1.0)), spec.marker)


def burn_text(display: Floats, spec: PhantomSpec) -> tuple[Box, ...]:
    """Write the patient's data into a corner, in place; return a box a line."""
    style = spec.text
    if style is None:
        return ()
    person, visit = identity(spec)
    texts = (
        f"name:{person.roman}",
        f"id:{person.patient_id}",
        f"d.o.b.:{person.birth_date.isoformat()}",
        f"d.o.xray:{visit.when:%Y-%m-%d %H:%M}",
        visit.institution,
    )
    size = max(7.0, style.height * max(spec.rows, spec.cols))
    lines = [_line(text, _FONTS[style.font % len(_FONTS)], size) for text in texts]
    pitch, margin = round(size * 1.7), round(size * 0.6)
    top = margin if style.corner.startswith("top") else spec.rows - margin - pitch * len(lines)
    boxes = []
    for number, (text, line) in enumerate(zip(texts, lines, strict=True)):
        x = margin if style.corner.endswith("left") else max(0, spec.cols - margin - line.shape[1])
        boxes.append(_paint(display, line, x, top + number * pitch, style.level, text))
    return tuple(boxes)


def _line(text: str, font: int, size: float) -> Bytes:
    """Return the text's strokes, capitals `size` pixels high, cut out so that their box is exact in any font."""
    scale, stroke = size / _CAPITAL, max(1, round(size / 12))
    (width, height), below = cv2.getTextSize(text, font, scale, stroke)
    pad = height + below + 4 * stroke
    layer = np.zeros((3 * pad, width + 2 * pad), np.uint8)
    cv2.putText(layer, text, (pad, 2 * pad), font, scale, 255, stroke, cv2.LINE_AA)
    x, y, wide, high = cv2.boundingRect(layer)
    return layer[y : y + high, x : x + wide]


def _paint(display: Floats, strokes: Bytes, x: int, y: int, level: float, text: str) -> Box:
    """Blend strokes into the image with their upper left corner at x, y; return the box of what fits."""
    rows, cols = display.shape
    x, y = max(0, x), max(0, y)
    strokes = strokes[: rows - y, : cols - x]
    height, width = strokes.shape
    alpha = strokes.astype(np.float32) / np.float32(255)
    part = display[y : y + height, x : x + width]
    part += alpha * (np.float32(level) - part)
    return Box(x, y, width, height, text)
