"""What the core's commands share: its settings completed, its store and database, and errors as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from edgerad import keyring, runfile
from edgerad.sections import Secret
from edgerad.settings import Settings, SettingsError, load_settings

if TYPE_CHECKING:
    from edgerad.database import Database
    from edgerad.store import ObjectStore


def core_settings() -> Settings:
    """Return the settings with the core's signing key (made on first use), trusted with the others."""
    settings = load_settings()
    folder = settings.data_dir.absolute() / "keys"
    key = keyring.ensure(settings.core.signing_key, folder, "signing-key.pem", keyring.signing_key)
    trusted = (*settings.core.trusted_keys, keyring.public_key(key.reveal() or ""))
    core = settings.core.model_copy(update={"signing_key": key, "trusted_keys": tuple(dict.fromkeys(trusted))})
    return settings.model_copy(update={"data_dir": settings.data_dir.absolute(), "core": core})


def with_store(settings: Settings) -> Settings:
    """Return the settings with a core store that can be reached: the embedded one is served by a running edgerad.

    Raises SettingsError when it is the embedded one and edgerad does not run.
    """
    if settings.core.store.endpoint_url is not None:
        return settings
    run = runfile.read(settings.data_dir)
    if run is None or "s3" not in run.addresses:
        msg = (
            "setting core.store.endpoint_url: empty, so the core's store is the embedded one, which is only there while"
            " edgerad runs: start `edgerad up`, or name the store"
        )
        raise SettingsError(msg)
    keys = settings.data_dir.absolute() / "keys"
    reached = {
        "endpoint_url": run.addresses["s3"],
        "access_key": Secret(file=keys / "s3-access-key"),
        "secret_key": Secret(file=keys / "s3-secret-key"),
    }
    core = settings.core.model_copy(update={"store": settings.core.store.model_copy(update=reached)})
    return settings.model_copy(update={"core": core})


def core_store(settings: Settings) -> ObjectStore:
    """Return the core's store. Raises SettingsError."""
    from edgerad.store import ObjectStore, config_from

    return ObjectStore(config_from(with_store(settings).core.store))


def core_database(settings: Settings) -> Database:
    """Return the core's database, its tables made where they are not there."""
    from edgerad.database import Database

    database = Database(settings.database_url)
    database.upgrade()
    return database


@contextmanager
def in_one_line(*kinds: type[Exception]) -> Iterator[None]:
    """Turn these errors, and those of store, database and bundles, into one line and exit status 1."""
    from sqlalchemy.exc import SQLAlchemyError

    from edgerad.store import StoreError
    from serve.bundle import BundleError

    try:
        yield
    except SQLAlchemyError as error:
        typer.echo(
            f"edgerad: the database does not answer ({type(error).__name__}); see setting database.url", err=True
        )
        raise typer.Exit(1) from None
    except Exception as error:
        if not isinstance(error, (StoreError, BundleError, *kinds)):
            raise
        typer.echo(f"edgerad: {error}", err=True)
        raise typer.Exit(1) from None
