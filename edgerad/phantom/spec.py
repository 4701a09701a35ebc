"""What a synthetic radiograph shows and how it was taken, and what is known of it once it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Finding = Literal["normal", "consolidation", "effusion", "interstitial"]
Body = Literal["child", "adult"]
Photometric = Literal["MONOCHROME1", "MONOCHROME2"]
Storage = Literal["CR", "DX"]
Corner = Literal["top left", "top right", "bottom left", "bottom right"]
Label = Literal["NORMAL", "PNEUMONIA"]

FINDINGS: tuple[Finding, ...] = get_args(Finding)
CORNERS: tuple[Corner, ...] = get_args(Corner)
ABNORMAL: tuple[Finding, ...] = ("consolidation", "effusion", "interstitial")
MIN_SIDE, MAX_SIDE = 128, 6000
"""Sides in pixels: below 128 no rib is resolved; 6000 is beyond the largest CR and DX detectors (about 4300)."""


@dataclass(frozen=True, slots=True)
class TextStyle:
    """Patient data burned into the pixels: where, how large, in which of four of OpenCV's fonts."""

    corner: Corner = "bottom left"
    height: float = 0.016
    """Height of a capital letter, as a share of the image's longer side."""
    font: int = 0
    level: float = 1.0
    """Grey of the strokes, 0 (black) to 1 (white)."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels: x, y of its upper left corner, width, height; and the text that is in it."""

    x: int
    y: int
    width: int
    height: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class PhantomSpec:
    """All that decides one image; the same spec always gives the same pixels."""

    seed: int
    finding: Finding = "normal"
    severity: float = 0.0
    """0 (not to be seen) to 1 (gross); without meaning when the finding is `normal`."""
    body: Body = "child"
    rows: int = 1024
    cols: int = 1024
    scanner: str = "standard"
    """A key of `edgerad.phantom.scanner.SCANNERS`."""
    storage: Storage = "CR"
    photometric: Photometric = "MONOCHROME2"
    bits: int = 12
    """BitsStored (0028,0101): 10 to 16, of 16 allocated."""
    marker: Literal["L", "R"] | None = "R"
    text: TextStyle | None = None
    tilt: float = 0.0
    """Rotation in the image plane, degrees, clockwise."""
    obliquity: float = 0.0
    """Rotation of the body about its long axis, degrees; positive moves the front towards the image's right."""
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    """Displacement to the right and down, in lung heights."""
    inspiration: float = 0.6
    """Depth of the breath, 0 to 1: deeper lowers the domes of the diaphragm."""
    exposure: float = 1.0
    """Dose relative to the device's usual one: less is noisier (quantum noise goes with its square root)."""
    collimation: float = 0.0
    """Share of each side that the collimator's blades hide, 0 to 0.15."""
    patient: int = 0
    """Number of the fake patient; images with the same number share name, id, birth date and sex."""
    study: int = 0
    """Number of the patient's study: another gives another date, accession number and study UID."""

    def __post_init__(self) -> None:
        """Raise ValueError where a field is out of its range."""
        problems = [
            f"{name} is {value!r}; it must be {rule}"
            for name, value, fits, rule in (
                ("finding", self.finding, self.finding in FINDINGS, f"one of {', '.join(FINDINGS)}"),
                ("severity", self.severity, 0 <= self.severity <= 1, "between 0 and 1"),
                ("body", self.body, self.body in get_args(Body), "child or adult"),
                ("rows", self.rows, MIN_SIDE <= self.rows <= MAX_SIDE, f"{MIN_SIDE} to {MAX_SIDE}"),
                ("cols", self.cols, MIN_SIDE <= self.cols <= MAX_SIDE, f"{MIN_SIDE} to {MAX_SIDE}"),
                ("bits", self.bits, 10 <= self.bits <= 16, "10 to 16"),
                ("exposure", self.exposure, self.exposure > 0, "above 0"),
                ("zoom", self.zoom, 0.3 <= self.zoom <= 3, "between 0.3 and 3"),
                ("collimation", self.collimation, 0 <= self.collimation <= 0.15, "between 0 and 0.15"),
                ("seed", self.seed, self.seed >= 0, "0 or more"),
            )
            if not fits
        ]
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def label(self) -> Label:
        """Return the class of the pneumonia finding: every abnormal pattern here is one of pneumonia.

        An effusion is drawn as a parapneumonic one, with consolidation of the lung beside it.
        """
        return "NORMAL" if self.finding == "normal" else "PNEUMONIA"


@dataclass(frozen=True, slots=True)
class Phantom:
    """A drawn radiograph and the truth about it."""

    spec: PhantomSpec
    pixels: NDArray[np.uint16]
    """[rows, cols], 0 to 2^bits - 1, bright = dense whatever the spec's photometric interpretation."""
    mask: NDArray[np.bool_]
    """[rows, cols], true where the lesion is; all false when normal."""
    center: tuple[float, float] | None
    """x, y of the centroid of the mask, or None when it is empty."""
    marker: Box | None
    text: tuple[Box, ...]
    """One box a burned-in line."""
