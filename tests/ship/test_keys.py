"""Pseudonyms, UIDs and date shifts: the same for one secret everywhere, and nothing in common between two."""

from __future__ import annotations

import base64
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from edgerad.settings import load_settings
from ship.keys import MAX_SHIFT_DAYS, MIN_SHIFT_DAYS, KeyMissing, SiteKey, parse_secret, site_key

SECRET = bytes(range(32))
KEY, OTHER = SiteKey(SECRET), SiteKey(bytes(range(1, 33)))


def test_another_process_maps_alike() -> None:
    program = (
        "from ship.keys import SiteKey; k = SiteKey(bytes(range(32)));"
        "print(k.identifier('patient', 'A', '4711'), k.uid('1.2.3'), k.shift('A', '4711').days, k.key_id)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert answer == [
        KEY.identifier("patient", "A", "4711"), KEY.uid("1.2.3"), str(KEY.shift("A", "4711").days), KEY.key_id
    ]  # fmt: skip


def test_the_maps_never_change() -> None:
    """A release that maps otherwise would break every patient's history at the core."""
    assert KEY.identifier("patient", "A", "4711") == "KSVZ4FNGZO7FCOL4"
    assert KEY.uid("1.2.3") == "2.25.3767090339183390719236092827903339142"
    assert KEY.shift("A", "4711").days == -985


def test_two_sites_have_nothing_in_common() -> None:
    ids = [f"{number:06d}" for number in range(2000)]
    names = [{key.identifier("patient", "A", value) for value in ids} for key in (KEY, OTHER)]
    uids = [{key.uid(f"1.2.{value}") for value in ids} for key in (KEY, OTHER)]
    for here, there in (names, uids):
        assert len(here) == len(there) == len(ids)
        assert not here & there
    same_shift = sum(KEY.shift("A", value) == OTHER.shift("A", value) for value in ids)
    assert same_shift < 10  # 0.6 are expected by chance


def test_domains_issuers_and_values_do_not_run_into_each_other() -> None:
    digests = {
        KEY.digest(*parts)
        for parts in (("a", "b", "c"), ("ab", "", "c"), ("a", "", "bc"), ("a", "bc", ""), ("", "a", "bc"))
    }
    assert len(digests) == 5
    with pytest.raises(ValueError, match="zero byte"):
        KEY.digest("a", "b\0c", "d")


def test_identifiers_fit_an_sh_and_uids_a_ui() -> None:
    for value in ("", "1", "ä" * 500):
        assert re.fullmatch(r"[A-Z2-7]{16}", KEY.identifier("patient", "", value))
        uid = KEY.uid(value)
        assert len(uid) <= 64
        assert re.fullmatch(r"2\.25\.[1-9]\d*", uid)


def test_shifts_fill_their_range() -> None:
    days = [-KEY.shift("", str(number)).days for number in range(20_000)]
    assert MIN_SHIFT_DAYS <= min(days) < MIN_SHIFT_DAYS + 5
    assert MAX_SHIFT_DAYS - 5 < max(days) <= MAX_SHIFT_DAYS


@pytest.mark.parametrize(
    "text",
    [
        SECRET.hex(),
        base64.b64encode(SECRET).decode(),
        base64.urlsafe_b64encode(bytes([255] * 32)).decode(),
        base64.b64encode(SECRET).decode().rstrip("=") + "\n",
    ],
)
def test_a_secret_is_read_in_every_usual_spelling(text: str) -> None:
    assert parse_secret(text).secret in (SECRET, bytes([255] * 32))


@pytest.mark.parametrize("text", ["", "hunter2", "0" * 63, base64.b64encode(bytes(31)).decode(), "ü" * 32])
def test_a_secret_of_the_wrong_size_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(KeyMissing) as caught:
        parse_secret(text)
    assert not text or text not in str(caught.value)


def test_the_secret_does_not_show_when_a_key_is_printed() -> None:
    key = SiteKey(secrets.token_bytes(32))
    assert key.secret.hex() not in repr(key)
    assert repr(key.secret) not in repr(key)


def test_a_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    first = site_key(settings)
    assert site_key(settings) == first
    assert len(first.secret) == 32
    assert (tmp_path / "keys" / "site-secret").stat().st_mode & 0o077 == 0


def test_a_secret_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET.hex())
    path.chmod(0o644)
    with pytest.raises(KeyMissing, match="chmod 600"):
        site_key(load_settings(data_dir=tmp_path, ship={"site_secret": {"file": path}}))
    path.chmod(0o600)
    assert site_key(load_settings(data_dir=tmp_path, ship={"site_secret": {"file": path}})) == KEY


def test_a_secret_file_that_is_gone_is_missing_and_no_new_one_is_made(tmp_path: Path) -> None:
    with pytest.raises(KeyMissing, match="cannot be read"):
        site_key(load_settings(data_dir=tmp_path, ship={"site_secret": {"file": tmp_path / "gone"}}))
    assert not (tmp_path / "keys").exists()
