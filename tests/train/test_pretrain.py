"""Training the shipped model anew, on a scale of minutes: data in, a signed bundle with figures and probes out."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgerad.phantom import random_spec, render
from serve.bundle import BundleError, load_bundle, read_trusted_keys
from serve.runtimes import make_runtime
from tests.train.tiny import SIDE, build_tiny
from train import architecture
from train.card import model_card
from train.export import DEFAULT_THRESHOLDS
from train.fit import FitConfig
from train.framing import IDENTITY, FramingConfig
from train.pretrain import (
    RECIPE,
    Recipe,
    Stage,
    choose_thresholds,
    load_training,
    pretrain,
    subgroups,
    with_poses,
)


def write_images(folder: Path, count: int, seed: int) -> Path:
    """Write phantoms as a labelled folder of JPEG files, named as Kermany's are."""
    for number in range(count):
        phantom = render(random_spec((seed, number), positive=number % 2 == 1, size=256))
        name = f"person{number}_bacteria_{number}.jpeg" if number % 2 else f"IM-{number:04d}-0001.jpeg"
        path = folder / phantom.spec.label / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), phantom.pixels >> (phantom.spec.bits - 8))
    return folder


def test_no_patient_and_no_phantom_is_both_trained_on_and_held_out(tmp_path: Path) -> None:
    write_images(tmp_path, 40, 61)
    training, validation, held_out = load_training(tmp_path, Recipe(phantoms=6, held_out=2))
    assert len(training) + len(validation) == 46
    assert len(validation) > 0
    assert set(held_out) == {"phantom-standard", "phantom-portable", "phantom-legacy-cr"}
    pixels = {grid.tobytes() for grid in training.grids}
    for cases in (validation, *held_out.values()):
        assert not set(cases.groups) & set(training.groups[:40])
        assert not pixels & {grid.tobytes() for grid in cases.grids}
    assert training.lesions is not None
    assert not training.lesions[: len(training) - 6].any(), "nobody knows where the lesions of real images lie"


def test_subgroups_are_counted_by_what_the_names_and_the_widths_tell() -> None:
    names = ["IM-1.jpeg", "IM-2.jpeg", "person1_virus_1.jpeg", "person2_bacteria_1.jpeg"]
    found = subgroups(names, np.array([0, 0, 1, 1]), [2000, 1000, 900, 1500], np.array([True, False, True, True]))
    counted = {name: (row["cases"], row["right"]["value"]) for name, row in found.items()}
    assert counted == {
        "normal, narrow": (1, 0.0), "normal, wide": (1, 1.0), "abnormal, narrow": (1, 1.0), "abnormal, wide": (1, 1.0),
        "bacterial": (1, 1.0), "viral": (1, 1.0),
    }  # fmt: skip


@pytest.mark.tf
def test_a_bundle_comes_out_whose_figures_card_and_key_are_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The network itself is tested elsewhere; a small one shows the same of what is around it in a tenth of the time.
    monkeypatch.setattr(architecture, "build_model", lambda size, seed: build_tiny(seed))
    monkeypatch.setattr(architecture, "load_imagenet", lambda model, path: 0)
    data, test = write_images(tmp_path / "data", 40, 62), write_images(tmp_path / "test", 8, 63)
    short = FitConfig(epochs=1, batch_size=16)
    stages = {"learn": Stage(replace(short, map_weight=0.0), input_size=SIDE), "harden": Stage(short, input_size=SIDE)}
    framing = FramingConfig(epochs=1, batch_size=16)
    recipe = Recipe(phantoms=8, held_out=6, framing=framing, stages=stages)
    said: list[str] = []
    out = tmp_path / "models" / "pneumonia"
    made = pretrain(
        data, tmp_path / "weights.npz", out, test=test, state=tmp_path / "state", recipe=recipe, say=said.append
    )
    keys = read_trusted_keys(out.parent / "trusted-keys.json")
    bundle = load_bundle(out, keys)
    assert bundle.digest == made.digest
    with pytest.raises(BundleError, match="not trusted"):
        load_bundle(out, {})
    make_runtime("litert", bundle)
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"framing.npz", "learn.npz", "harden.npz"}

    manifest = bundle.manifest
    assert manifest.training.sources["kermany"] < 40, "some patients are held out"
    assert manifest.training.config["harden"]["fit"]["epochs"] == 1
    assert manifest.training.config["framing"]["epochs"] == 1
    spent = {"seconds": 0.0, "cpu_seconds": 0.0}
    for name in ("framing", *stages):
        with np.load(tmp_path / "state" / f"{name}.npz") as kept:
            spent = {part: value + float(kept[part].sum()) for part, value in spent.items()}
    assert manifest.training.seconds >= spent["seconds"] - 0.1
    assert manifest.training.cpu_seconds is not None
    assert manifest.training.cpu_seconds >= spent["cpu_seconds"] - 0.1
    assert set(manifest.metrics) == {
        "validation", "test", "phantom-standard", "phantom-portable", "phantom-legacy-cr",
    }  # fmt: skip
    assert manifest.metrics["test"]["cases"] == 8
    assert "width" in manifest.probes["test"]["correlations"]
    assert "kernel: bilinear" in manifest.probes["test"]["invariances"]
    assert "width" not in manifest.probes["validation"]["correlations"]
    assert set(manifest.probes["test"]["width_alone"]) == {"equal", "drawn", "columns", "widths"}
    assert manifest.probes["test"]["thresholds"]
    told = (
        f"slope {manifest.calibration.a:.3f}, thresholds {manifest.thresholds.version}, chosen on the validation cases"
    )
    assert told in said
    assert manifest.calibration.b == 0, "what it takes for even odds is the network's"
    assert manifest.probes["test"]["subgroups"]["bacterial"]["cases"] == 4
    card = model_card(bundle)
    assert bundle.digest in card
    assert f"{manifest.metrics['test']['auroc']['value']:.3f}" in card
    assert any(line.startswith("test: ") and json.loads(line.removeprefix("test: ")) for line in said)

    with pytest.raises(FileExistsError, match="immutable"):
        pretrain(data, tmp_path / "weights.npz", out, recipe=recipe)


def test_framing_that_was_found_is_not_looked_for_again(tmp_path: Path) -> None:
    write_images(tmp_path, 8, 61)
    training, _, _ = load_training(tmp_path, Recipe(phantoms=0, held_out=1))
    state = tmp_path / "state"
    state.mkdir()
    poses = np.tile(IDENTITY, (len(training), 1, 1))
    np.savez(state / "framing.npz", poses=poses, seconds=3.0, cpu_seconds=4.0)
    framed, seconds, cpu_seconds = with_poses(training, FramingConfig(), state, lambda line: None)
    assert framed.poses is not None
    np.testing.assert_array_equal(framed.poses, poses)
    assert (seconds, cpu_seconds) == (3.0, 4.0)
    assert Stage(FitConfig(), phantoms=0).cases(framed).poses is not None, "a stage's cases keep theirs"
    np.savez(state / "framing.npz", poses=poses[1:], seconds=3.0, cpu_seconds=4.0)
    with pytest.raises(ValueError, match="lengths"):
        with_poses(training, FramingConfig(), state, lambda line: None)


def test_thresholds_are_chosen_by_the_errors_that_they_catch() -> None:
    """Of four errors three must be unknown: those at 0.12, 0.22, 0.32, not the one at 0.02; so 0.10 is low enough."""
    labels = np.array([1, 1, 1, 1] + [0] * 10 + [1] * 10)
    probabilities = np.concatenate([[0.02, 0.12, 0.22, 0.32], np.full(10, 0.01), np.full(10, 0.95)])
    chosen = choose_thresholds(labels, probabilities)
    assert (chosen.version, chosen.high, chosen.low) == ("0.80-0.10/1", 0.80, 0.10)
    probabilities[2] = 0.03
    assert choose_thresholds(labels, probabilities) == DEFAULT_THRESHOLDS, "no pair catches three of the four"
    assert choose_thresholds([0, 1], [0.1, 0.9]) == DEFAULT_THRESHOLDS, "nothing was wrong"


def test_the_shipped_recipe_learns_first_and_then_unlearns_what_is_no_evidence() -> None:
    learn, harden = RECIPE.stages.values()
    assert list(RECIPE.stages) == ["learn", "harden"]
    assert learn.augment.frame_only == learn.augment.foreign_frame == learn.augment.spectrum == 0
    assert min(harden.augment.frame_only, harden.augment.foreign_frame, harden.augment.spectrum) > 0
    assert learn.augment.coarsest > harden.augment.coarsest
    assert learn.fit.map_weight == learn.fit.agreement == 0 < min(harden.fit.map_weight, harden.fit.agreement)


def test_a_stage_takes_all_that_is_real_and_the_first_of_the_phantoms(tmp_path: Path) -> None:
    write_images(tmp_path, 20, 61)
    training, _, _ = load_training(tmp_path, Recipe(phantoms=6, held_out=2))
    sources = [source.startswith("phantom/") for source in Stage(FitConfig(), phantoms=4).cases(training).sources]
    assert (sources.count(False), sources.count(True)) == (len(training) - 6, 4)
    assert Stage(FitConfig(), phantoms=4).cases(training).groups == training.groups[:-2]
    assert Stage(FitConfig()).cases(training) is training
