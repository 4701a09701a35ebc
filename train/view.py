"""Fit the view check: `python -m train.view --data kermany-train224 --out models/view-check.npz`.

Chests are real radiographs and phantoms, moved about as people are; other pictures are drawn by `train.other_pictures`,
or are chests turned. Nothing is chosen on the test images: they are only reported. The report also says how much of a
kind is caught by a check that was fitted without that kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import typer

from edgerad.phantom import SCANNERS, PhantomSpec, random_spec, render
from imaging.refusal import Unreadable
from serve.decode import decode
from serve.preprocess import GRID, stretch, to_grid
from serve.view import THRESHOLD, ViewCheck, features
from train.dataset import KERMANY_PATIENT, _fraction
from train.other_pictures import OTHERS, TURNED

Grid = npt.NDArray[np.float32]
Rows = npt.NDArray[np.float32]
SEED = 20_261
PHANTOMS, DRAWN, TESTED = 500, 500, 200
COMPONENTS, FREQUENCIES, RIDGE = 96, 1536, 3e-5
VALIDATION_SHARE = 0.1
CHEST = "chest"
CHUNK = 2048


@dataclass(frozen=True)
class Kind:
    """Features [n, …] of one kind of picture."""

    name: str
    rows: Rows


def main(
    data: Annotated[Path, typer.Option(help="Folder of frontal chests, any depth (Kermany's training split).")],
    out: Annotated[Path, typer.Option(help="File to write (.npz).")],
    test: Annotated[Path | None, typer.Option(help="Folder of chests to report on, never fitted on.")] = None,
    others: Annotated[
        Path | None, typer.Option(help="Folder of other pictures to report on, a subfolder a kind.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Where to write the report (.json).")] = None,
) -> None:
    """Fit with fixed seeds, write the check, print what it catches and refuses."""
    began = perf_counter()
    files = sorted(path for path in data.rglob("*") if path.suffix.lower() in {".jpeg", ".jpg", ".png", ".dcm"})
    chests = _read([path for path in files if not _is_held(path.name)])
    validation = _read([path for path in files if _is_held(path.name)])
    drawn = _phantoms(PHANTOMS, SEED)
    fitted = Fitting(list(_training_kinds(chests, drawn)))
    check = fitted.check()
    digest = check.save(out)
    tests = [Kind("validation patients", _features(validation)), Kind("phantoms", _features(_phantoms(150, SEED + 1)))]
    if test is not None:
        unseen = list(_read(sorted(path for path in test.rglob("*") if path.suffix.lower() == ".jpeg")))
        tests += [Kind("test", _features(unseen)), Kind("test, moved", _moved(unseen, SEED + 2))]
        turned = list(_turned_kinds(unseen, SEED + 3))
    else:
        turned = list(_turned_kinds(validation, SEED + 3))
    refused = [*turned, *_drawn_kinds(TESTED, SEED + 4), *(_folder_kinds(others) if others else [])]
    document = {
        "sha256": digest,
        "threshold": THRESHOLD,
        "fitted_on": {kind.name: len(kind.rows) for kind in fitted.kinds},
        "chests": {kind.name: _said(check, kind) for kind in tests},
        "others": {kind.name: _said(check, kind) for kind in refused},
        "without_that_kind": {
            kind.name: _said(fitted.check(without=kind.name), kind)
            for kind in refused
            if any(kind.name == known.name for known in fitted.kinds)
        },
        "seconds": round(perf_counter() - began),
    }
    text = json.dumps(document, indent=1)
    if report is not None:
        report.write_text(text + "\n", encoding="utf-8")
    typer.echo(text)


class Fitting:
    """Kernel ridge regression by random Fourier features; kinds weigh alike, and any one can be left out at no cost."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        """Choose the basis and the frequencies, and add up the moments of every kind."""
        self.kinds = kinds
        rows = np.concatenate([kind.rows[::3] for kind in kinds])
        self._mean = rows.mean(axis=0)
        _, vectors = np.linalg.eigh(np.cov(rows.T))
        self._basis = vectors[:, : -COMPONENTS - 1 : -1].astype(np.float32)
        some = (rows[::25] - self._mean) @ self._basis
        squares = np.square(some).sum(axis=1)
        apart = squares[:, np.newaxis] + squares - 2 * some @ some.T
        width = float(np.sqrt(np.median(np.maximum(apart, 0))))
        rng = np.random.default_rng(SEED)
        frequencies = rng.normal(0, 1.3 / width, (COMPONENTS, FREQUENCIES))
        # Rounded as the file holds them, before the weights are fitted to them.
        self._frequencies = frequencies.astype(np.float16).astype(np.float32)
        self._phases = rng.uniform(0, 2 * np.pi, FREQUENCIES).astype(np.float16).astype(np.float32)
        self._basis = self._basis.astype(np.float16).astype(np.float32)
        self._mean = self._mean.astype(np.float16).astype(np.float32)
        self._moments = {kind.name: self._moment(kind) for kind in kinds}

    def _moment(self, kind: Kind) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        gram = np.zeros((FREQUENCIES, FREQUENCIES))
        total = np.zeros(FREQUENCIES)
        for start in range(0, len(kind.rows), CHUNK):
            rows = kind.rows[start : start + CHUNK]
            waves = np.cos((rows - self._mean) @ self._basis @ self._frequencies + self._phases)
            gram += waves.T @ waves
            total += waves.sum(axis=0)
        return gram / len(kind.rows), total / len(kind.rows)

    def check(self, without: str | None = None) -> ViewCheck:
        """Return the fitted check; `without` leaves a kind out."""
        others = [name for name in self._moments if name not in (CHEST, without)]
        gram = self._moments[CHEST][0] + sum(self._moments[name][0] for name in others) / len(others)
        target = self._moments[CHEST][1] - sum(self._moments[name][1] for name in others) / len(others)
        weights = np.linalg.solve(gram + RIDGE * FREQUENCIES * np.eye(FREQUENCIES), target)
        arrays = (self._mean, self._basis, self._frequencies, self._phases, weights.astype(np.float16))
        return ViewCheck(*(np.asarray(array, np.float32) for array in arrays))


def _said(check: ViewCheck, kind: Kind) -> dict[str, Any]:
    values = check.values(kind.rows)
    least, most = float(values.min()), float(values.max())
    return {
        "pictures": len(values),
        "refused": round(float(np.mean(values < THRESHOLD)), 4),
        "least": round(least, 2),
        "most": round(most, 2),
    }


def _training_kinds(chests: Sequence[Grid], phantoms: Sequence[Grid]) -> Iterator[Kind]:
    plain = [*chests, *phantoms]
    yield Kind(CHEST, np.concatenate([_features(plain), _moved(plain, SEED + 10)]))
    yield from _turned_kinds([*chests[::3], *phantoms[::2]], SEED + 11)
    yield from _drawn_kinds(DRAWN, SEED + 12)


def _turned_kinds(chests: Sequence[Grid], seed: int) -> Iterator[Kind]:
    for number, (name, turn) in enumerate(TURNED.items()):
        rngs = (np.random.default_rng([seed, number, index]) for index in range(len(chests)))
        yield Kind(name, _features([_again(turn(grid, rng)) for grid, rng in zip(chests, rngs, strict=True)]))


def _drawn_kinds(count: int, seed: int) -> Iterator[Kind]:
    """Each drawing as it is; some also inverted and on their side."""
    for number, (name, draw) in enumerate(OTHERS.items()):
        pictures = [_again(draw(np.random.default_rng([seed, number, index]))) for index in range(count)]
        pictures += [255 - picture for picture in pictures[::4]]
        pictures += [np.ascontiguousarray(np.rot90(picture)) for picture in pictures[1:count:4]]
        yield Kind(name, _features(pictures))


def _folder_kinds(folder: Path) -> Iterator[Kind]:
    for kind in sorted(path for path in folder.iterdir() if path.is_dir()):
        yield Kind(f"{kind.name} (real)", _features(list(_read(sorted(kind.iterdir())))))


def _moved(grids: Sequence[Grid], seed: int) -> Rows:
    return _features([move(grid, np.random.default_rng([seed, index])) for index, grid in enumerate(grids)])


def move(grid: Grid, rng: np.random.Generator) -> Grid:
    """Return a chest as another patient, room or device would show it: moved, exposed, collimated, with text."""
    matrix: npt.NDArray[Any] = cv2.getRotationMatrix2D(
        (GRID / 2, GRID / 2), rng.uniform(-13, 13), rng.uniform(0.75, 1.3)
    )
    matrix[0, :2] *= rng.uniform(0.85, 1.15)
    matrix[:, 2] += rng.uniform(-24, 24, 2)
    border = cv2.BORDER_REPLICATE if rng.random() < 0.5 else cv2.BORDER_CONSTANT
    image = np.ascontiguousarray(grid[:, ::-1] if rng.random() < 0.5 else grid)
    moved = cv2.warpAffine(image, matrix, (GRID, GRID), borderMode=border)
    page = np.clip(255 * (moved / 255) ** rng.uniform(0.55, 1.7), 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        for _ in range(int(rng.integers(1, 4))):
            place = (int(rng.integers(0, 130)), int(rng.integers(10, GRID)))
            cv2.putText(page, "Name 1234567", place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1, cv2.LINE_AA)
    edge = round(rng.uniform(0.02, 0.12) * GRID)
    if rng.random() < 0.2:
        page[:edge] = page[-edge:] = 0
    if rng.random() < 0.2:
        page[:, :edge] = page[:, -edge:] = 0
    return _again(page)


def _again(picture: npt.NDArray[Any]) -> Grid:
    return stretch(np.asarray(picture, np.float32))


def _features(grids: Sequence[Grid]) -> Rows:
    return np.stack(_threaded(features, grids))


def _phantoms(count: int, seed: int) -> list[Grid]:
    scanners = list(SCANNERS)

    return _threaded(
        _draw_spec,
        [
            random_spec((seed, index), size=256, scanner=scanners[index % len(scanners)], burned_in=index % 3 == 0)
            for index in range(count)
        ],
    )


def _draw_spec(spec: PhantomSpec) -> Grid:
    return stretch(to_grid(render(spec).pixels))


def _read(files: Sequence[Path]) -> list[Grid]:
    def read(path: Path) -> Grid | None:
        try:
            return stretch(to_grid(decode(path.read_bytes()).pixels))
        except Unreadable:  # the check before this one catches it
            return None

    return [grid for grid in _threaded(read, files) if grid is not None]


def _threaded(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(function, items, chunksize=16))


def _is_held(name: str) -> bool:
    """Whether a file's patient is kept for validation."""
    found = KERMANY_PATIENT.search(name)
    return _fraction(f"{SEED}:{found.group(1) if found else name}") < VALIDATION_SHARE


if __name__ == "__main__":
    typer.run(main)
