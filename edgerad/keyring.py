"""Secrets that edgerad makes itself where none is configured: in `data_dir`/keys, readable by the owner only."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from edgerad import envelope, private
from edgerad.sections import Secret
from edgerad.settings import SettingsError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from edgerad.settings import Settings

PARCEL_KEY, PARCEL_KEY_BEFORE = "parcel-key.pem", "parcel-key-before.pem"
_Key = TypeVar("_Key")


def ensure(secret: Secret, folder: Path, name: str, make: Callable[[], str] | None = None) -> Secret:
    """Return the configured secret, else one kept in `folder`/`name`, made on first use (32 random bytes, URL-safe).

    Raises SettingsError when the kept one is empty.
    """
    if secret.value is not None or secret.file is not None:
        return secret
    path = folder / name
    if not path.exists():
        private.folder(folder)
        content = make() if make else secrets.token_urlsafe(32)
        draft = folder / f"{name}.{os.getpid()}.new"
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(content)
        with contextlib.suppress(FileExistsError):  # of two processes the first one's key is the key
            os.link(draft, path)
        draft.unlink()
    try:
        return Secret(file=path.absolute())
    except ValidationError:
        msg = f"the key file {path} is empty; bring it back from a backup, or remove it and a new one is made"
        raise SettingsError(msg) from None


def signing_key() -> str:
    """Return a new Ed25519 private key, PEM (PKCS #8)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return _pem(Ed25519PrivateKey.generate())


def parcel_key() -> str:
    """Return a new X25519 private key, PEM (PKCS #8)."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return _pem(X25519PrivateKey.generate())


def edge_key(settings: Settings) -> Secret:
    """Return the secret of the key that this edge signs with."""
    return ensure(settings.ship.signing_key, settings.data_dir / "keys", "edge-signing-key.pem", signing_key)


def core_keys(settings: Settings) -> tuple[Secret, Secret, Secret]:
    """Return the secrets of the keys that the core signs with, opens parcels with, and opened them with before.

    The last one is empty where no change of keys has left one.
    """
    folder, core = settings.data_dir / "keys", settings.core
    before = core.parcel_key_before
    if before == Secret() and (folder / PARCEL_KEY_BEFORE).exists():
        before = Secret(file=(folder / PARCEL_KEY_BEFORE).absolute())
    return (
        ensure(core.signing_key, folder, "signing-key.pem", signing_key),
        ensure(core.parcel_key, folder, PARCEL_KEY, parcel_key),
        before,
    )


def opening_keys(settings: Settings) -> dict[str, X25519PrivateKey]:
    """Return the keys that the core opens parcels with, by the ids of their public ones; SettingsError when wrong."""
    _, current, before = core_keys(settings)
    keys = [load_parcel_key(current, "core.parcel_key")]
    if before != Secret():
        keys.append(load_parcel_key(before, "core.parcel_key_before"))
    return {envelope.key_id(key.public_key().public_bytes_raw()): key for key in keys}


def edge_public_keys(settings: Settings) -> dict[str, tuple[bytes, ...]]:
    """Return the public keys of the edges whose parcels the core takes; SettingsError when one is wrong."""
    keys: dict[str, tuple[bytes, ...]] = {}
    for entry in settings.core.edge_keys:
        edge_id, _, key = entry.partition("=")
        keys[edge_id] = (*keys.get(edge_id, ()), _public(key, f"core.edge_keys, edge {edge_id[:32]}", "edge"))
    return keys


def trusted_cores(settings: Settings) -> tuple[bytes, ...]:
    """Return the public keys of the cores whose receipts the edge believes; SettingsError when one is wrong."""
    return tuple(_public(key, "core.trusted_keys", "core") for key in settings.core.trusted_keys)


def sealing_key(settings: Settings) -> bytes | None:
    """Return the core's public key that parcels are sealed to, None when it is not set; SettingsError when wrong."""
    key = settings.core.parcel_public_key
    return _public(key, "core.parcel_public_key", "core") if key else None


def check(settings: Settings) -> None:
    """Raise SettingsError when a key of the role is wrong: at the start, and not when the first parcel comes."""
    if settings.is_core:
        opening_keys(settings)
        edge_public_keys(settings)
        load_signing_key(core_keys(settings)[0], "core.signing_key")
    if settings.is_edge and settings.ship.enabled:
        sealing_key(settings)
        trusted_cores(settings)
        load_signing_key(edge_key(settings), "ship.signing_key")


def _public(text: str, setting: str, where: str) -> bytes:
    try:
        return envelope.parse_public(text)
    except ValueError as error:
        msg = f"setting {setting}: {error}; `edgerad keys show` prints it at the {where}"
        raise SettingsError(msg) from None


def rotate_parcel_key(folder: Path) -> None:
    """Make a new key to open parcels with; the one of now becomes the one before, and that one is no more."""
    current = folder / PARCEL_KEY
    if current.exists():
        current.replace(folder / PARCEL_KEY_BEFORE)
    ensure(Secret(), folder, PARCEL_KEY, parcel_key)


def load_signing_key(secret: Secret, setting: str) -> Ed25519PrivateKey:
    """Return the Ed25519 private key of a setting; SettingsError names it when it is none."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return _load(secret, setting, Ed25519PrivateKey, "ed25519")  # type: ignore[type-abstract]


def load_parcel_key(secret: Secret, setting: str) -> X25519PrivateKey:
    """Return the X25519 private key of a setting; SettingsError names it when it is none."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return _load(secret, setting, X25519PrivateKey, "x25519")  # type: ignore[type-abstract]


def public_key(pem: str) -> str:
    """Return the base64 public key of an Ed25519 or X25519 private key in PEM."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(pem.encode(), None)
    if not isinstance(key, Ed25519PrivateKey | X25519PrivateKey):
        msg = "not an Ed25519 or X25519 key; make one with `openssl genpkey -algorithm ed25519`"
        raise TypeError(msg)
    return public_text(key)


def public_text(key: Ed25519PrivateKey | X25519PrivateKey) -> str:
    """Return the base64 public key of a private one."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def _pem(key: Ed25519PrivateKey | X25519PrivateKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _load(secret: Secret, setting: str, kind: type[_Key], algorithm: str) -> _Key:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key((secret.reveal() or "").encode(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, kind):
        msg = (
            f"setting {setting}: not an {algorithm} private key; make one with `openssl genpkey -algorithm {algorithm}`"
        )
        raise SettingsError(msg)
    return key
