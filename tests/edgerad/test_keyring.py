"""Secrets that edgerad makes itself: once, for the owner's eyes, never in the place of a configured one."""

import base64
import stat
from pathlib import Path

import pytest

from edgerad import keyring
from edgerad.sections import Secret


def test_a_secret_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    first = keyring.ensure(Secret(), tmp_path / "keys", "token")
    again = keyring.ensure(Secret(), tmp_path / "keys", "token")
    assert first == again
    value = first.reveal() or ""
    assert len(base64.urlsafe_b64decode(value + "=")) == 32
    assert first.file is not None
    assert first.file.is_absolute(), "other processes have other working folders"
    assert stat.S_IMODE(first.file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) & 0o077 == 0
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["token"], "no draft stays behind"
    assert keyring.ensure(Secret(), tmp_path / "keys", "other").reveal() != value


def test_a_configured_secret_is_left_alone(tmp_path: Path) -> None:
    given = Secret(value="sesame")
    assert keyring.ensure(given, tmp_path / "keys", "token") is given
    by_file = Secret(file=tmp_path / "mine")
    assert keyring.ensure(by_file, tmp_path / "keys", "token") is by_file
    assert not (tmp_path / "keys").exists()


def test_a_crash_in_the_middle_leaves_no_half_secret(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "token.new").write_text("half", encoding="utf-8")
    (keys / "token.new").chmod(0o644)
    value = keyring.ensure(Secret(), keys, "token").reveal()
    assert value != "half"
    assert stat.S_IMODE((keys / "token").stat().st_mode) == 0o600


def test_a_maker_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> str:
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011 - whatever the maker raises
        keyring.ensure(Secret(), tmp_path / "keys", "key.pem", fail)
    assert not (tmp_path / "keys" / "key.pem").exists()


def test_a_signing_key_signs_what_its_public_key_verifies() -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = keyring.signing_key()
    assert pem != keyring.signing_key()
    private = load_pem_private_key(pem.encode(), None)
    assert isinstance(private, Ed25519PrivateKey)
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(keyring.public_key(pem)))
    public.verify(private.sign(b"bundle"), b"bundle")
    with pytest.raises(InvalidSignature):
        public.verify(private.sign(b"bundle"), b"another")


def test_another_kind_of_key_is_refused_in_words() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    other = ec.generate_private_key(ec.SECP256R1())
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.raises(TypeError, match="not an Ed25519"):
        keyring.public_key(pem)
