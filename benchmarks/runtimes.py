"""CPU runtimes side by side: parity with the network in floats, and images a second on one core.

`python -m benchmarks.runtimes`; what is not installed is named and left out. The contenders take turns in every repeat.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import images
from benchmarks.contenders import CONTENDERS, Contender, Inputs, Logits, convert
from imaging.refusal import Unreadable
from serve.bundle import Bundle, bundled_keys, bundled_model, load_bundle
from serve.decode import decode
from serve.preprocess import preprocess
from train.dataset import kermany_patient, load_labelled_folder, split_by_group
from train.evaluate import auroc
from train.pretrain import SEED, VALIDATION_SHARE

MAX_FLIPS, MAX_AUROC = 0.005, 0.002
"""Share of triage classes that may change, and difference of AUROC, for a runtime to pass."""
REFERENCE = "tensorflow"
"""The contender that runs the network as it was trained, in floats; others are judged by it."""
CALIBRATION = 200
IN_A_TURN = 32
"""Images that a contender scores in one turn, in batches."""


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, help="how many images; by default all")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--convert", type=Path, help="(inner use) convert the model into this folder")
    options = parser.parse_args()
    bundle = load_bundle(bundled_model(), bundled_keys())
    if options.convert:
        print(json.dumps(convert(bundle, np.load(options.convert / "calibration.npy"), options.convert)))
        return
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(json.dumps(compare(bundle, options.only, options.images, options.batches, options.repeats), indent=1))


def compare(
    bundle: Bundle, names: Sequence[str], count: int | None, batches: Sequence[int], repeats: int
) -> dict[str, Any]:
    """Return parity and speed of contenders on `count` images."""
    pictures = images.load(count)
    inputs = inputs_of(pictures.files)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        left_out = make_artifacts(folder) if set(names) - {"litert", "tensorflow"} else []
        made: dict[str, Contender] = {}
        for contender in (REFERENCE, *[name for name in names if name != REFERENCE]):
            try:
                made[contender] = CONTENDERS[contender](bundle, folder)
            except Exception as error:  # noqa: BLE001 - not installed, not converted, not for this processor
                left_out.append(f"{contender}: {type(error).__name__}: {str(error)[:150]}")
        judged, labels = with_validation(inputs, pictures.labels) if count is None else (inputs, pictures.labels)
        logits = {name: contender(judged) for name, contender in made.items()}
        speeds = race(made, inputs, batches, repeats)
    return {
        "images": pictures.described(),
        "load_average": round(os.getloadavg()[0], 1),
        "repeats": repeats,
        "judged_by": len(judged),
        "left_out": left_out,
        "runtimes": {
            name: {**parity(bundle, logits[REFERENCE], logits[name], labels), "images_per_second": speeds[name]}
            for name in made
        },
    }


def inputs_of(files: Sequence[bytes]) -> Inputs:
    """Return model inputs [n, size, size, 1] of files that must all decode."""
    return np.stack([preprocess(decode(data).pixels) for data in files])


def with_validation(inputs: Inputs, labels: npt.NDArray[np.bool_]) -> tuple[Inputs, npt.NDArray[np.bool_]]:
    """Return inputs and labels with the validation cases added, where these are at hand: of 312 one class is .3 %."""
    folder = images.shared() / "data" / "kermany-train224"
    if not folder.is_dir():
        return inputs, labels
    _, held = split_by_group(load_labelled_folder(folder, "kermany", patient=kermany_patient), VALIDATION_SHARE, SEED)
    return np.concatenate([inputs, held.inputs()]), np.concatenate([labels, held.labels == 1])


def make_artifacts(folder: Path) -> list[str]:
    """Convert the model in a process of its own; return what could not be made."""
    np.save(folder / "calibration.npy", calibration_inputs())
    command = [sys.executable, "-m", "benchmarks.runtimes", "--convert", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


def calibration_inputs() -> Inputs:
    """Return inputs of training images, evenly out of all, or of phantoms where those are not at hand."""
    folder = images.shared() / "data" / "kermany-train224"
    found = sorted(folder.rglob("*.jpeg"))
    if not found:
        return inputs_of(images.phantoms(32).files)
    inputs = []
    for path in found[:: max(len(found) // CALIBRATION, 1)]:
        try:
            inputs.append(preprocess(decode(path.read_bytes()).pixels))
        except Unreadable:
            continue
    return np.stack(inputs)


def race(
    made: dict[str, Contender], inputs: Inputs, batches: Sequence[int], repeats: int
) -> dict[str, dict[str, float]]:
    """Return the median images per second by contender and batch; in every repeat each has its turn."""
    times: dict[tuple[str, int], list[float]] = {(name, batch): [] for name in made for batch in batches}
    for repeat in range(repeats + 1):
        for batch in batches:
            for name, contender in made.items():
                turn = [inputs[at % len(inputs)] for at in range(max(IN_A_TURN, batch))]
                parts = [np.stack(turn[at : at + batch]) for at in range(0, len(turn) - batch + 1, batch)]
                started = time.perf_counter()
                for part in parts:
                    contender(part)
                if repeat:  # the first turn warms up
                    times[name, batch].append((time.perf_counter() - started) / (len(parts) * batch))
    return {name: {str(batch): round(1 / median(times[name, batch]), 1) for batch in batches} for name in made}


def parity(bundle: Bundle, expected: Logits, given: Logits, labels: Any) -> dict[str, Any]:
    """Return how far a contender's results lie from the reference's, and whether it passes."""
    ours, theirs = bundle.calibration.apply(expected), bundle.calibration.apply(given)
    classify = bundle.thresholds.classify
    flips = sum(classify(float(a)) != classify(float(b)) for a, b in zip(ours, theirs, strict=True))
    apart = auroc(labels, given).value - auroc(labels, expected).value
    return {
        "classes_flipped": flips,
        "share_flipped": round(flips / len(ours), 4),
        "auroc_difference": round(apart, 5),
        "largest_difference": round(float(np.abs(ours - theirs).max()), 4),
        "passes": flips <= MAX_FLIPS * len(ours) and abs(apart) <= MAX_AUROC,
    }


if __name__ == "__main__":
    main()
