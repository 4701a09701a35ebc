"""`edgerad models`: the core's registry: list, show, add, promote, roll back, the public key."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from sqlalchemy import select

from edgerad.commands import reach
from edgerad.settings import load_settings

if TYPE_CHECKING:
    from edgerad.settings import Settings
    from edgerad.store import ObjectStore
    from serve.bundle import Bundle

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
        "training_run": model.training_run_id,
        "created": model.created_at.isoformat(),
        "decided": model.decided_at.isoformat() if model.decided_at else None,
        "reason": model.reason,
    }


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the models of the finding, the newest first."""
    from edgerad.records import Model

    settings = load_settings()
    with reach.in_one_line(), reach.core_database(settings).read() as session:
        query = select(Model).where(Model.finding == settings.finding).order_by(Model.created_at.desc())
        rows = [_facts(model) for model in session.scalars(query)]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(f"{row['model'][:16]}  {row['state']:<9}  {row['created'][:19]}  {row['reason']}")
    if not rows:
        typer.echo(f"no models for {settings.finding} yet; the core registers the shipped one when it starts")


@app.command("card")
def card(
    path: Annotated[Path | None, typer.Argument(help="Bundle directory; none: the shipped bundle.")] = None,
) -> None:
    """Print the model card of a bundle as Markdown: data, figures, shortcuts, limits. `docs/model-card.md` is it."""
    from serve.bundle import BundleError, bundled_keys, bundled_model, load_bundle
    from train.card import model_card

    try:
        shipped = path is None
        bundle = load_bundle(path or bundled_model(load_settings().finding), bundled_keys(), verify=shipped)
    except BundleError as error:
        typer.echo(f"edgerad: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(model_card(bundle), nl=False)


@app.command("show")
def show(
    digest: Annotated[str, typer.Argument(help="Digest, or its beginning; none: the shipped bundle.")] = "",
) -> None:
    """Print what is known of a model: the record, or the shipped bundle's manifest."""
    from train import promote as records

    settings = load_settings()
    with reach.in_one_line(records.NotPossible):
        if not digest:
            bundle = _shipped(settings)
            typer.echo(json.dumps({"digest": bundle.digest, **bundle.manifest.model_dump(mode="json")}, indent=2))
            return
        model = records.find(reach.core_database(settings), settings.finding, digest)
        typer.echo(json.dumps({**_facts(model), "metrics": model.metrics}, indent=2))


@app.command("add")
def add(
    person: Person,
    reason: Reason,
    bundle: Annotated[
        Path | None,
        typer.Argument(exists=True, file_okay=False, help="Bundle directory; none: the one that ships with edgerad."),
    ] = None,
) -> None:
    """Put a bundle that was trained elsewhere into the registry, as a candidate; `promote` puts it into service."""
    from edgerad import registry
    from serve.bundle import load_bundle
    from train import promote as records

    with reach.in_one_line(records.NotPossible):
        settings = reach.core_settings()
        found = _shipped(settings) if bundle is None else load_bundle(bundle, _trusted(settings))
        if found.manifest.finding != settings.finding:
            raise records.NotPossible(f"the bundle is for {found.manifest.finding}, this core for {settings.finding}")
        registry.publish(reach.core_store(settings), settings.finding, found.digest, found.path)
        new = records.add(reach.core_database(settings), found, person, reason)
    typer.echo(f"{'added' if new else 'known before'}: {found.digest}")


@app.command("promote")
def promote(
    digest: Annotated[str, typer.Argument(help="Digest of the model, or its beginning.")],
    person: Person,
    reason: Reason,
) -> None:
    """Put a model into service by hand; the edges follow the registry. Its bundle is proven first."""
    from train import promote as records

    with reach.in_one_line(records.NotPossible):
        settings = reach.core_settings()
        store, database = reach.core_store(settings), reach.core_database(settings)
        model = records.find(database, settings.finding, digest)
        _prove(settings, store, model.model_digest)
        records.promote_by_hand(database, settings.finding, model.model_digest, person, reason)
        records.point(store, database, settings.finding)
    typer.echo(f"in service: {model.model_digest}")


@app.command("rollback")
def rollback(person: Person, reason: Reason) -> None:
    """Put the model that was in service before back into service; again: the one before that."""
    from train import promote as records

    with reach.in_one_line(records.NotPossible):
        settings = reach.core_settings()
        store, database = reach.core_store(settings), reach.core_database(settings)
        _prove(settings, store, records.previous(database, settings.finding))
        digest = records.rollback(database, settings.finding, person, reason)
        records.point(store, database, settings.finding)
    typer.echo(f"in service: {digest}")


@app.command("public-key")
def public_key() -> None:
    """Print the key that edges put into core.trusted_keys; the private one is made on first use."""
    from edgerad import keyring

    typer.echo(keyring.public_key(reach.core_settings().core.signing_key.reveal() or ""))


def _shipped(settings: Settings) -> Bundle:
    from serve.bundle import bundled_keys, bundled_model, load_bundle

    return load_bundle(bundled_model(settings.finding), bundled_keys())


def _trusted(settings: Settings) -> dict[str, bytes]:
    from serve.bundle import bundled_keys, parse_trusted_keys

    return {**bundled_keys(), **parse_trusted_keys(settings.core.trusted_keys)}


def _prove(settings: Settings, store: ObjectStore, digest: str) -> None:
    """Check that the registry holds the bundle whole and signed. Raises StoreError, BundleError."""
    from edgerad import registry
    from serve.bundle import load_bundle

    if not registry.is_published(store, settings.finding, digest):
        raise registry.RegistryError(f"model {digest[:12]} is recorded, but its bundle is not in the registry")
    with tempfile.TemporaryDirectory() as folder:
        load_bundle(registry.pull(store, settings.finding, digest, Path(folder)), _trusted(settings))
