"""Secrets that edgerad makes itself where none is configured: in `data_dir`/keys, readable by the owner only."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from edgerad.sections import Secret


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
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def public_key(pem: str) -> str:
    """Return the base64 public key of an Ed25519 private key in PEM."""
    import base64

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    key = load_pem_private_key(pem.encode(), None)
    if not isinstance(key, Ed25519PrivateKey):
        msg = "setting core.signing_key: not an Ed25519 key; make one with `openssl genpkey -algorithm ed25519`"
        raise TypeError(msg)
    return base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
