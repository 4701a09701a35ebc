"""`edgerad demo`: the whole loop on one machine; see docs/demo.md."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgerad.compose import System


def demo(
    images: Annotated[Path | None, typer.Option(help="Feed these files; NORMAL/ and PNEUMONIA/ label them.")] = None,
    once: Annotated[bool, typer.Option("--once", help="End by itself when the loop has turned.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
    kafka: Annotated[str | None, typer.Option(help="HOST:PORT of a Kafka in the place of the sweep.")] = None,
    s3: Annotated[str | None, typer.Option(help="URL of an S3 store in the place of the embedded one.")] = None,
    database: Annotated[str | None, typer.Option(help="SQLAlchemy URL in the place of SQLite.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Phantoms to draw and feed.")] = 150,
    seed: Annotated[int, typer.Option(help="Seed of the phantoms.")] = 0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the dashboard; 0 takes a free one.")] = 0,
) -> None:
    """Run both roles on this machine, feed X-rays, and turn the whole loop once.

    On a terminal the dashboard stays open until Ctrl-C; without one, or with --once, the demo ends by itself. Exit
    status 0 when every image is accounted for, 1 when one is not or something stalled, 2 for wrong options.
    """
    from edgerad import surroundings
    from edgerad.demo.run import DemoOptions, run
    from edgerad.demo.view import LineView, LiveView
    from edgerad.preflight import CannotStart
    from edgerad.settings import SettingsError
    from edgerad.store import StoreError
    from edgerad.telemetry import configure_logging

    surroundings.keep_private()
    options = DemoOptions(images, kafka, s3, database, count, seed, port)
    interactive = sys.stderr.isatty() and sys.stdout.isatty() and not once
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        from edgerad.sections import TelemetrySettings

        configure_logging(TelemetrySettings(log_level="ERROR", log_format="console"))
        # What Ray prints on its own must not stand in the summary's way.
        with contextlib.redirect_stdout(sys.stderr), LiveView() if sys.stderr.isatty() else LineView() as show:
            summary = run(options, show, _stay if interactive else None)
    except (FileNotFoundError, SettingsError, StoreError, CannotStart) as error:
        typer.echo(f"edgerad: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("edgerad: ended before the loop had turned", err=True)
        raise typer.Exit(130) from None
    typer.echo(json.dumps(summary) if as_json else describe(summary))
    raise typer.Exit(0 if summary["complete"] else 1)


def _interrupt(number: int, frame: object) -> None:  # noqa: ARG001 - the signature is signal's
    raise KeyboardInterrupt


def _stay(system: System) -> None:
    """Keep the system open until Ctrl-C."""
    typer.echo(f"\nThe loop has turned. Dashboard: {system.addresses.get('dashboard')}   Ctrl-C ends.", err=True)
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        return


def describe(summary: dict[str, Any]) -> str:
    """Return the summary for people."""
    images, training, candidate = summary["images"], summary["training"], summary["candidate"]
    lines = [
        f"images     {images['fed']} sent, {images['distinct']} distinct: "
        f"{images['lost']} lost, {images['pending']} pending, {images['scored_twice']} scored twice",
        f"triage     {_counts(summary['triage'])}",
        f"alerts     {_counts(summary['alerts'])}",
        f"shipments  {_counts(summary['shipments'])}; {summary['core_cases']} cases at the core",
        f"labels     {summary['labels']['simulated']} by the simulated expert",
        f"training   {training['state']}: {training['cases']} cases, {training['workers']} workers, "
        f"{training['seconds']} s",
        f"candidate  {candidate['reason'] if candidate else 'none'}",
        f"served     {', then '.join(digest[:12] for digest in summary['models_served'])}; "
        f"{summary['images_fed_during_swap']} images sent during the swap",
        f"events     {summary['events']}",
        f"time       first result after {summary['first_result_seconds']} s, {summary['seconds']} s in all, "
        f"{summary['images_per_second']} images/s at best",
        f"memory     {summary['peak_memory_mib']} MiB at most, everything together",
    ]
    if not summary["complete"]:
        lines.append(f"NOT COMPLETE: {', '.join(summary['stalled']) or 'see the images above'}")
    return "\n".join(lines)


def _counts(values: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(values.items())) or "none"
