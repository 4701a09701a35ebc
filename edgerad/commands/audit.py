"""`edgerad audit`: verify the hash chain of the audit records, and anchor its end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgerad.audit import ANCHORS, AnchorsDamaged, anchor_key, append_anchor, make_anchor, read_anchors, verify
from edgerad.database import Database
from edgerad.settings import load_settings


def audit(
    action: Annotated[str, typer.Argument(help="verify")] = "verify",
    anchors: Annotated[
        Path | None, typer.Option(help="File of anchors; by default audit-anchors.jsonl in data_dir.")
    ] = None,
) -> None:
    """Verify that no audit record was changed, removed or reordered, then anchor its end; exit status 1 when one was.

    The file of anchors is what finds records that were removed from the end, or a chain that was written anew: copy it
    to where whoever may write to the database cannot change it.
    """
    if action != "verify":
        typer.echo("edgerad: the only audit action is `verify`", err=True)
        raise typer.Exit(2)
    settings = load_settings()
    path = anchors or settings.data_dir / ANCHORS
    database, key = Database(settings.database_url), anchor_key(settings.data_dir)
    try:
        known = read_anchors(path, key)
    except AnchorsDamaged as damage:
        typer.echo(f"edgerad: audit not verified: {damage}", err=True)
        raise typer.Exit(1) from None
    newest = make_anchor(database, key)  # before the walk: it is covered by it
    good, wrong = verify(database, [*known, newest])
    if wrong:
        typer.echo(f"edgerad: audit broken after {good} good records: {wrong}", err=True)
        raise typer.Exit(1)
    if not known:
        typer.echo(f"no anchors yet in {path}: records removed from the end before now would not be found", err=True)
    if newest.records > max((anchor.records for anchor in known), default=0):
        append_anchor(path, newest)
    typer.echo(f"{good} audit records, the chain holds; {len(known)} anchors, the newest of {newest.records} records")
