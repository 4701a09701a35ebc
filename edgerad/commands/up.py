"""`edgerad up`: run a role in the foreground, as systemd likes it; `--detach` leaves it in the background."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from edgerad import private, runfile, surroundings
from edgerad.settings import load_settings
from edgerad.telemetry import configure_logging


def up(
    role: Annotated[str | None, typer.Option(help="edge, core or both; else the setting `role`.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it running in the background.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that --detach waits for the start.")] = 180.0,
) -> None:
    """Start edgerad and run until SIGTERM or Ctrl-C; both let calls under way end.

    Exit status 1 when it cannot start: the last line says why and what to do.
    """
    surroundings.keep_private()
    overrides: dict[str, Any] = {"role": role} if role else {}
    settings = load_settings(None, **overrides)
    if running := runfile.read(settings.data_dir):
        typer.echo(f"edgerad already runs with these settings (pid {running.pid}); `edgerad down` ends it", err=True)
        raise typer.Exit(1)
    if detach:
        _detach(["--role", settings.role], settings.data_dir, timeout)
        return
    configure_logging(settings.telemetry)
    from edgerad import compose
    from edgerad.preflight import CannotStart

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        system = compose.start(settings, lambda what: typer.echo(f"starting: {what}", err=True))
    except (CannotStart, runfile.AlreadyRuns) as error:
        typer.echo(f"edgerad: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("ended before it had started", err=True)
        raise typer.Exit(130) from None
    try:
        for name, address in system.addresses.items():
            typer.echo(f"{name}: {address}", err=True)
        compose.watch(system)
    except KeyboardInterrupt:
        typer.echo("ending", err=True)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends already; being told again must not leave it half ended
        compose.stop(system)


def _interrupt(number: int, frame: object) -> None:  # noqa: ARG001 - the signature is signal's
    raise KeyboardInterrupt


def _detach(arguments: list[str], data_dir: Path, timeout: float) -> None:
    log = data_dir / "run" / "edgerad.log"
    private.folder(log.parent)
    begun = private.file(log).stat().st_size
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "edgerad.cli", "up", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and child.poll() is None:
        run = runfile.read(data_dir)
        if run is not None and run.state == "running":
            typer.echo(f"edgerad runs (pid {run.pid})")
            for name, address in run.addresses.items():
                typer.echo(f"{name}: {address}")
            return
        time.sleep(0.2)
    if child.poll() is None:
        typer.echo(f"edgerad (pid {child.pid}) still starts after {timeout:.0f} s; see {log}", err=True)
        raise typer.Exit(1)
    with log.open("rb") as written:
        written.seek(begun)
        said = [line for line in written.read().decode(errors="replace").splitlines() if line.startswith("edgerad: ")]
    typer.echo("\n".join(said) or f"edgerad did not start; see {log}", err=True)
    raise typer.Exit(1)
