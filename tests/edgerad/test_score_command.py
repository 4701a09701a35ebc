"""`edgerad score` as a user runs it: one line a file, errors with a reason, an exit status that can be relied on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgerad.cli import app
from edgerad.phantom import bad_inputs, random_spec, render, to_dicom, to_jpeg
from edgerad.phantom.files import write_set
from serve.shelf import bundled_digest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good files in a sub-folder with a space in its name, tables and hidden files beside them, and bad ones."""
    root = tmp_path_factory.mktemp("files")
    phantom = render(random_spec(31, finding="consolidation", severity=1.0, size=320))
    good = root / "ward 7" / "erste Aufnahme"
    good.mkdir(parents=True)
    (good / "Müller, J. (2).dcm").write_bytes(to_dicom(phantom))
    (good / "thorax.jpeg").write_bytes(to_jpeg(phantom))
    (good / "labels.csv").write_text("file,label\n")
    (good / ".thumbnail.jpeg").write_bytes(to_jpeg(phantom))
    (root / ".cache").mkdir()
    (root / ".cache" / "x.jpeg").write_bytes(to_jpeg(phantom))
    bad_inputs(root / "bad")
    return root


def run(*arguments: object) -> tuple[int, list[dict[str, Any]], str]:
    """Run the command in this process; return status, JSON lines, standard error."""
    done = CliRunner().invoke(app, ["score", "--json", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_the_program_prints_one_json_line_a_file_and_nothing_else(folder: Path) -> None:
    """As installed, in a process of its own, with a relative path that has spaces."""
    program = Path(sys.executable).parent / "edgerad"
    done = subprocess.run(
        [program, "score", "ward 7", "--json"], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["file"] for row in rows] == [
        "ward 7/erste Aufnahme/Müller, J. (2).dcm",
        "ward 7/erste Aufnahme/thorax.jpeg",
    ]
    for row in rows:
        assert 0 <= row["probability"] <= 1
        assert row["triage"] in {"high", "unknown", "low"}
        assert row["model"] == bundled_digest("pneumonia")
        assert row["calibration"]
        assert row["thresholds"]
        assert row["finding"] == "pneumonia"
        assert "error" not in row
    assert "Müller" not in done.stderr


def test_what_cannot_be_judged_has_an_error_in_the_place_of_a_probability(folder: Path) -> None:
    status, rows, _ = run(folder / "bad")
    assert status == 3
    by_name = {Path(row["file"]).name: row for row in rows}
    reasons = {name: row.get("reason") for name, row in by_name.items()}
    assert (
        reasons.items()
        >= {
            "ct.dcm": "not-a-radiograph",
            "truncated.dcm": "truncated",
            "truncated-header.dcm": "no-pixels",
            "truncated.jpeg": "truncated",
            "empty.dcm": "empty",
            "empty.jpeg": "empty",
            "huge.jpeg": "too-large",
            "blank.dcm": "blank",
            "blank.jpeg": "blank",
            "black.jpeg": "blank",
            "noise.jpeg": "noise",
            "photo.jpeg": "colour",
            "hand.jpeg": "other-view",
            "text.dcm": "unsupported",
        }.items()
    )
    for row in rows:
        assert "probability" not in row
        assert row["error"].startswith(row["reason"] + ": ")
        assert row["advice"].endswith(".")


def test_named_files_keep_their_order_and_a_missing_one_is_an_error_of_its_own(folder: Path) -> None:
    good = folder / "ward 7" / "erste Aufnahme"
    table = good / "labels.csv"
    status, rows, _ = run(good / "thorax.jpeg", folder / "nothing.dcm", table, good / "Müller, J. (2).dcm")
    assert status == 3
    assert [Path(row["file"]).name for row in rows] == [
        "thorax.jpeg",
        "nothing.dcm",
        "labels.csv",
        "Müller, J. (2).dcm",
    ]
    assert [row.get("reason") for row in rows] == [None, "not-found", "unsupported", None]


def test_a_file_named_twice_is_scored_the_same_twice(folder: Path) -> None:
    good = folder / "ward 7" / "erste Aufnahme" / "thorax.jpeg"
    status, rows, _ = run(good, good)
    assert status == 0
    assert rows[0] == rows[1]


def test_batches_keep_every_file_in_its_place(tmp_path: Path) -> None:
    """More files than two batches, a bad one in each."""
    records = write_set(tmp_path, 36, seed=5, size=220)
    for number in (3, 17, 33):
        (tmp_path / f"bad-{number}.jpeg").write_bytes(b"")
    status, rows, _ = run(tmp_path)
    assert status == 3
    assert len(rows) == 39
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    assert sum(row.get("reason") == "empty" for row in rows) == 3
    alone = str(tmp_path / records[7].file)
    assert run(alone)[1] == [row for row in rows if row["file"] == alone]


def test_nothing_to_do_is_said_and_is_status_two(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing")
    status, rows, said = run(tmp_path)
    assert (status, rows) == (2, [])
    assert "no files" in said


def test_a_model_that_must_not_be_used_is_said_and_is_status_two(folder: Path, tmp_path: Path) -> None:
    status, rows, said = run(folder / "ward 7", "--model", tmp_path)
    assert (status, rows) == (2, [])
    assert "no model bundle" in said
    assert "Traceback" not in said


def test_people_get_a_table_with_advice(folder: Path) -> None:
    done = CliRunner().invoke(app, ["score", str(folder / "ward 7"), str(folder / "bad" / "empty.dcm")])
    assert done.exit_code == 3
    assert "not judged" in done.stdout
    assert "Send it again" in done.stdout
    assert "2 of 3 files judged (pneumonia, model " in done.stdout
