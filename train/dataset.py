"""Labelled cases in memory: loading, splitting by patient, weighting and batching; no TensorFlow and no Ray here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from imaging.resample import Plane
from serve.decode import decode
from serve.preprocess import GRID, INPUT_SIZE, Input, stretch, to_grid, to_input
from train.architecture import map_side
from train.augment import DEFAULT_AUGMENT, AugmentConfig, Geometry, augment, draw_geometry, frame_only, move_lesion

Grids = npt.NDArray[np.uint8]
Made = TypeVar("Made")
Images = npt.NDArray[np.uint8]
Vector = npt.NDArray[np.float32]
LABELS = {"NORMAL": 0, "PNEUMONIA": 1}
LESION_SIDE = GRID // 4
KERMANY_PATIENT = re.compile(r"(person\d+|IM-\d+)")


@dataclass(frozen=True)
class Batch:
    """What one training step sees: uint8 [n, side, side, 1], labels and weights float32 [n].

    A label is 0, 1, or 0.5 for an image that shows nothing to tell by. `lesions`, float32 [n, cells, cells], sums to 1
    over the cells of the activation map where it is known where the lesion lies, and is 0 where it is not. `others`,
    where a training asks for them, are the same images changed in another way, whole ones all, of the same shape.
    """

    images: Images
    labels: Vector
    weights: Vector
    lesions: npt.NDArray[np.float32]
    others: Images | None = None


@dataclass(frozen=True)
class Cases:
    """Labelled images on the common grid: uint8 [n, GRID, GRID], labels 0 or 1, patient groups, source names.

    `lesions`, uint8 [n, LESION_SIDE, LESION_SIDE], holds where a lesion lies, 255 inside; all 0 where nobody knows.
    `poses`, float32 [n, 2, 3], holds how each image is framed, where that is evened out (see `framing`).
    """

    grids: Grids
    labels: npt.NDArray[np.int8]
    groups: tuple[str, ...]
    sources: tuple[str, ...]
    lesions: Grids | None = None
    poses: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.grids), len(self.labels), len(self.groups), len(self.sources)}
        lengths |= {len(more) for more in (self.lesions, self.poses) if more is not None}
        if len(lengths) != 1:
            raise ValueError(f"cases need one label, group and source an image; lengths are {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Sequence[int] | npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Cases:
        """Return the cases at these indices (or under this mask), in that order."""
        chosen = np.arange(len(self))[np.asarray(indices)]
        return Cases(
            self.grids[chosen],
            self.labels[chosen],
            tuple(self.groups[index] for index in chosen),
            tuple(self.sources[index] for index in chosen),
            None if self.lesions is None else self.lesions[chosen],
            None if self.poses is None else self.poses[chosen],
        )

    def inputs(self, input_size: int = INPUT_SIZE) -> Images:
        """Return the unchanged images as the model sees them in service, uint8 [n, input_size, input_size, 1]."""
        return np.stack([to_input(to_grid(grid), input_size) for grid in self.grids])

    def manifest_digest(self) -> str:
        """Digest of what was trained on: sha256 over the sorted (pixels, label, group, source) of every case."""
        rows = sorted(
            f"{hashlib.sha256(grid.tobytes()).hexdigest()} {label} {group} {source}"
            for grid, label, group, source in zip(self.grids, self.labels, self.groups, self.sources, strict=True)
        )
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def grid_of(pixels: Plane) -> npt.NDArray[np.uint8]:
    """Return decoded pixels on the training grid, uint8 [GRID, GRID], stretched as preprocessing does."""
    return np.rint(stretch(to_grid(pixels))).astype(np.uint8)


def make_cases(rows: Sequence[tuple[Plane, int, str, str]]) -> Cases:
    """Build cases of (decoded pixels, label, patient group, source)."""
    if not rows:
        raise ValueError("there are no cases: give at least one labelled image")
    return Cases(
        np.stack([grid_of(pixels) for pixels, *_ in rows]),
        np.array([label for _, label, *_ in rows], np.int8),
        tuple(group for *_, group, _ in rows),
        tuple(source for *_, source in rows),
    )


def join(parts: Sequence[Cases]) -> Cases:
    """Put several sets of cases into one; poses are to be found anew, for they are told against each other."""
    return Cases(
        np.concatenate([part.grids for part in parts]),
        np.concatenate([part.labels for part in parts]),
        tuple(group for part in parts for group in part.groups),
        tuple(source for part in parts for source in part.sources),
        np.concatenate([_lesions(part) for part in parts]) if any(part.lesions is not None for part in parts) else None,
    )


def _lesions(cases: Cases) -> Grids:
    return cases.lesions if cases.lesions is not None else np.zeros((len(cases), LESION_SIDE, LESION_SIDE), np.uint8)


def load_labelled_folder(folder: Path, source: str, *, patient: Callable[[str], str] | None = None) -> Cases:
    """Load `folder/NORMAL` and `folder/PNEUMONIA`, any supported image format, in name order.

    `patient` names the patient group of a file name; by default every file is its own patient.
    Raises FileNotFoundError if there is no image.
    """
    rows = [
        (decode(path.read_bytes()).pixels, label, patient(path.name) if patient else path.name, source)
        for name, label in LABELS.items()
        for path in sorted((folder / name).glob("*"))
        if path.is_file()
    ]
    if not rows:
        raise FileNotFoundError(f"{folder} needs images in the subfolders {' and '.join(LABELS)}")
    return make_cases(rows)


def kermany_patient(name: str) -> str:
    """Return the patient of a Kermany file: `person12_bacteria_3` and `person12_virus_4` are taken for one patient."""
    found = KERMANY_PATIENT.search(name)
    return found.group(1) if found else name


def split_by_group(cases: Cases, share: float, seed: int) -> tuple[Cases, Cases]:
    """Split off about `share` of the patients; no patient is on both sides. Returns (rest, split off).

    A patient's side depends on the seed and the patient only, so that more data later moves nobody.
    """
    held = np.array([_fraction(f"{seed}:{group}") < share for group in cases.groups])
    return cases.take(~held), cases.take(held)


def _fraction(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def shard(cases: Cases, index: int, count: int) -> Cases:
    """Return every `count`-th case from `index` on: a worker's share."""
    return cases.take(np.arange(index, len(cases), count))


def balanced_weights(cases: Cases) -> Vector:
    """Weights with mean 1 under which within every source, which counts by its images, both labels count alike."""
    weights = np.zeros(len(cases), np.float32)
    sources = np.array(cases.sources)
    for name in set(cases.sources):
        present = [label for label in (0, 1) if np.any((sources == name) & (cases.labels == label))]
        for label in present:
            mask = (sources == name) & (cases.labels == label)
            weights[mask] = np.sum(sources == name) / len(present) / mask.sum()
    return weights


def made_ahead(
    make: Callable[[npt.NDArray[np.int64], np.random.Generator], Made],
    chunks: npt.NDArray[np.int64],
    generators: Sequence[np.random.Generator],
) -> Iterator[Made]:
    """Yield what `make` gives for each chunk in turn, made ahead by one thread (OpenCV works outside Python's lock)."""
    with ThreadPoolExecutor(1, thread_name_prefix="augment") as pool:
        waiting: list[Future[Made]] = []
        for chunk, own in zip(chunks, generators, strict=True):
            waiting.append(pool.submit(make, chunk, own))
            if len(waiting) > 3:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


class CaseBatches:
    """Endless shuffled, augmented batches of one worker's cases; the same seed and epoch give the same batches."""

    def __init__(
        self,
        cases: Cases,
        batch_size: int,
        seed: int,
        *,
        weights: Vector | None = None,
        config: AugmentConfig = DEFAULT_AUGMENT,
        input_size: int = INPUT_SIZE,
        pairs: bool = False,
    ) -> None:
        """Keep what batches are made of; with `pairs` every image comes twice, changed in two ways."""
        self.pairs = pairs
        self.cases, self.batch_size, self.seed = cases, batch_size, seed
        self.weights = balanced_weights(cases) if weights is None else weights
        self.config, self.input_size = config, input_size

    def __call__(self, epoch: int, steps: int) -> Iterator[Batch]:
        """Yield `steps` batches of an epoch, made ahead by one thread."""
        rng = np.random.default_rng([self.seed, epoch])
        order = self._order(rng, steps * self.batch_size)
        chunks = order.reshape(steps, self.batch_size)
        yield from made_ahead(self._make, chunks, rng.spawn(steps))

    def _order(self, rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
        rounds = -(-count // len(self.cases))
        return np.concatenate([rng.permutation(len(self.cases)) for _ in range(rounds)])[:count]

    def _make(self, chosen: npt.NDArray[np.int64], rng: np.random.Generator) -> Batch:
        images, labels = [], self.cases.labels[chosen].astype(np.float32)
        cells = map_side(self.input_size)
        lesions = np.zeros((len(chosen), cells, cells), np.float32)
        for position, index in enumerate(chosen):
            grid = self.cases.grids[index]
            if rng.random() < self.config.frame_only:
                images.append(frame_only(grid, rng, self.input_size))
                labels[position] = 0.5
                continue
            geometry = self._geometry(index, rng)
            other = self.cases.grids[int(rng.integers(len(self.cases)))]
            images.append(augment(grid, rng, self.config, self.input_size, geometry=geometry, other=other))
            if self.cases.lesions is not None:
                lesions[position] = move_lesion(self.cases.lesions[index], geometry, cells)
        others = np.stack([self._whole(index, rng) for index in chosen]) if self.pairs else None
        return Batch(np.stack(images), labels, self.weights[chosen], lesions, others)

    def _whole(self, index: int, rng: np.random.Generator) -> Input:
        """Return an image changed in a way of its own, with no frame but its own."""
        geometry = self._geometry(index, rng)
        return augment(self.cases.grids[index], rng, self.config, self.input_size, geometry=geometry)

    def _geometry(self, index: int, rng: np.random.Generator) -> Geometry:
        return draw_geometry(rng, self.config, None if self.cases.poses is None else self.cases.poses[index])
