"""`edgerad settings`: the effective settings, or the reference of all of them (docs/settings.md is its output)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_origin

import typer
from pydantic import BaseModel, SecretStr

from edgerad.sections import Secret
from edgerad.settings import Settings, load_settings


def show(
    reference: Annotated[bool, typer.Option(help="Print the reference of all settings, as Markdown.")] = False,
) -> None:
    """Print the effective settings, secrets masked."""
    if reference:
        typer.echo(render_reference(), nl=False)
        return
    for key, value in _values(load_settings()):
        typer.echo(f"{key} = {value}")


def _values(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in section:
        if isinstance(value, BaseModel):
            yield from _values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "********" if isinstance(value, SecretStr) else repr(value)


def render_reference() -> str:
    """Return the Markdown reference of every setting: key, variable, default, meaning."""
    lines = [
        "# Settings",
        "",
        "Written by `edgerad settings --reference`; a test fails when it is out of date. Keys go into `edgerad.toml`",
        "(or the file named by `--settings` or `EDGERAD_SETTINGS`), a table per section; each is also an environment",
        "variable, which wins: `EDGERAD_` + section + `__` + key, in capitals. A secret is given by `…__VALUE` in the",
        "environment only, or by `….file`, the path of a file that holds nothing else. An unknown key is an error.",
        "",
        "| key | default | meaning |",
        "|---|---|---|",
        *_top_level(),
    ]
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            lines += ["", f"## `[{name}]`", "", (section.__doc__ or "").strip(), ""]
            lines += ["| key | default | meaning |", "|---|---|---|"]
            lines += list(_rows(section, f"{name}.", field.default))
    return "\n".join(lines) + "\n"


def _top_level() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            yield _row(name, field.default, field.description)


def _rows(section: type[BaseModel], prefix: str, defaults: Any) -> Iterator[str]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        default = getattr(defaults, name, field.default)
        if kind is Secret:
            yield _row(f"{prefix}{name}.value`, `.file", "none", field.description)
        elif isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, BaseModel):
            yield from _rows(kind, f"{prefix}{name}.", default)
        else:
            yield _row(f"{prefix}{name}", default, field.description)


def _row(key: str, default: Any, description: str | None) -> str:
    shown = "none" if default in {None, "none"} or default == () else str(default)
    return f"| `{key}` | {shown} | {description} |"
