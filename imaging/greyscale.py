"""The grey-scale pipeline: from stored values to the values that the modality meant, the same for every reader.

Stored values → modality LUT or rescale (PS3.3 C.11.1) → VOI LUT or window (C.11.2) → presentation (C.7.6.3.1.2 and
C.11.6).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from imaging.attributes import code, number, numbers, unusable
from imaging.depth import ROWS_AT_A_TIME
from imaging.tables import Table, table_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from imaging.depth import Cells

Array = npt.NDArray[Any]
Function = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
MIN_WINDOW_SHARE = 0.5
"""A window that clips more of the pixels than this shows something else than a whole chest, and is ignored."""
SAMPLE = 1_000_000
"""Pixels of a larger image that are looked at to decide that."""


@dataclass(frozen=True)
class Window:
    """A window of modality values (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""

    center: float
    width: float
    function: Function = "LINEAR"

    def __call__(self, values: Array) -> npt.NDArray[np.float64]:
        """Map modality values to 0..1."""
        plain = np.asarray(values, np.float64)
        if self.function == "SIGMOID":
            return np.asarray(1 / (1 + np.exp(np.clip(-4 * (plain - self.center) / self.width, -700, 700))))
        center, width = self.center, self.width
        if self.function == "LINEAR":
            center, width = center - 0.5, max(width - 1, 1e-9)
        return np.clip((plain - center) / width + 0.5, 0, 1)


@dataclass(frozen=True)
class Pipeline:
    """All steps of one image, read from its header before a pixel is decoded."""

    modality: Table | None
    slope: float
    intercept: float
    voi: Table | Window | None
    inverted: bool
    """Whether the lowest value shows white: MONOCHROME1, or PresentationLUTShape INVERSE; both together invert once
    (PS3.3 C.8.11.3.1.2)."""
    ignored: Table | Window | None = None
    """The VOI step of the file that is not applied, because it hides most of the image."""

    @property
    def declared_voi(self) -> Table | Window | None:
        """The VOI step of the file, whether it is applied or not."""
        return self.voi or self.ignored

    @property
    def rescaled_is_plain(self) -> bool:
        """Whether stored values are the modality values."""
        return self.modality is None and (self.slope, self.intercept) == (1.0, 0.0)

    def modality_values(self, values: Array) -> Array:
        """Return what the modality measured: integers stay integers where nothing is to be computed."""
        if self.modality is not None:
            return self.modality(values)
        return values if self.rescaled_is_plain else values.astype(np.float64) * self.slope + self.intercept


@dataclass(frozen=True)
class Rendering:
    """Modality values [rows, columns], and the steps that lead from them to what is shown."""

    modality: Array
    voi: Table | Window | None
    """The VOI step that is applied."""
    ignored: Table | Window | None
    """The VOI step of the file that is not applied, because it hides most of the image."""
    inverted: bool
    """Whether the lowest value shows white."""

    @property
    def displayed(self) -> Array:
        """What is shown, in no unit, bright where the body is dense: as the model sees it."""
        shown: Array = self.modality if self.voi is None else self.voi(self.modality)
        if shown.dtype.kind in "iu":  # of 16 bits at most, whose differences need 17
            shown = shown.astype(np.int32)
        return np.asarray(shown.max() - shown) if self.inverted else shown


def pipeline_of(dataset: Dataset, *, signed: bool, little_endian: bool = True) -> Pipeline:
    """Read and check every step; `signed` says whether stored values can be negative. Raises Unreadable."""
    modality = table_of(dataset, "ModalityLUTSequence", signed=signed, little_endian=little_endian)
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    if slope == 0:
        raise unusable("RescaleSlope", "is 0")
    slope, intercept = (1.0 if slope is None else slope), (0.0 if intercept is None else intercept)
    negative = modality is None and (signed or slope < 0 or intercept < 0)
    voi: Table | Window | None = table_of(dataset, "VOILUTSequence", signed=negative, little_endian=little_endian)
    shape = code(dataset, "PresentationLUTShape")
    if shape not in ("", "IDENTITY", "INVERSE", "LIN OD"):  # LIN OD is for film
        raise unusable("PresentationLUTShape", "is neither IDENTITY nor INVERSE")
    inverted = code(dataset, "PhotometricInterpretation") == "MONOCHROME1" or shape == "INVERSE"
    return Pipeline(modality, slope, intercept, voi or window_of(dataset), inverted)


def window_of(dataset: Dataset) -> Window | None:
    """Return the first window; None where center and width are absent or empty. Raises Unreadable."""
    centers, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    if not centers and not widths:
        return None
    if not centers or not widths:
        missing, there = ("WindowWidth", "WindowCenter") if centers else ("WindowCenter", "WindowWidth")
        raise unusable(missing, f"is missing, but {there} is there")
    if widths[0] <= 0:
        raise unusable("WindowWidth", "is not above 0")
    function = code(dataset, "VOILUTFunction") or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise unusable("VOILUTFunction", "is neither LINEAR, LINEAR_EXACT nor SIGMOID")
    return Window(centers[0], widths[0], function)  # type: ignore[arg-type]


def applied_to(pipeline: Pipeline, cells: Cells) -> Pipeline:
    """Return the steps that are applied to these pixels: without a VOI step that hides most of the image.

    A reader can change a narrow window (for the spine, say); the model cannot, and gets the whole range.
    """
    if pipeline.voi is None:
        return pipeline
    step = max(1, int((cells.values.size / SAMPLE) ** 0.5))
    sample = cells.values[::step, ::step]
    if cells.padding is not None:
        first, last = cells.padding
        real = sample[(sample < first) | (sample > last)]
        sample = real if real.size else sample
    plain = pipeline.modality_values(sample)
    if _inside(pipeline.voi(plain)) >= MIN_WINDOW_SHARE * _inside(plain):
        return pipeline
    return replace(pipeline, voi=None, ignored=pipeline.voi)


def render(pipeline: Pipeline, values: Array) -> Rendering:
    """Apply all steps to stored values, padding already filled by `fill_padding`, at any reduction."""
    return Rendering(pipeline.modality_values(values), pipeline.voi, pipeline.ignored, pipeline.inverted)


def fill_padding(pipeline: Pipeline, cells: Cells, *, in_place: bool = False) -> Array:
    """Return stored values whose padding (PS3.3 C.7.5.1.1.2) is set to the real value that shows darkest.

    `in_place` changes the values of `cells` where these are writable, which saves memory.
    """
    values = cells.values
    if cells.padding is None:
        return values
    first, last = cells.padding
    ends: list[Any] = []
    for rows in _strips(values):
        real = rows[(rows < first) | (rows > last)]
        ends += [real.min(), real.max()] if real.size else []
    if not ends:
        return values
    fill = darkest(pipeline, min(ends), max(ends))
    filled = values if in_place and values.flags.writeable else values.copy()
    for rows in _strips(filled):
        rows[(rows >= first) & (rows <= last)] = fill
    return filled


def _strips(values: Array) -> Iterator[Array]:
    """Yield a few rows at a time, so that masks of large images take little memory."""
    for start in range(0, len(values), ROWS_AT_A_TIME):
        yield values[start : start + ROWS_AT_A_TIME]


def darkest(pipeline: Pipeline, low: Any, high: Any) -> Any:
    """Return which of two stored values shows darker; a table or a negative slope can turn them around."""
    ends = np.array([low, high])
    modality = pipeline.modality_values(ends)
    shown = np.asarray(pipeline.voi(modality) if pipeline.voi else modality, np.float64)
    if shown[0] == shown[1]:
        shown = np.asarray(modality, np.float64)
    rising = shown[0] <= shown[1]
    return low if rising != pipeline.inverted else high


def _inside(values: Array) -> float:
    """Return the share of values between the lowest and the highest."""
    return float(np.mean((values > values.min()) & (values < values.max())))
