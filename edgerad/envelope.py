"""What protects a message on its way: a signature around it (DSSE), and encryption to one receiver (HPKE).

Both are of the `cryptography` package that signs the bundles already; docs/adr/ tells what it was chosen over.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.hpke import Suite

KEY_BYTES = 32
KEY_ID_DIGITS = 16


class NotSigned(Exception):
    """No signature of a trusted key is on it, or it is none of these envelopes at all."""


class NotSealed(Exception):
    """It cannot be opened: another key, another context, or changed on the way."""


def key_id(public: bytes) -> str:
    """Return the name of a public key: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:KEY_ID_DIGITS]


def parse_public(text: str) -> bytes:
    """Return a raw public key (Ed25519, X25519) from base64; ValueError when it is none."""
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != KEY_BYTES:
        msg = "not a public key: it must be 32 bytes in base64 (44 characters)"
        raise ValueError(msg)
    return raw


def sign(kind: str, payload: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return the payload in a DSSE envelope, version 1 (secure-systems-lab/dsse), signed with Ed25519 (RFC 8032).

    The signature covers the exact bytes and their `kind`, so that nothing depends on how JSON is written.
    """
    public = key.public_key().public_bytes_raw()
    signature = {"keyid": key_id(public), "sig": base64.b64encode(key.sign(_encoded(kind, payload))).decode()}
    envelope = {"payloadType": kind, "payload": base64.b64encode(payload).decode(), "signatures": [signature]}
    return json.dumps(envelope).encode()


def verified(kind: str, raw: bytes, trusted: Iterable[bytes]) -> bytes:
    """Return the payload of an envelope that one of the trusted raw public keys has signed; raises NotSigned."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        envelope = json.loads(raw)
        payload = base64.b64decode(envelope["payload"], validate=True)
        signatures = [base64.b64decode(item["sig"], validate=True) for item in envelope["signatures"]]
        fits = envelope["payloadType"] == kind
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise NotSigned("not a signed envelope") from None
    for public in trusted if fits else ():
        for signature in signatures[:8]:
            try:
                Ed25519PublicKey.from_public_bytes(public).verify(signature, _encoded(kind, payload))
            except InvalidSignature:
                continue
            return payload
    raise NotSigned("no signature of a trusted key")


def _encoded(kind: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)


def seal(content: bytes, public: bytes, context: bytes) -> bytes:
    """Return the content encrypted to an X25519 public key (HPKE, RFC 9180, base mode); it opens in `context` only."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    return _suite().encrypt(content, X25519PublicKey.from_public_bytes(public), info=context)


def unseal(sealed: bytes, key: X25519PrivateKey, context: bytes) -> bytes:
    """Return what `seal` was given; raises NotSealed."""
    from cryptography.exceptions import InvalidTag

    try:
        return _suite().decrypt(sealed, key, info=context)
    except (InvalidTag, ValueError):
        raise NotSealed("it does not open with this key and context") from None


def _suite() -> Suite:
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
