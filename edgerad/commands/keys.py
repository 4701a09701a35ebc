"""`edgerad keys`: what edge and core must know of each other; a new key to seal parcels to."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from edgerad import keyring
from edgerad.sections import Secret
from edgerad.settings import Settings, load_settings

app = typer.Typer(help="The keys that edge and core know each other by.", no_args_is_help=True)


def public_keys(settings: Settings) -> dict[str, dict[str, str]]:
    """Return the public keys of the role, by whose settings they go into; private ones are made on first use."""
    found: dict[str, dict[str, str]] = {}
    if settings.is_edge:
        own = keyring.load_signing_key(keyring.edge_key(settings), "ship.signing_key")
        found["at the core"] = {"core.edge_keys": f"{settings.ship.edge_id}={keyring.public_text(own)}"}
    if settings.is_core:
        signing, parcel, _ = keyring.core_keys(settings)
        found["at each edge"] = {
            "core.parcel_public_key": keyring.public_text(keyring.load_parcel_key(parcel, "core.parcel_key")),
            "core.trusted_keys": keyring.public_text(keyring.load_signing_key(signing, "core.signing_key")),
        }
    return found


@app.command("show")
def show(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Print the public keys that the other side's settings must name; private ones are made on first use."""
    found = public_keys(load_settings())
    if as_json:
        typer.echo(json.dumps(found))
        return
    for where, settings in found.items():
        typer.echo(f"# {where}")
        for name, value in settings.items():
            several = name != "core.parcel_public_key"
            typer.echo(f'{name} = ["{value}"]' if several else f'{name} = "{value}"')


@app.command("rotate")
def rotate() -> None:
    """Make a new key to seal parcels to; those of the key before still go. Restart the core, then tell the edges."""
    settings = load_settings()
    if settings.core.parcel_key != Secret() or settings.core.parcel_key_before != Secret():
        typer.echo("edgerad: core.parcel_key is set: put the new key there, the old one in parcel_key_before", err=True)
        raise typer.Exit(1)
    keyring.rotate_parcel_key(settings.data_dir / "keys")
    show()
