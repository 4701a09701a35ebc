"""`edgerad phantom`: write a set of synthetic chest radiographs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def phantom(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to; made if it is not there.")],
    count: Annotated[int, typer.Option(min=0, help="How many radiographs.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="The same seed writes the same files.")] = 0,
    positive: Annotated[float, typer.Option(min=0, max=1, help="Share with pneumonia.")] = 0.5,
    dicom: Annotated[float, typer.Option(min=0, max=1, help="Share as DICOM; the rest is JPEG.")] = 0.5,
    burned_in: Annotated[float, typer.Option(min=0, max=1, help="Share with fake patient data in the pixels.")] = 0.25,
    scanner: Annotated[str, typer.Option(help="Device: standard, portable or legacy_cr.")] = "standard",
    size: Annotated[int, typer.Option(min=224, max=4096, help="Longer side in pixels.")] = 1024,
    flat: Annotated[bool, typer.Option("--flat", help="No folder for each label.")] = False,
    bad: Annotated[bool, typer.Option("--bad", help="Also write a folder BAD of files that must be refused.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file, one a line.")] = False,
) -> None:
    """Write synthetic chest radiographs (DICOM and JPEG) and labels.csv, which says what is planted where."""
    from edgerad.phantom import SCANNERS, bad_inputs, iterate_set

    if scanner not in SCANNERS:
        raise typer.BadParameter(f"{scanner!r} is not one of {', '.join(SCANNERS)}", param_hint="--scanner")
    written = 0
    for record in iterate_set(directory, count, seed, positive, dicom, burned_in, scanner, not flat, size):
        written += 1
        if as_json:
            typer.echo(json.dumps(asdict(record), ensure_ascii=False))
    for broken in bad_inputs(directory / "BAD", seed) if bad else []:
        if as_json:
            typer.echo(json.dumps({**asdict(broken), "file": f"BAD/{broken.file}", "label": "BAD"}))
    if not as_json:
        typer.echo(f"{written} radiographs in {directory}; labels.csv says what is in each")
