"""Sets of synthetic radiographs on disk, with a table of the truth about each."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import simplejpeg

from edgerad.phantom.dicom import SYNTAXES, Syntax, to_dicom
from edgerad.phantom.render import render
from edgerad.phantom.sample import random_spec
from edgerad.phantom.spec import Box, Finding, Label, Phantom, PhantomSpec

Format = Literal["DICOM", "JPEG"]
LABELS = "labels.csv"


@dataclass(frozen=True, slots=True)
class Record:
    """One file of a set and what is true of it."""

    file: str
    """Path relative to the set's directory, with forward slashes."""
    label: Label
    finding: Finding
    severity: float
    body: str
    scanner: str
    format: Format
    syntax: str
    """The transfer syntax's short name, or empty for a JPEG."""
    storage: str
    photometric: str
    rows: int
    cols: int
    seed: int
    patient: int
    study: int
    lesion: Box | None
    """The rectangle around the lesion's mask."""
    marker: Box | None
    text: tuple[Box, ...]
    """The boxes of burned-in lines, with the text of each."""


def to_jpeg(phantom: Phantom, quality: int = 90, color: bool = False) -> bytes:
    """Return the radiograph as an 8-bit JPEG (bright = dense) without metadata; `color`: three equal channels."""
    grey = np.ascontiguousarray((phantom.pixels >> (phantom.spec.bits - 8)).astype(np.uint8))
    if color:
        data: bytes = simplejpeg.encode_jpeg(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), quality, "RGB", "420")
    else:
        data = simplejpeg.encode_jpeg(grey[:, :, None], quality, "GRAY", "Gray")
    return data


def write_set(
    directory: Path,
    count: int,
    seed: int = 0,
    positive_share: float = 0.5,
    dicom_share: float = 0.5,
    burned_in_share: float = 0.25,
    scanner: str = "standard",
    labels_as_folders: bool = True,
    size: int = 1024,
) -> list[Record]:
    """Write `count` radiographs and labels.csv into the directory; return the records. See `iterate_set`."""
    return list(
        iterate_set(
            directory, count, seed, positive_share, dicom_share, burned_in_share, scanner, labels_as_folders, size
        )
    )


def iterate_set(
    directory: Path,
    count: int,
    seed: int = 0,
    positive_share: float = 0.5,
    dicom_share: float = 0.5,
    burned_in_share: float = 0.25,
    scanner: str = "standard",
    labels_as_folders: bool = True,
    size: int = 1024,
) -> Iterator[Record]:
    """Write radiographs one by one, yielding each one's record; labels.csv is written when the last is done.

    Folders are named after the labels, NORMAL and PNEUMONIA, unless `labels_as_folders` is false. The shares are met
    to within one file. Raises ValueError for a share outside 0..1 or a negative count.
    """
    if count < 0:
        raise ValueError(f"count is {count}; it must be 0 or more")
    shares = {"positive_share": positive_share, "dicom_share": dicom_share, "burned_in_share": burned_in_share}
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}; it must be between 0 and 1")
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng((seed, 0x5E7))
    positive, as_dicom, burned = (_spread(count, share, rng) for share in shares.values())
    records = []
    for number in range(count):
        spec = random_spec(
            (seed, number),
            positive=bool(positive[number]),
            scanner=scanner,
            burned_in=bool(burned[number]),
            size=size,
            patients=max(1, count * 3 // 4),
        )
        record = _write(directory, number, spec, bool(as_dicom[number]), labels_as_folders, rng)
        records.append(record)
        yield record
    _write_labels(directory / LABELS, records)


def _spread(count: int, share: float, rng: np.random.Generator) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    chosen = np.zeros(count, np.bool_)
    chosen[: round(count * share)] = True
    return rng.permutation(chosen)


def _write(
    directory: Path, number: int, spec: PhantomSpec, as_dicom: bool, folders: bool, rng: np.random.Generator
) -> Record:
    phantom = render(spec)
    syntaxes: list[Syntax] = list(SYNTAXES)
    syntax = syntaxes[int(rng.choice(len(syntaxes), p=[0.35, 0.2, 0.05, 0.1, 0.15, 0.15]))]
    private, quality, color = bool(rng.random() < 0.4), int(rng.integers(70, 97)), bool(rng.random() < 0.4)
    data = to_dicom(phantom, syntax, private) if as_dicom else to_jpeg(phantom, quality, color)
    name = f"phantom-{number:05d}.{'dcm' if as_dicom else 'jpeg'}"
    path = directory / spec.label / name if folders else directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return Record(
        file=path.relative_to(directory).as_posix(),
        label=spec.label,
        finding=spec.finding,
        severity=round(spec.severity, 4),
        body=spec.body,
        scanner=spec.scanner,
        format="DICOM" if as_dicom else "JPEG",
        syntax=syntax if as_dicom else "",
        storage=spec.storage if as_dicom else "",
        photometric=spec.photometric if as_dicom else "",
        rows=spec.rows,
        cols=spec.cols,
        seed=spec.seed,
        patient=spec.patient,
        study=spec.study,
        lesion=_bounds(phantom),
        marker=phantom.marker,
        text=phantom.text,
    )


def _bounds(phantom: Phantom) -> Box | None:
    x, y, width, height = cv2.boundingRect(phantom.mask.view(np.uint8))
    return Box(x, y, width, height) if width else None


def _write_labels(path: Path, records: list[Record]) -> None:
    """Write the table; boxes are JSON."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(Record.__dataclass_fields__))
        writer.writeheader()
        for record in records:
            row = asdict(record)
            for key in ("lesion", "marker", "text"):
                row[key] = json.dumps(row[key], ensure_ascii=False) if row[key] else ""
            writer.writerow(row)
