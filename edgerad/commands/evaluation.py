"""`edgerad evaluation`: freeze the set that models are judged on, or the one that trainings rehearse with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgerad.commands import reach

if TYPE_CHECKING:
    from train.evaluation_set import FrozenSet

app = typer.Typer(help="The core's frozen sets.", no_args_is_help=True)


@app.command("freeze")
def freeze(
    folder: Annotated[
        Path,
        typer.Argument(exists=True, file_okay=False, help="Folder with NORMAL/ and PNEUMONIA/; only pixels are kept."),
    ],
    rehearsal: Annotated[
        bool, typer.Option("--rehearsal", help="As the rehearsal set, not the evaluation set.")
    ] = False,
) -> None:
    """Freeze a set in the core's store; once there it never changes.

    Exit status 1 when another one is frozen there, or a radiograph is in the other set too.
    """
    from train import evaluation_set

    with reach.in_one_line(evaluation_set.SetError):
        settings = reach.with_store(reach.core_settings())
        prefix, other = settings.train.evaluation_prefix, settings.train.rehearsal_prefix
        if rehearsal:
            prefix, other = other, prefix
        store = reach.core_store(settings)
        store.ensure_bucket()
        frozen = evaluation_set.freeze(store, prefix, folder, apart_from=other)
    typer.echo(json.dumps({"version": frozen.version, "cases": len(frozen.items), "positives": frozen.positives}))


@app.command("show")
def show(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Print the versions and sizes of both frozen sets."""
    from train import evaluation_set

    report: dict[str, dict[str, object] | None] = {}
    with reach.in_one_line(evaluation_set.SetError):
        settings = reach.core_settings()
        store = reach.core_store(settings)
        for name, prefix in (
            ("evaluation", settings.train.evaluation_prefix),
            ("rehearsal", settings.train.rehearsal_prefix),
        ):
            frozen = evaluation_set.read(store, prefix)
            report[name] = _facts(frozen) if frozen is not None else None
    if as_json:
        typer.echo(json.dumps(report))
        return
    for name, facts in report.items():
        said = (
            f"{facts['version']}, {facts['cases']} cases, {facts['positives']} positive" if facts else "none is frozen"
        )
        typer.echo(f"{name}: {said}")


def _facts(frozen: FrozenSet) -> dict[str, object]:
    return {
        "version": frozen.version,
        "cases": len(frozen.items),
        "positives": frozen.positives,
        "frozen_at": frozen.frozen_at.isoformat(),
    }
