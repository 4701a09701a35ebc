"""`edgerad evaluation`: freeze the set that models are judged on, or the one that trainings rehearse with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgerad.settings import load_settings

app = typer.Typer(help="The core's frozen sets.", no_args_is_help=True)


@app.command("freeze")
def freeze(
    folder: Annotated[Path, typer.Argument(help="Folder with NORMAL/ and PNEUMONIA/; only pixels are kept.")],
    rehearsal: Annotated[
        bool, typer.Option("--rehearsal", help="As the rehearsal set, not the evaluation set.")
    ] = False,
) -> None:
    """Freeze a set in the core's store; once there it never changes. Exit status 1 when another one is frozen there."""
    from edgerad.store import ObjectStore, config_from
    from train import evaluation_set

    settings = load_settings()
    prefix = settings.train.rehearsal_prefix if rehearsal else settings.train.evaluation_prefix
    store = ObjectStore(config_from(settings.core.store))
    store.ensure_bucket()
    try:
        frozen = evaluation_set.freeze(store, prefix, folder)
    except evaluation_set.SetError as error:
        typer.echo(f"edgerad: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(json.dumps({"version": frozen.version, "cases": len(frozen.items), "positives": frozen.positives}))


@app.command("show")
def show() -> None:
    """Print the versions and sizes of both frozen sets."""
    from edgerad.store import ObjectStore, config_from
    from train import evaluation_set

    settings = load_settings()
    store = ObjectStore(config_from(settings.core.store))
    for name, prefix in (
        ("evaluation", settings.train.evaluation_prefix),
        ("rehearsal", settings.train.rehearsal_prefix),
    ):
        frozen = evaluation_set.read(store, prefix)
        typer.echo(f"{name}: {f'{frozen.version}, {len(frozen.items)} cases' if frozen else 'none is frozen'}")
