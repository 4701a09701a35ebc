"""`edgerad calibrate` as a user runs it: look, refit, take back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from edgerad.cli import app
from edgerad.database import Database
from edgerad.records import Assessment, Image, Review
from serve.bundle import bundled_keys, bundled_model, load_bundle
from serve.calibrate import sigmoid
from serve.shelf import bundled_digest

BUNDLED = load_bundle(bundled_model(), bundled_keys()).calibration


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder; the working directory has no settings file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGERAD_DATA_DIR", str(tmp_path))
    return tmp_path


def write_readings(folder: Path, count: int, b: float) -> None:
    """Write images that the shipped model scored and a person read; the truth is the calibrated logit moved by `b`."""
    database = Database(f"sqlite:///{folder / 'edgerad.db'}")
    database.upgrade()
    rng = np.random.default_rng(5)
    with database.write() as session:
        for number in range(count):
            logit = float(rng.normal(0, 3))
            positive = bool(rng.random() < sigmoid(BUNDLED.a * logit + BUNDLED.b + b))
            name = f"{number}"
            session.add(Image(image_id=name, bucket="x", key=name, source="test", state="assessed", header={}))
            session.flush()
            session.add(
                Assessment(
                    assessment_id=name, image_id=name, finding="pneumonia", probability=0.5, logit=logit,
                    triage="unknown", model_digest=bundled_digest("pneumonia"), calibration_version=BUNDLED.version,
                    threshold_version="t", runtime="litert", seconds=0.0,
                )
            )  # fmt: skip
            session.flush()
            verdict = "positive" if positive else "negative"
            session.add(Review(image_id=name, assessment_id=name, verdict=verdict, reviewer="P", source="person"))
    database.close()


def run(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run the command; return status, its JSON, standard error."""
    done = CliRunner().invoke(app, ["calibrate", "--json", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return done.exit_code, json.loads(done.stdout) if done.stdout else {}, done.stderr


def test_a_site_that_differs_is_refitted_and_taken_back(folder: Path) -> None:
    write_readings(folder, 150, b=-2.0)
    status, seen, _ = run("--show")
    assert status == 0
    assert seen["better"] is True
    assert seen["history"] == []
    assert seen["in_service"] == BUNDLED.version, "looking changes nothing"
    rows = {(row["low"], row["high"]): row for row in seen["thresholds"]}
    assert rows[0.2, 0.8]["unknown"] > rows[0.4, 0.8]["unknown"]
    assert 0 < rows[0.2, 0.8]["caught"] <= rows[0.05, 0.8]["caught"] <= 1
    table = CliRunner().invoke(app, ["calibrate", "--show"]).stdout
    assert "of the errors" in table
    assert f"{rows[0.2, 0.8]['unknown']:.1%}" in table
    status, done, _ = run("--person", "Dr. P")
    assert (status, done["in_service"]) == (0, "edge/1")
    assert done["refit"]["b"] < -1
    assert done["loss_refit"] < done["loss_now"]
    status, _, _ = run("--person", "Dr. P", "--revert", "bundle")
    assert status == 0
    assert run("--show")[1]["in_service"] == BUNDLED.version
    assert run("--person", "Dr. P", "--revert", "edge/1")[0] == 0
    history = run("--show")[1]["history"]
    assert [(row["version"], row["by"]) for row in history] == [
        ("edge/1", "person:Dr. P"),
        ("bundle", "person:Dr. P"),
        ("edge/1", "person:Dr. P"),
    ]


def test_a_refit_that_is_not_better_changes_nothing_unless_forced(folder: Path) -> None:
    write_readings(folder, 120, b=0.0)
    status, seen, _ = run("--person", "Dr. P")
    assert (status, seen["better"], seen["in_service"]) == (3, False, BUNDLED.version)
    assert run("--person", "Dr. P", "--force")[1]["in_service"] == "edge/1"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "say who decides"),
        (["--person", "  "], "say who decides"),
        (["--person", "x" * 58], "say who decides"),
        (["--person", "Dr. P"], "30 readings; at least 100"),
        (["--person", "Dr. P", "--revert", "edge/4"], "no calibration edge/4"),
    ],
)
def test_what_cannot_be_done_is_said(folder: Path, arguments: list[str], says: str) -> None:
    write_readings(folder, 30, b=0.0)
    status, seen, said = run(*arguments)
    assert (status, seen) == (2, {})
    assert says in said
