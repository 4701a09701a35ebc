"""`edgerad deidentify` as a user runs it: a line a file, wrong use, files and folders of every kind."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgerad.cli import app
from edgerad.phantom import random_spec, render, to_dicom, to_jpeg
from ship import apart
from ship.deidentify import Clean, Reason
from tests.ship import poisoned_file

SPEC = next(spec for seed in range(60) if (spec := random_spec(seed, size=256)).storage == "DX")
DATA = to_dicom(render(SPEC), private=True)
SECRET = bytes(range(32)).hex()


def run(
    monkeypatch: pytest.MonkeyPatch, place: Path, *arguments: str, secret: str = SECRET
) -> tuple[int, list[dict[str, Any]], str]:
    """Run the command in this process."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("EDGERAD_DATA_DIR", str(place / "data"))
    monkeypatch.setenv("EDGERAD_SHIP__SITE_SECRET__VALUE", secret)
    done = CliRunner().invoke(app, ["deidentify", *arguments])
    lines = [json.loads(line) for line in done.stdout.splitlines()] if done.exit_code == 0 else []
    return done.exit_code, lines, done.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hospital's folder: images under names of patients, something broken, something that is none."""
    root = tmp_path_factory.mktemp("in")
    (root / "Okafor Anna").mkdir()
    (root / "Okafor Anna" / "Okafor_Anna_19530201.dcm").write_bytes(DATA)
    (root / "Marsh.jpg").write_bytes(to_jpeg(render(SPEC)))
    (root / "broken.dcm").write_bytes(DATA[:500])
    (root / "letter.pdf").write_bytes(b"%PDF-1.7")
    (root / "link.dcm").symlink_to(root / "Marsh.jpg")
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture(scope="module")
def cleaned(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, list[dict[str, Any]]]:
    """The command over that folder as a user runs it, once."""
    place = tmp_path_factory.mktemp("run")
    environment = {**os.environ, "EDGERAD_DATA_DIR": str(place), "EDGERAD_SHIP__SITE_SECRET__VALUE": SECRET}
    command = [sys.executable, "-m", "edgerad.cli", "deidentify", str(folder), "out", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=place, check=False)
    return place / "out", done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_the_command_writes_a_line_and_a_clean_copy_or_a_reason_for_each_file(
    folder: Path, cleaned: tuple[Path, int, list[dict[str, Any]]]
) -> None:
    out, code, lines = cleaned
    assert code == 0
    by_name = {Path(line["source"]).name: line for line in lines}
    assert set(by_name) == {"Okafor_Anna_19530201.dcm", "Marsh.jpg", "broken.dcm", "letter.pdf", "link.dcm", "pipe"}
    for name in ("Okafor_Anna_19530201.dcm", "Marsh.jpg"):
        line = by_name[name]
        assert set(line) == {"source", "output", "boxes", "verified"}
        assert line["verified"] is True
        assert Path(line["output"]).is_file()
    for name in ("broken.dcm", "letter.pdf"):
        line = by_name[name]
        assert set(line) == {"source", "quarantined", "reason", "detail", "boxes", "verified"}
        assert (line["quarantined"], line["verified"]) == (True, False)
        assert line["reason"] in {reason.value for reason in Reason}
    assert (by_name["link.dcm"]["reason"], by_name["pipe"]["reason"]) == ("link", "no-file")
    assert {path.suffix for path in out.iterdir()} == {".dcm", ".png"}
    assert len(list(out.iterdir())) == 2


def test_no_name_of_a_file_survives(cleaned: tuple[Path, int, list[dict[str, Any]]]) -> None:
    out, _, _ = cleaned
    for path in out.rglob("*"):
        assert not any(word in str(path.relative_to(out)) for word in ("Okafor", "Anna", "1953", "Marsh"))
        assert b"Okafor" not in path.read_bytes()


def test_the_input_is_untouched(folder: Path, cleaned: tuple[Path, int, list[dict[str, Any]]]) -> None:
    assert (folder / "Okafor Anna" / "Okafor_Anna_19530201.dcm").read_bytes() == DATA
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 5


def test_a_single_file_into_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scan.dcm"
    path.write_bytes(DATA[:500])
    code, lines, _ = run(monkeypatch, tmp_path, str(path), str(tmp_path), "--json")
    assert (code, len(lines), lines[0]["quarantined"]) == (0, 1, True)
    assert path.read_bytes() == DATA[:500]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing-there", "out"), "does not exist"),
        (("scan.dcm", "scan.dcm"), "is a file"),
        (("scan.dcm",), "DST"),
        ((".", "."), "DST is SRC"),
        (("/dev/null", "out"), "neither a file nor a folder"),
        (("scan.dcm", "/dev/null/out"), "cannot be made"),
    ],
)
def test_wrong_use_ends_with_status_2_and_says_what_to_do(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scan.dcm").write_bytes(DATA[:500])
    code, _, output = run(monkeypatch, tmp_path, *arguments)
    assert code == 2
    assert said in output
    assert (tmp_path / "scan.dcm").read_bytes() == DATA[:500]


def test_a_wrong_secret_ends_with_status_2_and_is_not_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scan.dcm").write_bytes(DATA)
    code, _, output = run(monkeypatch, tmp_path, "scan.dcm", "out", "--json", secret="hunter2hunter2")
    assert code == 2
    assert "hunter2" not in output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["in/out", ".", "out"])
def test_a_target_in_the_source_is_not_read_and_a_source_in_the_target_is(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_text: None
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "scan.dcm").write_bytes(DATA)
    for _ in range(2):
        code, lines, _ = run(monkeypatch, tmp_path, "in", target, "--json")
        assert (code, [line["verified"] for line in lines]) == (0, [True])
    assert len([path for path in (tmp_path / target).iterdir() if path.suffix == ".dcm"]) == 1


def test_what_was_not_begun_says_so_in_json_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, output = run(monkeypatch, tmp_path, "nothing-there", "out", "--json")
    assert code == 2
    line = json.loads(output.splitlines()[0])
    assert line["verified"] is False
    assert "does not exist" in line["error"]


def test_a_file_that_cannot_be_read_or_is_too_large_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_text: None
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "in" / name).write_bytes(DATA)
    read = Path.read_bytes

    def denied(path: Path) -> bytes:
        if path.name == "a":
            raise PermissionError
        return read(path)

    with (tmp_path / "in" / "b").open("ab") as file:
        file.truncate(2**31)  # a sparse file
    monkeypatch.setattr(Path, "read_bytes", denied)
    monkeypatch.setenv("EDGERAD_SERVE__MAX_OBJECT_BYTES", str(2**28))
    code, _, output = run(monkeypatch, tmp_path, "in", "out", "--json")
    first, second, third = (json.loads(line) for line in output.splitlines())
    assert code == 1
    assert "cannot be read (PermissionError)" in first["error"]
    assert second["reason"] == "too-large"
    assert third["verified"] is True


@pytest.mark.parametrize("full", [False, True])
def test_a_copy_that_cannot_be_written_is_an_error_and_leaves_nothing(
    full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgerad.commands import deidentify as command

    (tmp_path / "scan.png").write_bytes(b"x")
    out = tmp_path / "out"
    if full:
        out.mkdir()

        def no_space(_: int) -> None:
            raise OSError(28, "no space")

        monkeypatch.setattr(os, "fsync", no_space)
    made = Clean(b"clean", "image/png", "p", {"source": "a" * 64, "boxes": []})
    line = command._one(tmp_path / "scan.png", out, lambda *_: made, 2**20)
    assert "cannot be written" in line["error"]
    assert not full or list(out.iterdir()) == []


def test_a_file_that_ends_the_process_is_quarantined_and_the_rest_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a-crashes", "b-is-killed-once", "c-hangs", "d-prints", "e"):
        (tmp_path / "in" / name).write_bytes(name.encode())
    monkeypatch.setattr(apart, "work", poisoned_file.work)
    monkeypatch.setenv("POISON_FOLDER", str(tmp_path))
    monkeypatch.setenv("EDGERAD_SHIP__IMAGE_TIMEOUT", "5")
    code, lines, _ = run(monkeypatch, tmp_path, "in", "out", "--json")
    assert code == 0
    assert [line.get("reason") for line in lines] == ["engine-crashed", None, "engine-hung", None, None]
    assert [line["verified"] for line in lines] == [False, True, False, True, True]
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert multiprocessing.active_children() == []
