"""How much burned-in text is found, what that costs, and what attackers still read: `python -m benchmarks.redaction`.

`--xrays FOLDER` takes real X-rays with a labels.csv of their burned-in values (four lines in a fixed font at the lower
left); `--phantoms N` draws N radiographs with 1 to 5 blocks of text each, `--size`, `--smallest` and `--faintest` say
how large they are and how hard the hardest text is; `--attack` measures what blurred and filled boxes give away.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime as dt
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks import burned_text
from benchmarks.burned_text import Burned, Grey, Mask, Stroke
from imaging.limits import Limits
from ship import heap, ocr, redaction, text, views
from ship import pixels as px
from ship.boxes import Box
from ship.identity import Identity

COVERED = 0.95
"""Share of a line's stroke pixels from which on it counts as found."""
SURE = 0.8
LINE_PITCH, CHARACTER = 25, 15
"""Of the fixed font of the X-ray demo's images, in pixels."""


@dataclass(slots=True)
class Tally:
    """What was counted over a set of images."""

    images: int = 0
    quarantined: list[int] = field(default_factory=list)
    """Numbers in the set, from 0, of images that nobody could prove clean."""
    lines: int = 0
    missed: list[str] = field(default_factory=list)
    """Lines that were not found, of images that were released: the image's number in the set from 0, and their kind."""
    with_lines_left: int = 0
    """Images that were released with at least one of them."""
    markers: int = 0
    markers_hit: int = 0
    outside: dict[int, float] = field(default_factory=dict)
    """Of each released image, the share filled over 1.6 capitals' heights from the rectangle of a line's ink."""
    filled: list[float] = field(default_factory=list)
    """Share of each image that was filled."""
    inked: list[float] = field(default_factory=list)
    """Share of each image that the rectangles of its lines' ink cover."""
    megapixels: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """Of processor time, for each of those."""
    read_before: int = 0
    read_after: int = 0
    """Images on which an engine that took no part reads a value of the patient."""

    def as_json(self) -> dict[str, Any]:
        found = self.lines - len(self.missed)
        return {
            "images": self.images,
            "quarantined": len(self.quarantined),
            "quarantined_images": self.quarantined,
            "released_with_lines_left": self.with_lines_left,
            "lines": self.lines,
            "recall": round(found / max(self.lines, 1), 5),
            "missed": self.missed,
            "markers": self.markers,
            "markers_kept": round(1 - self.markers_hit / max(self.markers, 1), 4),
            "outside_median": _median([*self.outside.values()]),
            "outside_most": dict(sorted(self.outside.items(), key=lambda item: -item[1])[:5]),
            "filled_median": _median(self.filled),
            "inked_median": _median(self.inked),
            "cpu_s_per_megapixel": _median([s / m for s, m in zip(self.seconds, self.megapixels, strict=True)]),
            "cpu_s_per_megapixel_over_all": round(sum(self.seconds) / max(sum(self.megapixels), 1e-9), 6),
            "tesseract_reads_before": self.read_before,
            "tesseract_reads_after": self.read_after,
        }


def _median(values: Sequence[float]) -> float:
    return round(float(np.median(values)), 6) if values else 0.0


def measure(case: Burned, identity: Identity, tally: Tally, *, independent: bool) -> redaction.Redaction | None:
    """Redact one image and count; None when it would be quarantined."""
    number, tally.images = tally.images, tally.images + 1
    started = time.process_time()
    try:
        done = redaction.redact_text(case.pixels, Identity(), max_share=1.0)
    except redaction.Doubtful:
        tally.quarantined.append(number)
        return None
    tally.seconds.append(time.process_time() - started)
    tally.megapixels.append(case.pixels.shape[0] * case.pixels.shape[1] / 1e6)
    filled = px.mask(case.pixels, done.boxes)
    near, inked = np.zeros_like(filled), np.zeros_like(filled)
    before = len(tally.missed)
    for stroke in case.strokes:
        x, y, width, height = cv2.boundingRect(stroke.mask.astype(np.uint8))
        reach = round(1.6 * stroke.block.height)
        inked[y : y + height, x : x + width] = True
        near[max(y - reach, 0) : y + height + reach, max(x - reach, 0) : x + width + reach] = True
        tally.lines += 1
        if not found(stroke, filled):
            block = stroke.block
            kind = f"{block.height} px, {block.contrast:+d}, {block.rotation}°, {block.script}"
            tally.missed.append(f"image {number}: {kind}")
    tally.with_lines_left += len(tally.missed) > before
    for box in case.others:
        near[box.grown(box.short_side // 2).clipped(*near.shape).slices] = True
    tally.outside[number] = round(float((filled & ~near).mean()), 6)
    tally.filled.append(float(filled.mean()))
    tally.inked.append(float(inked.mean()))
    if case.marker is not None:
        tally.markers += 1
        x0, y0, x1, y1 = case.marker
        tally.markers_hit += bool(filled[y0:y1, x0:x1].any())
    if independent:
        tally.read_before += tesseract_reads(case.pixels, identity)
        tally.read_after += tesseract_reads(done.pixels, identity)
    return done


def found(stroke: Stroke, filled: Mask) -> bool:
    """Whether so much of a line's strokes is filled that nothing can be read."""
    return float(filled[stroke.mask].mean()) >= COVERED


def tesseract_reads(pixels: Grey, identity: Identity) -> bool:
    """Whether Tesseract reads one of the patient's values, on the image or on its top-hat, upright or turned."""
    kernel = np.ones((25, 25), np.uint8)
    lifted = cv2.normalize(cv2.morphologyEx(pixels, cv2.MORPH_TOPHAT, kernel), None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    words: list[str] = []
    for view in (pixels, 255 - lifted):
        for turned in (view, np.rot90(view)):
            enlarged = cv2.resize(np.ascontiguousarray(turned), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
            done = subprocess.run(
                ["tesseract", "-", "-", "--psm", "11"],
                input=cv2.imencode(".png", enlarged)[1].tobytes(),
                capture_output=True,
                check=True,
                env={"OMP_THREAD_LIMIT": "1", "PATH": "/usr/bin:/usr/local/bin"},
            )
            words += done.stdout.decode("utf-8", "replace").splitlines()
    return any(identity.resembles(line) for line in words if text.alphanumerics(line) >= text.MIN_ALPHANUMERICS)


def phantoms(
    count: int,
    *,
    seed: int = 0,
    size: int = 1024,
    smallest: int = 12,
    faintest: int = 25,
    fonts: Sequence[str] = (),
    oblique: int = 0,
) -> Iterator[tuple[Burned, Identity]]:
    """Radiographs with text in up to five places; up to `oblique` degrees off, and 5 at least."""
    for number in range(seed, seed + count):
        rng = np.random.default_rng((number, 7))
        places = rng.permutation(burned_text.PLACES)[: int(rng.integers(1, 6))]
        choice = tuple(fonts) or burned_text.fonts()
        blocks = [burned_text.random_block(rng, str(place), choice, smallest, faintest) for place in places]
        if oblique:
            blocks = [
                replace(
                    block, rotation=(block.rotation + int(rng.choice((-1, 1)) * rng.integers(5, oblique + 1))) % 360
                )
                for block in blocks
            ]
        case = burned_text.burn(number, blocks, size=size)
        yield case, Identity(words=frozenset(stroke.text for stroke in case.strokes))


def xrays(folder: Path, start: int = 0, every: int = 1, corner: int = 0) -> Iterator[tuple[Burned, Identity]]:
    """Every nth of the real X-rays with four lines at the lower left, from the one of index `start`.

    With `corner` only so many pixels at the lower left of each: for their recall, in a quarter of the time.
    What counts as strokes is a line's whole rectangle. Markers are not labelled: the first that an engine reads counts.
    What both engines surely read elsewhere (exposure, time of day) is text as well, though none that must go.
    """
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows[start::every]:
        pixels = px.decode_picture((folder / row["file"]).read_bytes(), Limits())
        if corner:
            pixels = np.ascontiguousarray(pixels[-corner:, :corner])
        values = (row["patient_name"], row["patient_id"], row["birth_date"], row["study_date"])
        texts = [f"{name}:{value}" for name, value in zip(("name", "id", "d.o.b.", "d.o.xray"), values, strict=True)]
        strokes: list[Stroke] = []
        for number, words in enumerate(texts):
            mask = np.zeros(pixels.shape, bool)
            top = pixels.shape[0] - 93 + number * LINE_PITCH
            mask[top : top + CHARACTER, 1 : CHARACTER * len(words) - 1] = True
            block = burned_text.Block("bottom left", 15, 100, "", "latin", 0, 4)
            strokes.append(Stroke(words, mask, block))
        marker, others = (None, ()) if corner else _other_text(pixels)
        dates = frozenset(dt.date.fromisoformat(value) for value in values[2:])
        identity = Identity(words=frozenset((values[0], *values[0].split(), values[1])), dates=dates)
        yield Burned(pixels, tuple(strokes), marker, others), identity


def _other_text(pixels: Grey) -> tuple[tuple[int, int, int, int] | None, tuple[Box, ...]]:
    v6, v4 = ocr.engines()
    first, second = ocr.read_lines(views.even_view(pixels), v6), ocr.read_lines(views.plain_view(pixels), v4)
    markers = [line.box for line in first if text.is_marker(line)]
    others = tuple(
        line.box
        for line in first
        if line.score > SURE and any(line.box.iou(o.box) > 0.5 and o.score > SURE for o in second)
    )
    return (markers[0].x0, markers[0].y0, markers[0].x1, markers[0].y1) if markers else None, others


def learned_attack(count: int = 900, digits: int = 4) -> dict[str, float]:
    """Share of digits that a ridge classifier reads from blurred and from filled boxes; chance is about 0.1.

    Trained on two thirds, tested on the rest: numbers burned in at one place of phantoms, as consoles do.
    """
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 10, (count, digits))
    backgrounds = [burned_text.burn(seed, [], size=512).pixels[-60:, :160] for seed in range(12)]
    blurred, filled = [], []
    for row in truth:
        image = backgrounds[int(rng.integers(len(backgrounds)))].astype(np.float32)
        for position, digit in enumerate(row):
            glyph = burned_text.letters(str(digit), "opencv:sans", 15).astype(np.float32) / 255
            y, x = 25, 20 + 16 * position
            part = image[y : y + glyph.shape[0], x : x + glyph.shape[1]]
            part += glyph * (255 - part)
        pixels = np.rint(image).astype(np.uint8)
        box = Box(12, 18, 92, 48)
        blurred.append(cv2.GaussianBlur(pixels, (0, 0), 8)[box.slices].ravel())
        filled.append(px.redact(pixels, [box])[0][box.slices].ravel())
    return {"blurred": _ridge(np.array(blurred), truth), "filled": _ridge(np.array(filled), truth)}


def _ridge(features: npt.NDArray[np.uint8], truth: npt.NDArray[np.int64]) -> float:
    cut = len(truth) * 2 // 3
    x = features.astype(np.float64)
    x = np.hstack([(x - x[:cut].mean(axis=0)) / 255, np.ones((len(x), 1))])
    hits = []
    for position in range(truth.shape[1]):
        target = np.eye(10)[truth[:cut, position]]
        weights = np.linalg.solve(x[:cut].T @ x[:cut] + 1e-4 * np.eye(x.shape[1]), x[:cut].T @ target)
        hits.append((x[cut:] @ weights).argmax(axis=1) == truth[cut:, position])
    return round(float(np.mean(hits)), 3)


def main() -> None:
    """Measure what is asked for and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--xrays", type=Path)
    parser.add_argument("--phantoms", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--smallest", type=int, default=12)
    parser.add_argument("--faintest", type=int, default=25)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="take every nth X-ray only")
    parser.add_argument("--corner", type=int, default=0, help="of each X-ray only so many pixels at the lower left")
    parser.add_argument(
        "--oblique", type=int, default=0, metavar="DEGREES", help="phantoms' text 5 to so many degrees off"
    )
    parser.add_argument("--hand", action="store_true", help="phantoms' text as if written by hand")
    parser.add_argument("--tesseract", action="store_true")
    parser.add_argument("--attack", action="store_true")
    chosen = parser.parse_args()
    result: dict[str, Any] = {"engines": redaction.versions()}
    sets: dict[str, Iterator[tuple[Burned, Identity]]] = {}
    if chosen.xrays:
        sets["xrays"] = xrays(chosen.xrays, chosen.start, chosen.every, chosen.corner)
    if chosen.phantoms:
        sets["phantoms"] = phantoms(
            chosen.phantoms,
            seed=chosen.seed,
            size=chosen.size,
            smallest=chosen.smallest,
            faintest=chosen.faintest,
            fonts=(burned_text.HAND,) if chosen.hand else (),
            oblique=chosen.oblique,
        )
    ocr.engines()  # loaded before the first image's time is taken
    for name, cases in sets.items():
        tally = Tally()
        # Memory is kept as a worker keeps it; whoever cannot wait sees what was counted until then.
        with heap.kept(), contextlib.suppress(KeyboardInterrupt):
            for case, identity in cases:
                measure(case, identity, tally, independent=chosen.tesseract)
        result[name] = tally.as_json()
    if chosen.attack:
        result["attack"] = learned_attack()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
