"""Settings: sources, errors that name the key, and the reference in the docs."""

import os
from pathlib import Path

import pytest

from edgerad.commands.settings import render_reference
from edgerad.settings import Settings, SettingsError, load_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no file of whoever runs the tests takes part."""
    for name in [name for name in os.environ if name.startswith("EDGERAD_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_without_any_settings_everything_is_embedded() -> None:
    settings = load_settings()
    assert settings.role == "both"
    assert settings.store.endpoint_url is None
    assert settings.kafka.bootstrap_servers is None
    assert settings.database_url.startswith("sqlite:////")


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edgerad.toml").write_text('role = "edge"\n[ingest]\nbatch_size = 20\nactors = 3\n')
    monkeypatch.setenv("EDGERAD_INGEST__BATCH_SIZE", "24")
    settings = load_settings()
    assert (settings.role, settings.ingest.batch_size, settings.ingest.actors) == ("edge", 24, 3)


def test_a_secret_comes_from_a_file_and_never_shows(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hush-hush\n")
    settings = load_settings(gateway={"token": {"file": tmp_path / "token"}}, store={"secret_key": {"value": "sesame"}})
    assert settings.gateway.token.reveal() == "hush-hush"
    assert settings.store.secret_key.reveal() == "sesame"
    assert "sesame" not in repr(settings)
    assert "hush" not in repr(settings)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("[kafka]\npartitions = 'many'\n", "kafka.partitions"),
        ("[ingest]\nbatchsize = 3\n", "ingest.batchsize"),
        ("[kafka]\nsecurity_protocol = 'SASL_SSL'\n", "kafka"),
        ("role = 'clinic'\n", "role"),
        ("[ship]\nedge_id = 'St. Mary'\n", "ship.edge_id"),
    ],
)
def test_a_wrong_value_is_named_by_its_key(tmp_path: Path, content: str, key: str) -> None:
    (tmp_path / "edgerad.toml").write_text(content)
    with pytest.raises(SettingsError, match=rf"setting {key} \(EDGERAD_.*edgerad\.toml\)"):
        load_settings()


def test_an_unknown_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGERAD_KAFAK__GROUP", "x")
    with pytest.raises(SettingsError, match="EDGERAD_KAFAK__GROUP is no setting"):
        load_settings()


def test_a_missing_or_broken_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("role = = 1")
    with pytest.raises(SettingsError, match="not valid TOML"):
        load_settings(tmp_path / "bad.toml")


@pytest.mark.parametrize("line", ["token.value = 'hush'", "token = 'hush'"])
def test_a_secret_in_the_file_is_refused_without_being_shown(tmp_path: Path, line: str) -> None:
    (tmp_path / "edgerad.toml").write_text(f"[gateway]\n{line}\n")
    with pytest.raises(SettingsError, match="EDGERAD_GATEWAY__TOKEN__VALUE") as caught:
        load_settings()
    assert "hush" not in str(caught.value)


def test_settings_travel_as_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(
        role="edge",
        store={"endpoint_url": "http://127.0.0.1:9", "access_key": {"value": "k"}},
        core={"trusted_keys": ["a", "b"]},
    )
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def test_the_reference_in_the_docs_is_up_to_date() -> None:
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == render_reference(), (
        "run: edgerad settings --reference > docs/settings.md"
    )


def test_every_setting_says_what_it_is() -> None:
    rows = [line for line in render_reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 90
    assert all(row.split("|")[3].strip().endswith(".") and "None" not in row.split("|")[3] for row in rows)
    assert set(Settings.model_fields) <= {word.strip("[]`").split(".")[0] for row in rows for word in row.split()}
