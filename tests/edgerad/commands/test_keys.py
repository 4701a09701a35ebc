"""`edgerad keys`: what it prints at one side is what the other side's settings take."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgerad import keyring
from edgerad.cli import app
from edgerad.settings import load_settings


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["keys", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_what_each_side_prints_the_other_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGERAD_DATA_DIR", str(tmp_path / "edge"))
    monkeypatch.setenv("EDGERAD_ROLE", "edge")
    monkeypatch.setenv("EDGERAD_SHIP__EDGE_ID", "st-mary")
    edge = json.loads(run("show", "--json"))
    assert list(edge) == ["at the core"]
    monkeypatch.setenv("EDGERAD_DATA_DIR", str(tmp_path / "core"))
    monkeypatch.setenv("EDGERAD_ROLE", "core")
    core = tomllib.loads(run("show"))["core"]

    at_core = load_settings(core={"edge_keys": [edge["at the core"]["core.edge_keys"]]})
    keyring.check(at_core)
    at_edge = load_settings(role="edge", data_dir=tmp_path / "edge", core=core)
    keyring.check(at_edge)
    own = keyring.load_signing_key(keyring.edge_key(at_edge), "ship.signing_key").public_key().public_bytes_raw()
    assert keyring.edge_public_keys(at_core) == {"st-mary": (own,)}
    assert keyring.trusted_cores(at_edge)
    assert keyring.sealing_key(at_edge)
    for folder in ("edge", "core"):
        private = [path.read_text() for path in (tmp_path / folder / "keys").iterdir()]
        assert private
        assert not any(line in str((edge, core)) for text in private for line in text.splitlines()[1:2])


def test_a_new_key_is_printed_and_one_of_the_settings_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGERAD_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("EDGERAD_ROLE", "core")
    before = json.loads(run("show", "--json"))["at each edge"]
    after = tomllib.loads(run("rotate"))["core"]
    assert after["parcel_public_key"] != before["core.parcel_public_key"]
    assert after["trusted_keys"] == [before["core.trusted_keys"]]
    assert len(keyring.opening_keys(load_settings())) == 2
    monkeypatch.setenv("EDGERAD_CORE__PARCEL_KEY__VALUE", keyring.parcel_key())
    result = CliRunner().invoke(app, ["keys", "rotate"])
    assert (result.exit_code, "parcel_key_before" in result.stderr) == (1, True)
