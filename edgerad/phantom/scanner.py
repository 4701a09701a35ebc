"""X-ray devices: how each turns the absorbed dose into grey values."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edgerad.phantom.canvas import Canvas, Floats, fractal, gaussian


@dataclass(frozen=True, slots=True)
class Scanner:
    """The properties of a device and of its processing."""

    manufacturer: str
    model: str
    noise: float
    """Standard deviation of the quantum noise behind soft tissue at the usual dose, in grey levels of 255."""
    blur: float
    """Standard deviation of the point spread, in pixels of a 1024-pixel image."""
    enhancement: float
    """Strength of the local contrast enhancement that the device's processing adds."""
    contrast: float
    gamma: float
    """Exponent of the display curve: below 1 brightens the middle."""
    floor: float = 0.0
    """Grey of air, of 255: scatter and fog."""
    vignetting: float = 0.0
    """Loss of signal in the corners, in grey levels."""
    grid_period: float = 0.0
    """Pixels between the lines of an anti-scatter grid that the device does not suppress; 0: none."""
    grid_strength: float = 0.0
    streaks: float = 0.0
    """Standard deviation of the line-to-line gain of a plate reader, in grey levels."""


SCANNERS: dict[str, Scanner] = {
    "standard": Scanner("Edgerad Phantom Works", "Standard DR 1", 2.2, 0.6, 0.55, 1.0, 1.0),
    "portable": Scanner(
        "Edgerad Phantom Works", "Portable DR 2", 4.5, 0.8, 0.35, 0.88, 0.92, floor=14.0, vignetting=8.0
    ),
    "legacy_cr": Scanner(
        manufacturer="Edgerad Phantom Works",
        model="Legacy CR 0",
        noise=9.0,
        blur=1.5,
        enhancement=0.0,
        contrast=0.60,
        gamma=0.66,
        floor=26.0,
        vignetting=30.0,
        grid_period=5.3,
        grid_strength=5.0,
        streaks=2.0,
    ),
}


def scanner(name: str) -> Scanner:
    """Return the device of that name; raises ValueError with the known names."""
    try:
        return SCANNERS[name]
    except KeyError:
        raise ValueError(f"scanner is {name!r}; it must be one of {', '.join(SCANNERS)}") from None


def expose(
    absorbed: Floats, device: Scanner, exposure: float, brightness: float, canvas: Canvas, rng: np.random.Generator
) -> Floats:
    """Return display values 0..1 [rows, cols] of an absorption in display-like units (0 air, 200 abdomen).

    Quantum noise: the detector counts photons, so the logarithm's standard deviation goes with 1/sqrt(dose behind the
    body), which falls exponentially with the absorption (Beer-Lambert, Poisson).
    """
    rows, cols = absorbed.shape
    pixel = max(rows, cols) / 1024
    if device.blur * pixel > 0.35:
        absorbed = gaussian(absorbed, device.blur * pixel)
    image = (absorbed - np.float32(128)) * np.float32(rng.uniform(0.9, 1.12)) + np.float32(128 + brightness)
    if device.enhancement:
        image = image + np.float32(device.enhancement) * (image - gaussian(image, 0.045 * canvas.scale))
        image += np.float32(device.enhancement) * (image - gaussian(image, 0.008 * canvas.scale))
    sigma = np.exp((absorbed - np.float32(110)) * np.float32(1 / 160))
    sigma *= np.float32(device.noise / exposure**0.5)
    grain = rng.standard_normal((rows, cols), dtype=np.float32)
    image += sigma * cv2.GaussianBlur(grain, (3, 3), 0.55) * np.float32(1.5)
    if device.vignetting:
        y = np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
        x = np.linspace(-1, 1, cols, dtype=np.float32)[None, :]
        image -= np.float32(device.vignetting) * (x * x + y * y) * np.float32(0.5)
        image += np.float32(0.4 * device.vignetting) * fractal(rng, rows, cols, 0.7 * cols, 2)
    if device.streaks:
        image += rng.normal(0, device.streaks, (rows, 1)).astype(np.float32)
    if device.grid_strength:
        phase = np.arange(cols, dtype=np.float32) * np.float32(2 * np.pi / device.grid_period)
        image += np.float32(device.grid_strength) * np.sin(phase)[None, :]
    return develop(image, device)


def develop(image: Floats, device: Scanner) -> Floats:
    """Return display values 0..1 through the device's characteristic curve: a toe, a line, a shoulder."""
    low, high, steps = -128.0, 384.0, 64
    level = np.arange(int((high - low) * steps) + 1) / steps + low
    x = (128 + (level - 128) * device.contrast) / 255
    toe = np.logaddexp(0, (x - 0.01) * 30) / 30
    shoulder = 0.93
    bent = np.clip(shoulder - np.logaddexp(0, (shoulder - toe) * 14) / 14, 0, 1) ** device.gamma
    floor = device.floor / 255
    table = (floor + (1 - floor) * bent).astype(np.float32)
    index = ((np.clip(image, low, high) - np.float32(low)) * np.float32(steps)).astype(np.uint16)
    result: Floats = table[index]
    return result
