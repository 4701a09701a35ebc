"""What must be right before edgerad starts: told in one line with what to do, before anything is started."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from edgerad import private
from edgerad.sections import Secret
from edgerad.settings import SettingsError

if TYPE_CHECKING:
    from edgerad.sections import StoreSettings
    from edgerad.settings import Settings


class CannotStart(Exception):
    """Edgerad cannot start; the text says what is wrong and what to do, and holds no secret."""


def check_settings(settings: Settings) -> None:
    """Raise SettingsError where a secret's file cannot be read, or settings do not fit each other."""
    for key, secret in _secrets(settings):
        try:
            secret.reveal()
        except (OSError, UnicodeDecodeError) as error:
            what = error.strerror if isinstance(error, OSError) else "not text"
            msg = f"setting {key}.file: {secret.file} cannot be read ({what}); make it readable for edgerad's user"
            raise SettingsError(msg) from None
    used = [("store", settings.store)] if settings.is_edge else []
    used.append(("core.store", settings.core.store))
    for name, store in used:
        _check_store(name, store)
    if settings.kafka.security_protocol.startswith("SASL") and not settings.kafka.sasl_password.reveal():
        raise SettingsError(_missing("kafka.sasl_password", "kafka.security_protocol asks for it"))
    if settings.is_edge and settings.notify.webhook_url:
        _check_proxies()


def _check_proxies() -> None:
    """Raise SettingsError where the webhook's HTTP client cannot use the proxies that the environment names."""
    import httpx

    try:
        httpx.Client().close()
    except ImportError:
        what = "a SOCKS proxy needs the package socksio: `pip install socksio`, or name an HTTP proxy"
    except (ValueError, httpx.InvalidURL):  # their texts can hold a proxy's password
        what = "a proxy is written http://HOST:PORT, an exemption HOST, .DOMAIN or an address; correct them"
    else:
        return
    msg = (
        f"setting notify.webhook_url: the environment's http_proxy, https_proxy, all_proxy or no_proxy is unfit; {what}"
    )
    raise SettingsError(msg)


def _secrets(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Secret]]:
    for name, value in section:
        if isinstance(value, Secret):
            yield f"{prefix}{name}", value
        elif isinstance(value, BaseModel):
            yield from _secrets(value, f"{prefix}{name}.")


def _check_store(name: str, store: StoreSettings) -> None:
    for field, secret in (("access_key", store.access_key), ("secret_key", store.secret_key)):
        if store.endpoint_url and not secret.reveal():
            raise SettingsError(_missing(f"{name}.{field}", f"{name}.endpoint_url is set"))
        if secret.reveal() and not store.endpoint_url:
            raise SettingsError(_missing(f"{name}.endpoint_url", f"{name}.{field} is set"))


def _missing(key: str, why: str) -> str:
    variable = "EDGERAD_" + key.upper().replace(".", "__")
    if key.endswith("endpoint_url"):
        return f"setting {key} ({variable}) is missing, but {why}; see docs/settings.md"
    return f"setting {key} ({variable}__VALUE, or {key}.file = PATH) is missing, but {why}; see docs/settings.md"


def check_folder(folder: Path) -> None:
    """Raise CannotStart unless the data folder can be written to."""
    try:
        private.folder(folder / "run")
        probe = folder / "run" / "probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        msg = f"setting data_dir: {folder} cannot be written to ({error.strerror}); `chown` it to edgerad's user"
        raise CannotStart(msg) from None


def check_ports(settings: Settings) -> None:
    """Raise CannotStart where a port that is to be listened on here is taken, or its address is not this machine's."""
    wanted = []
    if settings.is_edge and settings.receiver.enabled:
        wanted.append(("receiver", settings.receiver.host, settings.receiver.port))
    if settings.is_edge and settings.gateway.enabled:
        wanted.append(("gateway", settings.gateway.host, settings.gateway.port))
    if settings.dashboard.enabled:
        wanted.append(("dashboard", settings.dashboard.host, settings.dashboard.port))
    wanted.append(("embedded_store", "127.0.0.1", settings.embedded_store.port))
    for section, host, port in wanted:
        if port:
            _check_port(section, host, port)


def _check_port(section: str, host: str, port: int) -> None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            what = f"{host}:{port} is taken by another program (`ss -ltnp` names it); stop it or set another port"
        elif error.errno == errno.EACCES:
            what = f"this user may not listen on port {port}; ports below 1024 need a privilege, others do not"
        else:
            what = f"{host} is no address of this machine ({error.strerror}); see setting {section}.host"
        raise CannotStart(f"setting {section}.port: {what}") from None


@contextmanager
def store_answers(section: str, store: StoreSettings) -> Iterator[None]:
    """Tell of a store that does not answer, or not as it should, by its settings."""
    from edgerad.store import StoreDenied, StoreError

    try:
        yield
    except StoreError as error:
        what = f"{section}.access_key and {section}.secret_key" if isinstance(error, StoreDenied) else "that it runs"
        msg = f"setting {section}.endpoint_url: {store.endpoint_url}: {error}; check the address, and {what}"
        raise CannotStart(msg) from None


@contextmanager
def database_answers(settings: Settings) -> Iterator[None]:
    """Tell of a database that does not answer, or that another version has made."""
    from alembic.util import CommandError
    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        where = make_url(settings.database_url).render_as_string(hide_password=True)
        msg = (
            f"setting database.url: {where} does not answer ({type(error).__name__}); "
            "check that it runs, its address, user and password"
        )
        raise CannotStart(msg) from None
    except CommandError:
        msg = "setting database.url: a newer edgerad has made this database; install that version, or use another one"
        raise CannotStart(msg) from None


@contextmanager
def kafka_answers(settings: Settings) -> Iterator[None]:
    """Tell of a Kafka that does not answer, or refuses us."""
    from kafka.errors import KafkaError

    try:
        yield
    except (KafkaError, OSError) as error:
        kafka = settings.kafka
        msg = (
            f"setting kafka.bootstrap_servers: {kafka.bootstrap_servers} does not answer as it should by "
            f"{kafka.security_protocol} ({type(error).__name__}); check that it runs, its address and password"
        )
        raise CannotStart(msg) from None


@contextmanager
def actors_start() -> Iterator[None]:
    """Tell of an actor that failed as it started by the type of what it met; its log has the rest."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        # A RuntimeError's words are our own or Serve's; those of others can quote what they met.
        what = str(cause).splitlines()[0][:300] if type(cause) is RuntimeError else type(cause).__name__
        msg = f"a component failed as it started ({what}); Ray's session folder has its log"
        raise CannotStart(msg) from None
