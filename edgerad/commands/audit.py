"""`edgerad audit`: verify the hash chain of the audit records."""

from __future__ import annotations

from typing import Annotated

import typer

from edgerad.audit import verify
from edgerad.database import Database
from edgerad.settings import load_settings


def audit(
    action: Annotated[str, typer.Argument(help="verify")] = "verify",
) -> None:
    """Verify that no audit record was changed, removed or reordered; exit status 1 when one was."""
    if action != "verify":
        typer.echo("edgerad: the only audit action is `verify`", err=True)
        raise typer.Exit(2)
    good, wrong = verify(Database(load_settings().database_url))
    if wrong:
        typer.echo(f"edgerad: audit broken after {good} good records: {wrong}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{good} audit records, the chain holds")
