"""Describe where training images lie, for the drift score: `python -m train.novelty --data DIR --out FILE`.

Run it after `train.view`, whose space it uses, and when the sources of the shipped model change.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from edgerad.drift import measure
from serve.novelty import Usual, describe, place_of
from serve.view import features, view_check
from train.phantoms import phantom_specs
from train.view import Grid, _draw_spec, _is_held, _read, _threaded, move

SEED = 20_262
PHANTOMS, HELD_PHANTOMS, TESTED = 600, 300, 150
SCANNERS = ("standard", "standard", "portable")


def main(
    data: Annotated[Path, typer.Option(help="Folder of the training images (Kermany's training split).")],
    out: Annotated[Path, typer.Option(help="File to write (.npz).")],
    test: Annotated[Path | None, typer.Option(help="Folder of other chests to report the drift of.")] = None,
) -> None:
    """Describe Kermany's images and the phantoms, and print the drift of sets that the description has not seen."""
    files = sorted(path for path in data.rglob("*") if path.suffix.lower() in {".jpeg", ".jpg", ".png"})
    kept = _read([path for path in files if not _is_held(path.name)])
    held = _read([path for path in files if _is_held(path.name)])
    drawn = phantoms(PHANTOMS + HELD_PHANTOMS, SEED, SCANNERS)
    described = Usual(
        {
            "kermany": describe(_places(kept), _places(held)),
            "phantoms": describe(_places(drawn[:PHANTOMS]), _places(drawn[PHANTOMS:])),
        }
    )
    report = {"sha256": described.save(out)}
    sets = {
        "phantoms": phantoms(TESTED, SEED + 1, SCANNERS),
        "phantoms of a device never trained on": phantoms(TESTED, SEED + 2, ("legacy_cr",)),
    }
    if test is not None:
        sets["test"] = _read(sorted(path for path in test.rglob("*") if path.suffix.lower() == ".jpeg"))
        sets["test, moved"] = [
            move(grid, np.random.default_rng([SEED, index])) for index, grid in enumerate(sets["test"])
        ]
    for name, grids in sets.items():
        drift = measure([described.novelty(place) for place in _places(grids)])
        report[name] = f"{drift.score:.2f}{' flagged' if drift.is_flagged else ''} ({drift.images} images)"
    typer.echo(json.dumps(report, indent=1))


def phantoms(count: int, seed: int, scanners: Sequence[str]) -> list[Grid]:
    """Return stretched grids of phantoms."""
    return _threaded(_draw_spec, phantom_specs(count, seed, scanners=scanners))


def _places(grids: Sequence[Grid]) -> npt.NDArray[np.float32]:
    check = view_check()
    return np.stack([place_of(check, row) for row in _threaded(features, grids)])


if __name__ == "__main__":
    typer.run(main)
