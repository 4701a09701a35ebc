"""`edgerad down`: end what `edgerad up` started on this machine, gracefully."""

from __future__ import annotations

from typing import Annotated

import typer

from edgerad import runfile
from edgerad.settings import load_settings


def down(
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the end.")] = 60.0,
) -> None:
    """Stop the running edgerad of these settings; exit status 1 when it does not end in time."""
    settings = load_settings()
    run = runfile.read(settings.data_dir)
    if run is None:
        typer.echo(f"edgerad is not running (no live run file in {settings.data_dir / 'run'})")
        return
    if not runfile.stop(settings.data_dir, run, timeout):
        typer.echo(f"edgerad (pid {run.pid}) has not ended after {timeout:.0f} s; see its log", err=True)
        raise typer.Exit(1)
    typer.echo(f"edgerad (pid {run.pid}) has ended")
