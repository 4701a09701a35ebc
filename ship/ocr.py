"""Two generations of text detection and reading, run directly on the ONNX models that two wheels carry.

PP-OCRv6 comes in `rapidocr`, PP-OCRv4 in `rapidocr-onnxruntime`. Both packages' own pipelines answer an engine error
with an empty result, shrink images above 2000 px and take every core.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from edgerad import surroundings
from ship.boxes import Box
from ship.graphs import simplified

if TYPE_CHECKING:
    import onnxruntime as ort

Grey = npt.NDArray[np.uint8]

_TILE = 2048
_OVERLAP = 192
_COARSE = 1000
_MIN_SIDE = 736
_REC_HEIGHT = 48
_REC_WIDTH = (320, 3200)
"""Least width of what the recognisers are given, grey to the right of the text, and the greatest of the text."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text as one engine read it: `box` in pixels of the image, not yet padded; `score` in 0..1."""

    box: Box
    text: str
    score: float
    engine: str
    tilt: float = 0.0
    """Degrees, 0 to 45, by which a line at least twice as long as high is off upright or lying."""
    across: float = 0.0
    """Pixels between the long sides of such a line, whose box is higher than itself if it is tilted."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One generation of detector and recogniser."""

    name: str
    version: str
    detector: ort.InferenceSession
    recogniser: ort.InferenceSession
    alphabet: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Generation:
    name: str
    package: str
    distribution: str
    detector: str
    recogniser: str


_GENERATIONS = (
    _Generation("v6", "rapidocr", "rapidocr", "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"),
    _Generation(
        "v4", "rapidocr_onnxruntime", "rapidocr-onnxruntime", "ch_PP-OCRv4_det_infer.onnx", "ch_PP-OCRv4_rec_infer.onnx"
    ),
)


def _session(model: bytes, threads: int) -> ort.InferenceSession:
    surroundings.silence()  # it reports home unless told otherwise before it is imported
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # An arena keeps the largest image's buffers for ever, one for each of four sessions; see ship/heap.py.
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@functools.lru_cache(maxsize=2)
def engines(threads: int = 1) -> tuple[Engine, ...]:
    """Both engines, loaded once a process (0.7 s); raises FileNotFoundError when a wheel lacks its models."""
    loaded = []
    for generation in _GENERATIONS:
        spec = importlib.util.find_spec(generation.package)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"the package {generation.distribution} is not installed: run `make setup`")
        models = Path(spec.origin).parent / "models"
        detector, recogniser = models / generation.detector, models / generation.recogniser
        digest = hashlib.sha256()
        for path in (detector, recogniser):
            if not path.is_file():
                raise FileNotFoundError(f"{generation.distribution} carries no {path.name}: install the locked version")
            digest.update(path.read_bytes())
        reader = _session(simplified(recogniser), threads)
        characters = reader.get_modelmeta().custom_metadata_map["character"].splitlines()
        loaded.append(
            Engine(
                name=generation.name,
                version=f"{generation.distribution} {version(generation.distribution)} {digest.hexdigest()[:12]}",
                detector=_session(simplified(detector), threads),
                recogniser=reader,
                alphabet=("", *characters, " "),
            )
        )
    return tuple(loaded)


def read_lines(
    view: Grey,
    engine: Engine,
    *,
    region: Box | None = None,
    zoom: float = 1.0,
    turned: bool = False,
    skip: Callable[[Box], bool] = lambda _: False,
) -> list[Line]:
    """Every line that `engine` detects in an 8-bit view (H×W or H×W×3), read; unreadable ones have an empty text.

    With `region` only there, at `zoom` times the scale at which the whole view would be looked at. `turned` looks at
    the view after a quarter turn: detectors miss faint lines that run up or down. What `skip` says of a line's box
    saves the reading of lines that are of no further interest.
    """
    whole = region or Box(0, 0, view.shape[1], view.shape[0])
    image = np.ascontiguousarray(np.rot90(view[whole.slices]) if turned else view[whole.slices])
    scale = None if region is None and zoom == 1.0 else zoom * enlargement(*view.shape[:2])

    def place(quad: npt.NDArray[np.float32]) -> Box:
        x0, y0 = np.floor(quad.min(axis=0)).astype(int)
        x1, y1 = np.ceil(quad.max(axis=0)).astype(int) + 1
        inside = Box(int(x0), int(y0), int(x1), int(y1)).clipped(*image.shape[:2])
        upright = inside.turned_back(image.shape[0]) if turned else inside
        return upright.moved(whole.x0, whole.y0)

    found = [(quad, place(quad)) for quad in _detect(image, engine, scale)]
    found = [(quad, box) for quad, box in found if box.x1 > box.x0 and box.y1 > box.y0 and not skip(box)]
    readings = _read([_crop(image, quad) for quad, _ in found], engine)
    return [
        Line(box, words, score, engine.name, *_lie(quad))
        for (quad, box), (words, score) in zip(found, readings, strict=True)
    ]


def _detect(image: Grey, engine: Engine, scale: float | None) -> list[npt.NDArray[np.float32]]:
    height, width = image.shape[:2]
    quads: list[npt.NDArray[np.float32]] = []
    if max(height, width) <= _TILE:
        return _detect_whole(image, engine, enlargement(height, width) if scale is None else scale)
    for rows in _tiles(height):
        for columns in _tiles(width):
            offset = np.array((columns.start, rows.start), np.float32)
            quads += [quad + offset for quad in _detect_whole(image[rows, columns], engine, 1.0)]
    small = _COARSE / max(height, width)
    coarse = np.asarray(cv2.resize(image, None, fx=small, fy=small, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return quads + [(quad / small).astype(np.float32) for quad in _detect_whole(coarse, engine, 1.0)]


def _tiles(length: int) -> list[slice]:
    """The fewest equal parts of at most `_TILE` pixels that overlap by `_OVERLAP`, more than the height of a line."""
    count = max(1, -(-(length - _OVERLAP) // (_TILE - _OVERLAP)))
    size = -(-(length + (count - 1) * _OVERLAP) // count)
    starts = [round(i * (length - size) / max(count - 1, 1)) for i in range(count)]
    return [slice(start, start + size) for start in starts]


def enlargement(height: int, width: int) -> float:
    """How much a small image is enlarged for the detectors: never beyond the size of a tile."""
    return max(1.0, min(_MIN_SIDE / min(height, width), _TILE / max(height, width)))


def _detect_whole(image: Grey, engine: Engine, scale: float) -> list[npt.NDArray[np.float32]]:
    """Differentiable Binarization (Liao et al., AAAI 2020) with the parameters of the wheels' configuration."""
    height, width = image.shape[:2]
    shape = (max(32, round(width * scale / 32) * 32), max(32, round(height * scale / 32) * 32))
    blob = np.ascontiguousarray(_channels_first(cv2.resize(image, shape)))[None]
    heat = engine.detector.run(None, {"x": blob})[0][0, 0]
    mask = cv2.dilate((heat > 0.3).astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    to_image = np.array((width / shape[0], height / shape[1]), np.float32)
    quads = []
    for contour in contours:
        centre, (w, h), angle = cv2.minAreaRect(contour)
        if min(w, h) < 3 or _mean_inside(heat, cv2.boxPoints((centre, (w, h), angle))) < 0.5:
            continue
        grown = 2 * 1.6 * w * h / (2 * (w + h))
        corners = cv2.boxPoints((centre, (w + grown, h + grown), angle)) * to_image
        quads.append(_clockwise(np.clip(corners, 0, (width - 1, height - 1)).astype(np.float32)))
    return [q for q in quads if min(np.linalg.norm(q[0] - q[1]), np.linalg.norm(q[0] - q[3])) > 3]


def _channels_first(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """An 8-bit image (H×W or H×W×3) as the networks take it: 3×H×W, -1 to 1."""
    values = image.astype(np.float32) * np.float32(2 / 255) - np.float32(1)
    return np.moveaxis(values, 2, 0) if values.ndim == 3 else np.broadcast_to(values, (3, *values.shape))


def _mean_inside(heat: npt.NDArray[np.float32], corners: npt.NDArray[Any]) -> float:
    height, width = heat.shape
    x0, y0 = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, (width - 1, height - 1))
    x1, y1 = np.clip(np.ceil(corners.max(axis=0)).astype(int), 0, (width - 1, height - 1))
    mask = np.zeros((y1 - y0 + 1, x1 - x0 + 1), np.uint8)
    cv2.fillPoly(mask, [(corners - (x0, y0)).astype(np.int32)], (1,))
    return float(cv2.mean(heat[y0 : y1 + 1, x0 : x1 + 1], mask)[0])


def _clockwise(corners: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    by_x = corners[np.argsort(corners[:, 0], kind="stable")]
    left, right = by_x[:2], by_x[2:]
    left, right = left[np.argsort(left[:, 1], kind="stable")], right[np.argsort(right[:, 1], kind="stable")]
    return np.stack((left[0], right[0], right[1], left[1]))


def _lie(quad: npt.NDArray[np.float32]) -> tuple[float, float]:
    """How a line lies: its tilt and, where there is one, its height."""
    across, down = quad[1] - quad[0] + quad[2] - quad[3], quad[3] - quad[0] + quad[2] - quad[1]
    shorter, longer = sorted((across, down), key=lambda side: float(np.linalg.norm(side)))
    if np.linalg.norm(longer) < 2 * np.linalg.norm(shorter):
        return 0.0, 0.0
    angle = float(np.rad2deg(np.arctan2(longer[1], longer[0]))) % 90
    return min(angle, 90 - angle), float(np.linalg.norm(shorter)) / 2


def _crop(image: Grey, quad: npt.NDArray[np.float32]) -> Grey:
    w = max(int(np.linalg.norm(quad[0] - quad[1])), int(np.linalg.norm(quad[2] - quad[3])), 1)
    h = max(int(np.linalg.norm(quad[0] - quad[3])), int(np.linalg.norm(quad[1] - quad[2])), 1)
    target = np.array(((0, 0), (w, 0), (w, h), (0, h)), np.float32)
    matrix = cv2.getPerspectiveTransform(quad, target)
    crop = cv2.warpPerspective(image, matrix, (w, h), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(np.rot90(crop) if h >= 1.5 * w else crop, dtype=np.uint8)


def _read(crops: Sequence[Grey], engine: Engine) -> list[tuple[str, float]]:
    """The text and mean character probability of each crop; one that does not read is tried upside down as well."""
    results = _recognise(crops, engine)
    doubtful = [i for i, (_, score) in enumerate(results) if score < 0.8]
    turned = _recognise([np.ascontiguousarray(crops[i][::-1, ::-1]) for i in doubtful], engine)
    for i, other in zip(doubtful, turned, strict=True):
        if other[1] > results[i][1]:
            results[i] = other
    return results


def _recognise(crops: Sequence[Grey], engine: Engine) -> list[tuple[str, float]]:
    """Each by itself: beside others it would be filled up to their width, which costs time and changes what is read."""
    name = engine.recogniser.get_inputs()[0].name
    results = []
    for crop in crops:
        width = min(max(1, -(-_REC_HEIGHT * crop.shape[1] // crop.shape[0])), _REC_WIDTH[1])
        blob = np.zeros((1, 3, _REC_HEIGHT, max(width, _REC_WIDTH[0])), np.float32)
        blob[0, :, :, :width] = _channels_first(cv2.resize(crop, (width, _REC_HEIGHT)))
        scores = engine.recogniser.run(None, {name: blob})[0][0]
        best = scores.argmax(axis=1)
        probability = scores[np.arange(len(best)), best]
        # Connectionist temporal classification, greedy: repeats collapse, then blanks (index 0) go.
        kept = (best != 0) & np.concatenate(((True,), best[1:] != best[:-1]))
        text = "".join(engine.alphabet[k] for k in best[kept]).strip()
        results.append((text, float(probability[kept].mean()) if kept.any() else 0.0))
    return results
