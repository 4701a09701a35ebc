"""`edgerad train`: one retraining now, or the shipped model anew from its data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def train(
    data: Annotated[
        Path | None, typer.Option(help="Train the shipped model anew from this folder (NORMAL/, PNEUMONIA/).")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="With --data: ImageNet weights (.npz).")] = None,
    out: Annotated[Path | None, typer.Option(help="With --data: bundle directory to write.")] = None,
    test: Annotated[Path | None, typer.Option(help="With --data: labelled folder to evaluate on.")] = None,
    state: Annotated[
        Path | None, typer.Option(help="With --data: folder for the state after every epoch, to go on from.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Retrain now from the core's labelled cases, whatever their number; exit status 1 when the run failed."""
    if data is not None:
        if weights is None or out is None:
            typer.echo("edgerad: --data needs --weights and --out", err=True)
            raise typer.Exit(2)
        from train.pretrain import pretrain

        pretrain(data, weights, out, test=test, state=state, say=typer.echo)
        return
    from edgerad import cluster, surroundings
    from edgerad.commands import reach
    from edgerad.telemetry import configure_logging
    from train.core import open_core

    surroundings.keep_private()
    with reach.in_one_line():
        settings = reach.with_store(reach.core_settings())
        surroundings.keep_caches(settings.data_dir)
        configure_logging(settings.telemetry)
        reach.core_database(settings).close()
        core = open_core(settings)
        core.prepare()
        cluster.connect(settings)
        try:
            run = core.retrain()
        finally:
            cluster.disconnect()
    if run is None:
        typer.echo("edgerad: the core is training already; see `edgerad status` and the operations page", err=True)
        raise typer.Exit(1)
    report = {"training_run": run.training_run_id, "state": run.state, "candidate": run.candidate_digest,
              "cases": run.cases, "error": run.error, **run.progress}  # fmt: skip
    typer.echo(json.dumps(report) if as_json else "\n".join(f"{name}: {value}" for name, value in report.items()))
    raise typer.Exit(0 if run.state == "succeeded" else 1)
