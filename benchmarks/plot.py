"""A plot of a spike as plain SVG: panels of a step line each, over one axis of seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 760, 120, 64, 16, 40, 34
COLOURS = {"first": "#0b6e99", "second": "#c2571a"}


@dataclass(frozen=True)
class Line:
    """A named line of a panel: values at the seconds that all lines share."""

    name: str
    values: Sequence[float]


def svg(title: str, seconds: Sequence[float], panels: Sequence[tuple[str, Sequence[Line]]]) -> str:
    """Return the drawing; a panel has a name and one or two lines, and begins at 0."""
    height = TOP + len(panels) * (PANEL + GAP) + 16
    low, high = min(seconds), max(seconds)
    inner = WIDTH - LEFT - RIGHT

    def across(second: float) -> float:
        return LEFT + inner * (second - low) / max(high - low, 1e-9)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"'
        ' font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="15" font-size="15">{escape(title)}</text>',
    ]
    for number, (name, lines) in enumerate(panels):
        top = TOP + number * (PANEL + GAP)
        most = max([1.0, *(value for line in lines for value in line.values)])
        parts.append(f'<text x="{LEFT}" y="{top - 6}" fill="#444">{escape(name)}</text>')
        for share in (0.0, 0.5, 1.0):
            at = top + PANEL * (1 - share)
            parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end" fill="#444">{most * share:g}</text>')
        for line, colour in zip(lines, COLOURS.values(), strict=False):
            points = [
                (across(at), top + PANEL * (1 - value / most)) for at, value in zip(seconds, line.values, strict=True)
            ]
            path = f"M{points[0][0]:.1f} {points[0][1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in points[1:])
            parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        if len(lines) > 1:
            legend = "".join(
                f'<tspan fill="{colour}" dx="10">{escape(line.name)}</tspan>'
                for line, colour in zip(lines, COLOURS.values(), strict=False)
            )
            parts.append(f'<text x="{WIDTH - RIGHT}" y="{top - 6}" text-anchor="end">{legend}</text>')
    bottom = TOP + len(panels) * (PANEL + GAP) - GAP
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if (high - low) / step <= 12)
    second = int(low // step) * step
    while second <= high:
        if second >= low:
            place = f'x="{across(second):.1f}" y="{bottom + 16}"'
            parts.append(f'<text {place} text-anchor="middle" fill="#444">{second}</text>')
        second += step
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{bottom + 32}" text-anchor="end" fill="#444">seconds</text></svg>')
    return "\n".join(parts) + "\n"
