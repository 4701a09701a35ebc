"""Secrets that edgerad makes itself where none is configured: in `data_dir`/keys, readable by the owner only."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edgerad.sections import Secret
from edgerad.settings import SettingsError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

_Key = TypeVar("_Key")


def ensure(secret: Secret, folder: Path, name: str, make: Callable[[], str] | None = None) -> Secret:
    """Return the configured secret, else one kept in `folder`/`name`, made on first use (32 random bytes, URL-safe)."""
    if secret.value is not None or secret.file is not None:
        return secret
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        content = make() if make else secrets.token_urlsafe(32)
        draft = path.with_suffix(".new")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(content)
        draft.replace(path)
    return Secret(file=path.absolute())


def signing_key() -> str:
    """Return a new Ed25519 private key, PEM (PKCS #8)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return _pem(Ed25519PrivateKey.generate())


def parcel_key() -> str:
    """Return a new X25519 private key, PEM (PKCS #8)."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return _pem(X25519PrivateKey.generate())


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
