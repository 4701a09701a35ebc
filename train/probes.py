"""What a model must not live on: changes that must leave its answer alone, and evidence that is no evidence.

Image width alone tells the label of the usual chest X-ray test set with an AUROC of .95, so that a high AUROC says
little by itself. Pure functions of grey pixels [rows, columns] and of scores; the model is a function given to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from imaging.resample import Plane
from serve.preprocess import GRID
from serve.triage import Thresholds, measure_choices
from train.evaluate import auroc

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Change = Callable[[Grey], Plane]
Score = Callable[[Sequence[Plane]], Floats]
"""Calibrated probabilities [n] of decoded images."""
EQUAL = GRID // 2  # columns at which no image is sharper than another
FRAME = 0.12  # share of each side that `frame_only` leaves


@dataclass(frozen=True)
class Shift:
    """What one change does to probabilities (median, 95th percentile) and to triage classes (share that flips)."""

    median: float
    p95: float
    flips: float


def _resize(kernel: int) -> Change:
    return lambda image: _grey(cv2.resize(image, (GRID, GRID), interpolation=kernel))


def _coarse(image: Grey) -> Grey:
    """Halve the resolution that the model sees, and no more: what is lost is no finding."""
    small = cv2.resize(image, (GRID // 2, GRID // 2), interpolation=cv2.INTER_AREA)
    return _grey(cv2.resize(small, image.shape[::-1], interpolation=cv2.INTER_CUBIC))


def _jpeg(quality: int) -> Change:
    def change(image: Grey) -> Grey:
        done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if done else None
        if decoded is None:
            raise RuntimeError("OpenCV could not encode a JPEG in memory")
        return _grey(decoded)

    return change


def _linear(gain: float, offset: float) -> Change:
    return lambda image: _grey(np.clip(np.rint((image - 127.5) * gain + 127.5 + offset), 0, 255))


def _turn(degrees: float, squashed: float = 1.0) -> Change:
    """Turn about the centre an image that was `squashed` times as wide before it was put on its grid."""

    def change(image: Grey) -> Grey:
        rows, columns = image.shape
        matrix = cv2.getRotationMatrix2D((columns / 2, rows / 2), degrees, 1.0)
        matrix[:, :2] *= np.array([[1, 1 / squashed], [squashed, 1]])
        matrix[:, 2] = (columns / 2, rows / 2) - matrix[:, :2] @ (columns / 2, rows / 2)
        turned = cv2.warpAffine(image, matrix, (columns, rows), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return _grey(turned)

    return change


def _crop(share: float) -> Change:
    def change(image: Grey) -> Grey:
        rows, columns = (round(length * share / 2) for length in image.shape)
        return image[rows : image.shape[0] - rows, columns : image.shape[1] - columns]

    return change


def _text(image: Grey) -> Grey:
    """Burn four lines into the lower left, as the images of hospitals and of demonstrations have them."""
    image = image.copy()
    rows = image.shape[0]
    size = rows / 900
    for line, text in enumerate(("SYNTHETIC, PERSON", "ID 00412-77", "1970-01-01", "2026-02-03 11:42")):
        at = (round(rows * 0.02), round(rows * (0.84 + 0.04 * line)))
        cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, 255, max(1, round(2 * size)), cv2.LINE_AA)
    return image


def _sixteen_bits(image: Grey) -> npt.NDArray[np.uint16]:
    return image.astype(np.uint16) * np.uint16(257)


CHANGES: Mapping[str, Change] = {
    "kernel: bilinear": _resize(cv2.INTER_LINEAR),
    "kernel: bicubic": _resize(cv2.INTER_CUBIC),
    "kernel: Lanczos": _resize(cv2.INTER_LANCZOS4),
    "half the resolution": _coarse,
    "JPEG quality 30": _jpeg(30),
    "JPEG quality 60": _jpeg(60),
    "JPEG quality 95": _jpeg(95),
    "brighter": _linear(1.0, 25),
    "darker": _linear(1.0, -25),
    "more contrast": _linear(1.2, 0),
    "less contrast": _linear(0.8, 0),
    "turned by 5 degrees": _turn(5),
    "turned by -5 degrees": _turn(-5),
    "cropped by 5 %": _crop(0.05),
    "text burned in": _text,
    "16 bits": _sixteen_bits,
}

WIDE = 1.5  # times as wide as high: what a child's collimated chest has
SQUASHED: Mapping[str, Change] = {name: change for name, change in CHANGES.items() if not name.startswith("kernel")} | {
    f"turned by {degrees} degrees, of {WIDE} to 1": _turn(degrees, WIDE) for degrees in (5, -5)
}
"""For images that were published squashed to the grid: no kernel can be varied, and turned they are sheared, too."""


def invariances(
    score: Score, images: Sequence[Grey], thresholds: Thresholds, changes: Mapping[str, Change] = CHANGES
) -> dict[str, Shift]:
    """Return how far each change moves the probabilities of the images."""
    before = score(images)
    return {
        name: shift(before, score([change(image) for image in images]), thresholds) for name, change in changes.items()
    }


def shift(before: Floats, after: Floats, thresholds: Thresholds) -> Shift:
    """Compare probabilities of the same images before and after a change."""
    apart = np.abs(after - before)
    flips = [
        thresholds.classify(float(one)) != thresholds.classify(float(other))
        for one, other in zip(before, after, strict=True)
    ]
    return Shift(float(np.median(apart)), float(np.percentile(apart, 95)), float(np.mean(flips)))


def frame_only(image: Grey, share: float = FRAME) -> Grey:
    """Return the image with nothing left but its frame: the middle is filled with its mean."""
    image = image.copy()
    rows, columns = (round(length * share) for length in image.shape)
    inside = image[rows : image.shape[0] - rows, columns : image.shape[1] - columns]
    inside[:] = round(float(inside.mean()))
    return image


def rank_correlation(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Spearman's correlation, ties shared; 0 where one of the two is constant."""
    ranks = np.stack([_ranks(np.asarray(values, np.float64)) for values in (first, second)])
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    spread = np.sqrt((centred**2).sum(axis=1))
    return float(centred[0] @ centred[1] / (spread[0] * spread[1])) if spread.all() else 0.0


def within_class(labels: npt.ArrayLike, logits: npt.ArrayLike, nuisance: npt.ArrayLike) -> dict[str, float]:
    """Return the rank correlation of logits with a nuisance (width, sharpness) within each class."""
    truth, scores, values = (np.asarray(part, np.float64) for part in (labels, logits, nuisance))
    return {
        name: rank_correlation(scores[truth == label], values[truth == label])
        for name, label in (("normal", 0), ("abnormal", 1))
    }


def at_width(image: Grey, width: int) -> Grey:
    """Return the image as if it had been published with so many columns; one that has no more stays as it is."""
    rows, columns = image.shape
    if width >= columns:
        return image
    return _grey(cv2.resize(image, (width, max(1, round(rows * width / columns))), interpolation=cv2.INTER_AREA))


def width_alone(
    score: Score, images: Sequence[Grey], labels: npt.ArrayLike, widths: Sequence[int], thresholds: Thresholds
) -> dict[str, Any]:
    """Tell apart whether a logit follows the width of an image as such, or what is to be seen on wide images.

    `images` have at least as many columns as the model can tell from more. `equal`: every image at `EQUAL` columns,
    half of what the model sees, against the width it had: what is left is no matter of resolution or sharpness.
    `drawn`: every image at a width drawn from the set, against that width: content is left out. With their shifts.
    """
    truth, real = np.asarray(labels), np.asarray(widths)
    widths_drawn = np.random.default_rng(0).permutation(real)
    before, found = score(images), {}
    for name, given, against in (("equal", np.full_like(real, EQUAL), real), ("drawn", widths_drawn, widths_drawn)):
        after = score([at_width(image, int(width)) for image, width in zip(images, given, strict=True)])
        correlation = within_class(truth, _logits(after), against)
        found[name] = {**_rounded(correlation), "shift": _rounded(asdict(shift(before, after, thresholds)))}
    return {**found, "columns": EQUAL, "widths": [int(value) for value in np.percentile(real, [5, 95])]}


def sharpness(image: Plane) -> float:
    """Return the log energy of what is finer than two grid pixels, on the grid that the model sees."""
    grid = cv2.resize(image.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)
    fine = grid - cv2.GaussianBlur(grid, (0, 0), 1.0)
    return float(np.log(np.std(fine) / max(float(np.std(grid)), 1e-6) + 1e-6))


def probe(
    score: Score,
    images: Sequence[Grey],
    labels: npt.ArrayLike,
    thresholds: Thresholds,
    *,
    widths: Sequence[int] | None = None,
    changes: Mapping[str, Change] = CHANGES,
) -> dict[str, Any]:
    """Return all figures of one set as plain values: invariances, frames alone, correlations within the classes."""
    probabilities = score(images)
    logits = _logits(probabilities)
    frames = score([frame_only(image) for image in images])
    correlations = {"sharpness": within_class(labels, logits, [sharpness(image) for image in images])}
    alone = {}
    if widths is not None:
        correlations["width"] = within_class(labels, logits, widths)
        alone["width_alone"] = width_alone(score, images, labels, widths, thresholds)
    found = invariances(score, images, thresholds, changes)
    return {
        "invariances": {name: _rounded(asdict(moved)) for name, moved in found.items()},
        "frame_only": {"auroc": round(auroc(labels, frames).value, 4), "width": FRAME},
        "correlations": {name: _rounded(values) for name, values in correlations.items()},
        "thresholds": [asdict(choice) for choice in measure_choices(labels, probabilities)],
        **alone,
    }


def _logits(probabilities: Floats) -> Floats:
    inside = np.clip(probabilities, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(inside / (1 - inside)), np.float64)


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64)


def _grey(image: npt.NDArray[np.generic]) -> Grey:
    return image.astype(np.uint8, copy=False)
