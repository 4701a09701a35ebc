"""The commands of an administrator: their words, their exit status, and that no secret is shown."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edgerad import ledger, runfile
from edgerad.cli import app
from edgerad.database import Database
from edgerad.ledger import NewImage
from edgerad.records import now
from edgerad.runfile import RunFile
from edgerad.settings import SettingsError, load_settings


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of our own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGERAD_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def run(*arguments: str) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(app, list(arguments))


def program(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as users do."""
    command = [sys.executable, "-m", "edgerad.cli", *arguments]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)


def test_a_wrong_setting_is_one_line_and_status_2(tmp_path: Path) -> None:
    (tmp_path / "edgerad.toml").write_text("[kafka]\npartitions = 'many'\n", encoding="utf-8")
    for command in ("up", "settings"):
        done = program(command)
        assert done.returncode == 2
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("edgerad: setting kafka.partitions (EDGERAD_KAFKA__PARTITIONS in the environment, or")


def test_a_settings_file_that_is_not_there_is_status_2() -> None:
    done = program("--settings", "no.toml", "status")
    assert done.returncode == 2
    assert "no.toml does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_role_is_named() -> None:
    for command in ("up", "status"):
        found = run(command, "--role", "clinic")
        assert isinstance(found.exception, SettingsError)
        assert "setting role" in str(found.exception)


def test_settings_are_shown_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text("hush", encoding="utf-8")
    content = '[kafka]\nsasl_password.file = "password"\n[store]\nregion = "eu-1"\n'
    (tmp_path / "edgerad.toml").write_text(content, encoding="utf-8")
    monkeypatch.setenv("EDGERAD_GATEWAY__TOKEN__VALUE", "sesame")
    monkeypatch.setenv("EDGERAD_DATABASE__URL__VALUE", "postgresql+psycopg://u:hush@db/x")
    found = run("settings")
    assert found.exit_code == 0
    lines = dict(line.split(" = ", 1) for line in found.stdout.splitlines())
    assert lines["store.region"] == "'eu-1'"
    assert lines["gateway.token.value"] == lines["database.url.value"] == "********"
    assert "password" in lines["kafka.sasl_password.file"]
    assert "hush" not in found.stdout
    assert "sesame" not in found.stdout
    assert "core.store.endpoint_url" in lines


def test_status_says_that_nothing_runs_and_that_there_is_no_database() -> None:
    found = run("status")
    assert found.exit_code == 2
    assert "the database cannot be read (OperationalError); is `edgerad up` done once?" in found.stderr


def test_status_tells_figures_also_when_nothing_runs(data_dir: Path) -> None:
    settings = load_settings()
    data_dir.mkdir()
    database = Database(settings.database_url)
    database.upgrade()
    ledger.register(database, [NewImage("xray", "doe^jane.dcm", "e" * 32, None, 9, now(), "sweep")])
    ledger.report(database, "ingest-0", {"lag": 3, "trouble": None})
    database.close()
    found = run("status", "--json")
    assert found.exit_code == 1, "it does not run"
    report = json.loads(found.stdout)
    assert (report["running"], report["state"], report["role"]) == (False, "not running", "both")
    assert report["images"] == {"pending": 1}
    assert report["components"]["ingest-0"]["lag"] == 3
    said = run("status").stdout
    assert said.startswith("edgerad is not running (role both)\n")
    assert "lag 3" in said
    assert "{" not in said, "words, not a program's data"
    assert "doe" not in said


def test_status_tells_where_it_runs(data_dir: Path) -> None:
    data_dir.mkdir()
    database = Database(load_settings().database_url)
    database.upgrade()
    database.close()
    with runfile.claim(data_dir):
        RunFile("both", os.getpid(), now().isoformat(), {"s3": "http://127.0.0.1:1"}, "starting").write(data_dir)
        found = run("status")
        assert found.exit_code == 0
        assert found.stdout.startswith("edgerad is starting (role both)\n")
        assert "s3: http://127.0.0.1:1" in found.stdout
        refused = run("up")
        assert refused.exit_code == 1
        assert f"already runs with these settings (pid {os.getpid()}); `edgerad down` ends it" in refused.stderr


def test_down_where_nothing_runs_is_fine(data_dir: Path) -> None:
    found = run("down")
    assert found.exit_code == 0
    assert "is not running" in found.stdout


def test_up_tells_what_keeps_it_from_starting_and_leaves_nothing(data_dir: Path) -> None:
    free = {f"EDGERAD_{name}__PORT": "0" for name in ("RECEIVER", "GATEWAY", "DASHBOARD")}
    dead = {"EDGERAD_DATABASE__URL__VALUE": "postgresql+psycopg://edgerad:hush@127.0.0.1:9/edgerad"}
    for detach in ((), ("--detach",)):
        done = program("up", *detach, **free, **dead)
        assert done.returncode == 1
        assert "edgerad: setting database.url: " in done.stderr
        assert "127.0.0.1:9/edgerad does not answer (OperationalError)" in done.stderr
        assert "hush" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert runfile.read(data_dir) is None
        assert not (data_dir / "run" / "edgerad.json").exists()
    assert "hush" not in (data_dir / "run" / "edgerad.log").read_text(encoding="utf-8")
