"""A secret that is set and holds nothing is an error, whichever it is: nobody means a secret that everybody knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr

from edgerad import keyring
from edgerad.preflight import check_settings
from edgerad.sections import EmptySecret, Secret
from edgerad.settings import Settings, SettingsError, load_settings


def secrets(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the key of every secret of the settings."""
    for name, field in section.model_fields.items():
        if field.annotation is Secret:
            yield f"{prefix}{name}"
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from secrets(field.annotation, f"{prefix}{name}.")


SECRETS = sorted(secrets(Settings))


def test_all_secrets_are_looked_at() -> None:
    assert {"gateway.token", "store.secret_key", "core.store.access_key", "ship.site_secret", "database.url"} <= set(
        SECRETS
    )


@pytest.mark.parametrize("content", ["", "\n", " \t\r\n\v"])
@pytest.mark.parametrize("key", SECRETS)
def test_an_empty_file_is_named_with_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, content: str
) -> None:
    file = tmp_path / "secret"
    file.write_text(content, encoding="utf-8")
    monkeypatch.setenv(f"EDGERAD_{key.replace('.', '__').upper()}__FILE", str(file))
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert f"setting {key} " in str(refused.value)
    assert f"the file {file} is empty" in str(refused.value)


def test_white_space_in_the_environment_is_no_secret_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGERAD_GATEWAY__TOKEN__VALUE", "  ")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert "setting gateway.token " in str(refused.value)
    assert "the secret is empty" in str(refused.value)


def test_a_secret_is_revealed_as_it_is_and_none_is_none(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(" sesame\n", encoding="utf-8")
    assert Secret(file=file).reveal() == "sesame"
    assert Secret(value=SecretStr("open sesame ")).reveal() == "open sesame "
    assert Secret().reveal() is None
    with pytest.raises(ValueError, match="the secret is empty"):
        Secret(value=SecretStr(""))
    secret = Secret(file=file)
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(EmptySecret):
        secret.reveal()


def test_a_file_that_cannot_be_read_is_told_of_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGERAD_GATEWAY__TOKEN__FILE", str(tmp_path / "missing"))
    with pytest.raises(SettingsError, match=r"setting gateway\.token\.file"):
        check_settings(load_settings())


def test_a_key_that_edgerad_made_and_that_is_empty_now_is_named(tmp_path: Path) -> None:
    file = keyring.ensure(Secret(), tmp_path, "gateway-token").file
    assert file is not None
    file.write_text("", encoding="utf-8")
    with pytest.raises(SettingsError, match="gateway-token is empty"):
        keyring.ensure(Secret(), tmp_path, "gateway-token")
