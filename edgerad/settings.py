"""Typed settings: one TOML file plus EDGERAD_… environment variables; every key is documented in docs/settings.md."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from edgerad.sections import (
    CoreSettings,
    DashboardSettings,
    DatabaseSettings,
    EmbeddedStoreSettings,
    GatewaySettings,
    IngestSettings,
    KafkaSettings,
    NotifySettings,
    RaySettings,
    ReceiverSettings,
    Secret,
    ServeSettings,
    ShipSettings,
    StoreSettings,
    TelemetrySettings,
    TrainSettings,
)

Role = Literal["edge", "core", "both"]


class SettingsError(Exception):
    """A missing or wrong setting; the text names its key, where it was looked for and what would be right."""


class Settings(BaseSettings):
    """All settings; with none at all, both roles run on one machine with embedded parts."""

    model_config = SettingsConfigDict(
        env_prefix="EDGERAD_", env_nested_delimiter="__", extra="forbid", frozen=True, env_ignore_empty=True
    )

    role: Role = Field("both", description="edge, core, or both on one machine.")
    data_dir: Path = Field(Path("var/edgerad"), description="Folder for embedded parts, keys and run files.")
    finding: str = Field(
        "pneumonia", description="Finding to score: its model ships in models/NAME or comes from the registry."
    )
    ray: RaySettings = RaySettings()
    store: StoreSettings = StoreSettings()
    embedded_store: EmbeddedStoreSettings = EmbeddedStoreSettings()
    kafka: KafkaSettings = KafkaSettings()
    database: DatabaseSettings = DatabaseSettings()
    ingest: IngestSettings = IngestSettings()
    receiver: ReceiverSettings = ReceiverSettings()
    gateway: GatewaySettings = GatewaySettings()
    serve: ServeSettings = ServeSettings()
    notify: NotifySettings = NotifySettings()
    ship: ShipSettings = ShipSettings()
    core: CoreSettings = CoreSettings()
    train: TrainSettings = TrainSettings()
    dashboard: DashboardSettings = DashboardSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @property
    def is_edge(self) -> bool:
        """Whether this process does the edge's work."""
        return self.role in {"edge", "both"}

    @property
    def is_core(self) -> bool:
        """Whether this process does the core's work."""
        return self.role in {"core", "both"}

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the database; a secret where it holds a password."""
        return self.database.url.reveal() or f"sqlite:///{(self.data_dir / 'edgerad.db').absolute()}"

    def environment(self) -> dict[str, str]:
        """Return these settings as EDGERAD_… variables, for the processes of one machine; holds secrets."""
        return dict(_variables("EDGERAD", self))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, the environment over the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(path: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings from `path` (else EDGERAD_SETTINGS, else ./edgerad.toml if there), environment, overrides.

    Raises SettingsError with one line per wrong key: its name, its source and what would be right.
    """
    named = path or (Path(os.environ["EDGERAD_SETTINGS"]) if "EDGERAD_SETTINGS" in os.environ else None)
    if named and not named.is_file():
        msg = f"settings file {named} does not exist; create it (docs/settings.md lists every key) or drop --settings"
        raise SettingsError(msg)
    file = named or Path("edgerad.toml")

    known = {name.upper() for name in Settings.model_fields} | {"SETTINGS", "SHARED"}
    for variable in os.environ:
        if variable.startswith("EDGERAD_") and variable.removeprefix("EDGERAD_").split("__")[0] not in known:
            msg = f"environment variable {variable} is no setting of edgerad; see docs/settings.md or unset it"
            raise SettingsError(msg)

    _refuse_secrets_in(file)

    class _Settings(Settings):
        model_config = SettingsConfigDict(toml_file=file, title="Settings")

    try:
        loaded = _Settings(**overrides)
        return Settings.model_construct(**{name: getattr(loaded, name) for name in Settings.model_fields})
    except ValidationError as error:
        raise SettingsError(_explain(error, file)) from None


def _refuse_secrets_in(file: Path) -> None:
    if not file.is_file():
        return
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"settings file {file} is not valid TOML: {error}"
        raise SettingsError(msg) from None

    def walk(section: type[BaseModel], table: Any, path: str) -> None:
        for name, field in section.model_fields.items():
            kind, value = field.annotation, table.get(name) if isinstance(table, dict) else None
            if kind is Secret and value is not None and (not isinstance(value, dict) or "value" in value):
                variable = "EDGERAD_" + f"{path}{name}.value".replace(".", "__").upper()
                msg = f"setting {path}{name} in {file}: a secret never stands in the settings file; "
                raise SettingsError(msg + f"write {name}.file = PATH, or set {variable} in the environment")
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                walk(kind, value, f"{path}{name}.")

    walk(Settings, content, "")


def _variables(prefix: str, section: BaseModel) -> Iterator[tuple[str, str]]:
    for name, value in section:
        variable = f"{prefix}_{name.upper()}" if prefix == "EDGERAD" else f"{prefix}__{name.upper()}"
        if isinstance(value, BaseModel):
            yield from _variables(variable, value)
        elif isinstance(value, SecretStr):
            yield variable, value.get_secret_value()
        elif isinstance(value, tuple):
            yield variable, json.dumps(value)
        elif value is not None:
            yield variable, str(value)


def _explain(error: ValidationError, file: Path) -> str:
    lines = []
    for item in error.errors(include_input=False, include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        variable = "EDGERAD_" + "__".join(str(part).upper() for part in item["loc"])
        what = "no such setting" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
        lines.append(f"setting {key} ({variable} in the environment, or {file}): {what}; see docs/settings.md")
    return "\n".join(lines)
