"""The `edgerad` command line: each command is a module of edgerad/commands, imported without Ray or TensorFlow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import edgerad
from edgerad import surroundings
from edgerad.commands import (
    audit,
    calibrate,
    deidentify,
    demo,
    down,
    evaluation,
    keys,
    models,
    phantom,
    replay,
    score,
    status,
    train,
    up,
)
from edgerad.commands import settings as settings_command
from edgerad.settings import SettingsError

app = typer.Typer(
    name="edgerad",
    help="X-ray triage at the hospital's edge, learning at the centre.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals can hold patient data
    add_completion=False,
)
for command in (up, down, status, demo, score, calibrate, deidentify, phantom, replay, train, audit):
    name = command.__name__.rpartition(".")[2]
    app.command(name)(getattr(command, name))
app.command("settings")(settings_command.show)
app.add_typer(models.app, name="models")
app.add_typer(evaluation.app, name="evaluation")
app.add_typer(keys.app, name="keys")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(edgerad.__version__)
        raise typer.Exit


@app.callback()
def options(
    settings: Annotated[
        Path | None, typer.Option("--settings", help="Settings file (TOML); else EDGERAD_SETTINGS, else edgerad.toml.")
    ] = None,
    version: Annotated[  # noqa: ARG001 - its callback acts
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that come before the command."""
    import os

    if settings:
        os.environ["EDGERAD_SETTINGS"] = str(settings.absolute())


def main() -> None:
    """Run the command line; a wrong setting is one line on standard error and exit status 2."""
    surroundings.prepare()
    try:
        app()
    except SettingsError as error:
        typer.echo(f"edgerad: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
