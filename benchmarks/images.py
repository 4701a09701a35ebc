"""The images that benchmarks of serving score: real ones at full resolution where they are at hand, else phantoms."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).parents[1]
PHANTOM_SIZE = 1300
"""Pixels of a phantom's longer side: about the 1.2 megapixels of the real files."""


@dataclass(frozen=True)
class Images:
    """Encoded images with their labels (1 = the finding), and where they come from."""

    source: str
    files: list[bytes]
    labels: npt.NDArray[np.bool_]

    def repeated(self, count: int) -> list[bytes]:
        """Return `count` files, the same again and again."""
        return list(islice(cycle(self.files), count))

    def described(self) -> dict[str, object]:
        """Return what a report says of them."""
        return {
            "source": self.source,
            "files": len(self.files),
            "mean_kilobytes": round(sum(map(len, self.files)) / len(self.files) / 1000),
        }


def load(count: int | None = None) -> Images:
    """Return `count` images (None: all) of shared/data/xraylab-dev, evenly out of all of them, else phantoms."""
    folder = shared() / "data" / "xraylab-dev"
    if not folder.is_dir():
        return phantoms(count or 64)
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    chosen = rows if count is None else [rows[i * len(rows) // count] for i in range(min(count, len(rows)))]
    labels = np.array([row["label"] != "NORMAL" for row in chosen])
    return Images("xraylab-dev, full resolution", [(folder / row["file"]).read_bytes() for row in chosen], labels)


def phantoms(count: int) -> Images:
    """Return JPEG phantoms, half of them with the finding."""
    from edgerad.phantom import random_spec, render, to_jpeg

    labels = np.arange(count) % 2 == 1
    drawn = [
        to_jpeg(render(random_spec((97, number), positive=bool(ill), size=PHANTOM_SIZE)))
        for number, ill in enumerate(labels)
    ]
    return Images("phantoms", drawn, labels)


def shared() -> Path:
    """Return the folder of real data beside the repo (EDGERAD_SHARED, else ../shared); it may not exist."""
    return Path(os.environ.get("EDGERAD_SHARED", ROOT.parent / "shared"))
