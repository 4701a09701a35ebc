"""`edgerad models`: the core's registry: list, show, promote, roll back, the public key."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from sqlalchemy import select

from edgerad.settings import Settings, load_settings

app = typer.Typer(help="The core's models.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Person = Annotated[str, typer.Option("--person", help="Who decides; it is recorded.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is recorded.")]


def _facts(model: Any) -> dict[str, Any]:
    return {
        "model": model.model_digest,
        "finding": model.finding,
        "state": model.state,
        "parent": model.parent_digest,
        "created": model.created_at.isoformat(),
        "decided": model.decided_at.isoformat() if model.decided_at else None,
        "reason": model.reason,
    }


def _database(settings: Settings) -> Any:
    from edgerad.database import Database

    database = Database(settings.database_url)
    database.upgrade()
    return database


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the models of the finding, the newest first."""
    from edgerad.records import Model

    settings = load_settings()
    with _database(settings).read() as session:
        query = select(Model).where(Model.finding == settings.finding).order_by(Model.created_at.desc())
        rows = [_facts(model) for model in session.scalars(query)]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(f"{row['model'][:16]}  {row['state']:<9}  {row['created']}  {row['reason']}")


@app.command("show")
def show(
    digest: Annotated[str, typer.Argument(help="Digest, or its beginning; none: the shipped bundle.")] = "",
) -> None:
    """Print what is known of a model: the record, or the shipped bundle's manifest."""
    settings = load_settings()
    if not digest:
        from serve.bundle import bundled_keys, bundled_model, load_bundle

        bundle = load_bundle(bundled_model(settings.finding), bundled_keys())
        typer.echo(json.dumps({"digest": bundle.digest, **bundle.manifest.model_dump(mode="json")}, indent=2))
        return
    from edgerad.records import Model

    with _database(settings).read() as session:
        found = list(session.scalars(select(Model).where(Model.model_digest.startswith(digest))))
        if len(found) != 1:
            typer.echo(f"edgerad: {len(found)} models begin with {digest}; see `edgerad models list`", err=True)
            raise typer.Exit(1)
        typer.echo(json.dumps({**_facts(found[0]), "metrics": found[0].metrics}, indent=2))


@app.command("promote")
def promote(
    digest: Annotated[str, typer.Argument(help="Digest of the model.")], person: Person, reason: Reason
) -> None:
    """Put a model into service by hand; the edges follow the registry."""
    from train import promote as rule

    _decide(lambda database, finding: rule.promote_by_hand(database, finding, digest, person, reason))


@app.command("rollback")
def rollback(person: Person, reason: Reason) -> None:
    """Put the model that was in service before back into service."""
    from train import promote as rule

    _decide(lambda database, finding: rule.rollback(database, finding, person, reason))


def _decide(decision: Any) -> None:
    from edgerad.store import ObjectStore, config_from
    from train import promote as rule

    settings = load_settings()
    database = _database(settings)
    try:
        decision(database, settings.finding)
    except rule.NotPossible as error:
        typer.echo(f"edgerad: {error}", err=True)
        raise typer.Exit(1) from None
    rule.point(ObjectStore(config_from(settings.core.store)), database, settings.finding)
    typer.echo(f"in service: {rule.in_service(database, settings.finding)}")


@app.command("public-key")
def public_key() -> None:
    """Print the key that edges put into core.trusted_keys; the private one is made on first use."""
    from edgerad import keyring

    settings = load_settings()
    key = keyring.ensure(settings.core.signing_key, settings.data_dir / "keys", "signing-key.pem", keyring.signing_key)
    typer.echo(keyring.public_key(key.reveal() or ""))
