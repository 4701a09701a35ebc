"""`edgerad up`: run a role in the foreground, as systemd likes it; `--detach` leaves it in the background."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import Annotated, Any

import typer

from edgerad import runfile
from edgerad.settings import load_settings
from edgerad.telemetry import configure_logging


def up(
    role: Annotated[str | None, typer.Option(help="edge, core or both; else the setting `role`.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it running in the background.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that --detach waits for the start.")] = 180.0,
) -> None:
    """Start edgerad and run until SIGTERM or Ctrl-C; SIGTERM lets calls under way end."""
    overrides: dict[str, Any] = {"role": role} if role else {}
    settings = load_settings(None, **overrides)
    if running := runfile.read(settings.data_dir):
        typer.echo(f"edgerad already runs with these settings (pid {running.pid}); `edgerad down` ends it", err=True)
        raise typer.Exit(1)
    if detach:
        _detach(["--role", settings.role], settings.data_dir / "run" / "edgerad.log", timeout)
        return
    configure_logging(settings.telemetry)
    from edgerad import compose

    signal.signal(signal.SIGTERM, _interrupt)
    system = compose.start(settings, lambda what: typer.echo(f"starting: {what}", err=True))
    try:
        for name, address in system.addresses.items():
            typer.echo(f"{name}: {address}", err=True)
        compose.watch(system)
    except KeyboardInterrupt:
        typer.echo("ending", err=True)
    finally:
        compose.stop(system)


def _interrupt(number: int, frame: object) -> None:  # noqa: ARG001 - the signature is signal's
    raise KeyboardInterrupt


def _detach(arguments: list[str], log: Any, timeout: float) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "edgerad.cli", "up", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    data_dir = log.parent.parent
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if (run := runfile.read(data_dir)) is not None:
            typer.echo(f"edgerad runs (pid {run.pid})")
            for name, address in run.addresses.items():
                typer.echo(f"{name}: {address}")
            return
        if child.poll() is not None:
            break
        time.sleep(0.2)
    typer.echo(f"edgerad did not start; see {log}", err=True)
    raise typer.Exit(1)
