"""Signatures and encryption: what was changed, or is of another key or for another purpose, does not pass."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from edgerad import envelope, keyring
from edgerad.parcels import SEALING_BYTES, packed, unpacked
from edgerad.sections import Secret
from edgerad.settings import Settings, SettingsError, load_settings

KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
KIND = "application/vnd.edgerad.test"


def raw(key: Ed25519PrivateKey | X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def test_the_payload_comes_back_by_any_trusted_key() -> None:
    signed = envelope.sign(KIND, b'{"a": 1}', KEY)
    assert envelope.verified(KIND, signed, [raw(OTHER), raw(KEY)]) == b'{"a": 1}'


def test_the_signature_is_dsse_as_others_compute_it() -> None:
    document = json.loads(envelope.sign("http://example.com/HelloWorld", b"hello world", KEY))
    signature = base64.b64decode(document["signatures"][0]["sig"])
    # The encoding of the example in the specification of DSSE, protocol.md.
    KEY.public_key().verify(signature, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world")
    assert base64.b64decode(document["payload"]) == b"hello world"


def changed(**values: Any) -> bytes:
    return json.dumps({**json.loads(envelope.sign(KIND, b"payload", KEY)), **values}).encode()


@pytest.mark.parametrize(
    "signed",
    [
        changed(payload=base64.b64encode(b"other").decode()),
        changed(payloadType="application/other"),
        changed(signatures=[]),
        changed(signatures=[{"sig": base64.b64encode(bytes(64)).decode()}]),
        changed(signatures=[{"sig": "!"}]),
        changed(signatures=7),
        changed(payload=None),
        envelope.sign(KIND, b"payload", OTHER),
        envelope.sign("application/other", b"payload", KEY),
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_what_is_not_signed_so_is_refused(signed: bytes) -> None:
    with pytest.raises(envelope.NotSigned):
        envelope.verified(KIND, signed, [raw(KEY)])


def test_only_the_receiver_opens_it_and_only_in_its_context() -> None:
    key, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    sealed = envelope.seal(b"content", raw(key), b"north/1")
    assert envelope.unseal(sealed, key, b"north/1") == b"content"
    assert len(sealed) == len(b"content") + SEALING_BYTES
    assert sealed != envelope.seal(b"content", raw(key), b"north/1")
    flipped = [sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :] for i in (0, 31, 32, len(sealed) - 1)]
    for wrong in (*flipped, sealed[:-1], sealed + b"x", sealed[:40], b"", bytes(100)):
        with pytest.raises(envelope.NotSealed):
            envelope.unseal(wrong, key, b"north/1")
    for wrong_key, context in ((other, b"north/1"), (key, b"north/2")):
        with pytest.raises(envelope.NotSealed):
            envelope.unseal(sealed, wrong_key, context)


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\0", b"\0\0\0\5abc", b"\xff\xff\xff\xffabc", b"\0\1\0\0" + bytes(70_000)]
)
def test_what_was_not_packed_is_not_unpacked(content: bytes) -> None:
    with pytest.raises(ValueError, match="manifest"):
        unpacked(content)


def test_what_was_packed_comes_back() -> None:
    assert unpacked(packed(b"{}", b"data")) == (b"{}", b"data")
    assert unpacked(packed(b"", b"")) == (b"", b"")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a folder of their own."""
    return load_settings(data_dir=tmp_path)


def test_keys_are_made_once_for_their_owner_alone(settings: Settings) -> None:
    secrets = (keyring.edge_key(settings), *keyring.core_keys(settings)[:2])
    again = (keyring.edge_key(settings), *keyring.core_keys(settings)[:2])
    assert [secret.reveal() for secret in secrets] == [secret.reveal() for secret in again]
    for secret in secrets:
        assert secret.file is not None
        assert secret.file.stat().st_mode & 0o077 == 0
    keyring.check(settings)


def test_a_rotation_keeps_the_key_before_and_no_older_one(settings: Settings, tmp_path: Path) -> None:
    ids = [set(keyring.opening_keys(settings))]
    for _ in range(2):
        keyring.rotate_parcel_key(tmp_path / "keys")
        ids.append(set(keyring.opening_keys(settings)))
    assert [len(keys) for keys in ids] == [1, 2, 2]
    assert ids[0] < ids[1]
    assert len(ids[1] & ids[2]) == 1
    assert not ids[0] & ids[2]


@pytest.mark.parametrize(
    ("core", "named"),
    [
        ({"edge_keys": ("north=abc",)}, "core.edge_keys, edge north"),
        ({"edge_keys": ("north",)}, "core.edge_keys, edge north"),
        ({"parcel_public_key": "abc"}, "core.parcel_public_key"),
        ({"trusted_keys": ("abc",)}, "core.trusted_keys"),
        ({"parcel_key": Secret.model_validate({"value": "abc"})}, "core.parcel_key"),
        ({"parcel_key_before": Secret.model_validate({"value": keyring.signing_key()})}, "core.parcel_key_before"),
        ({"signing_key": Secret.model_validate({"value": keyring.parcel_key()})}, "core.signing_key"),
    ],
)
def test_a_wrong_key_is_named_at_the_start(settings: Settings, core: dict[str, Any], named: str) -> None:
    wrong = settings.model_copy(update={"core": settings.core.model_copy(update=core)})
    with pytest.raises(SettingsError, match=f"setting {named}:"):
        keyring.check(wrong)
