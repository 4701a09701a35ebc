"""The model card: figures as the bundle holds them, goals judged by them, and nothing claimed that was not measured."""

from __future__ import annotations

import pytest

from serve.bundle import Bundle, Manifest, bundled_keys, bundled_model, load_bundle
from train.card import MAX_FRAME_AUROC, model_card


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The shipped bundle."""
    return load_bundle(bundled_model(), bundled_keys())


def changed(bundle: Bundle, **parts: object) -> str:
    """The card of the bundle with other parts in its manifest."""
    manifest = Manifest.model_validate({**bundle.manifest.model_dump(), **parts})
    return model_card(Bundle(bundle.path, manifest, bundle.digest, bundle.key_id))


def test_the_card_holds_what_a_hospital_asks_for(bundle: Bundle) -> None:
    card = model_card(bundle)
    assert "Not a medical device. Trained on children's chest X-rays" in card
    for part in (bundle.digest, "CC BY 4.0", "doi:10.17632/rscbjbr9sj", "Intended use", "What was tried", "Limits"):
        assert part in card
    for name in ("auroc", "accuracy", "sensitivity", "specificity"):
        figure = bundle.manifest.metrics["test"][name]
        assert f"{figure['value']:.3f} ({figure['low']:.3f}–{figure['high']:.3f})" in card
    for name in bundle.manifest.probes["test"]["invariances"]:
        assert f"| {name} |" in card
    assert model_card(bundle) == card


def test_goals_are_judged_by_the_figures(bundle: Bundle) -> None:
    metrics = bundle.manifest.model_dump()["metrics"]
    metrics["test"]["accuracy"]["value"] = 0.9449
    card = changed(bundle, metrics=metrics)
    assert "accuracy at least 0.945: 0.945, **not met**" in card
    metrics["test"]["accuracy"]["value"] = 0.945
    assert "accuracy at least 0.945: 0.945, **met**" in changed(bundle, metrics=metrics)


def test_shortcuts_are_judged_by_the_figures(bundle: Bundle) -> None:
    probes = bundle.manifest.model_dump()["probes"]
    probes["test"]["frame_only"]["auroc"] = 0.9
    probes["test"]["correlations"]["width"] = {"normal": -0.16, "abnormal": 0.01}
    probes["test"]["invariances"] = {
        "still": {"median": 0.02, "p95": 0.1, "flips": 0.02},
        "restless": {"median": 0.001, "p95": 0.1, "flips": 0.03},
    }
    card = changed(bundle, probes=probes)
    assert f"AUROC 0.900 (at most {MAX_FRAME_AUROC}: **not met**)" in card
    assert "normal -0.16, abnormal +0.01 (at most 0.15 in size: **not met**)" in card
    assert "| still | 0.020 | 0.100 | 2.0% | met |" in card
    assert "| restless | 0.001 | 0.100 | 3.0% | **not met** |" in card


def test_thresholds_are_judged_by_the_figures(bundle: Bundle) -> None:
    probes = bundle.manifest.model_dump()["probes"]
    used = bundle.thresholds
    probes["test"]["thresholds"] = [
        {"low": used.low, "high": used.high, "unknown": 0.15, "caught": 0.6, "low_wrong": 0.02, "high_wrong": None},
        {"low": 0.41, "high": 0.80, "unknown": 0.151, "caught": 0.9, "low_wrong": 0.1, "high_wrong": 0.0},
        {"low": 0.42, "high": 0.80, "unknown": 0.1, "caught": None, "low_wrong": 0.1, "high_wrong": 0.0},
    ]
    card = changed(bundle, probes=probes)
    assert f"| **{used.low:.2f}** | **{used.high:.2f}** | 15.0% | 60.0% | 2.0% | – | met |" in card
    assert "| 0.41 | 0.80 | 15.1% | 90.0% | 10.0% | 0.0% | **not met** |" in card
    assert "| 0.42 | 0.80 | 10.0% | – | 10.0% | 0.0% | **not met** |" in card


def test_width_is_told_apart_into_resolution_and_content(bundle: Bundle) -> None:
    probes = bundle.manifest.model_dump()["probes"]
    still = {"median": 0.003, "p95": 0.05, "flips": 0.013}
    probes["test"]["width_alone"] = {
        "columns": 112,
        "widths": [912, 2100],
        "equal": {"normal": -0.41, "abnormal": -0.3, "shift": still},
        "drawn": {"normal": 0.02, "abnormal": -0.04, "shift": still},
    }
    card = changed(bundle, probes=probes)
    assert "width given is normal +0.02, abnormal -0.04; a probability moves by 0.003 in the median, and 1.3%" in card
    assert "the correlation with the width that it had is normal -0.41, abnormal -0.30" in card


def test_what_was_not_measured_is_said(bundle: Bundle) -> None:
    card = changed(bundle, probes={}, metrics={})
    assert "Not measured for this bundle" in card
    assert "None were measured" in card
    assert "## Thresholds\n\nNot measured" in card
    assert "Against what was set out" not in card
