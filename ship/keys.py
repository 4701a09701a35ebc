"""The site's secret and what is derived from it: pseudonyms, UIDs and date shifts that no one else can compute."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgerad import keyring

if TYPE_CHECKING:
    from edgerad.settings import Settings

SECRET_BYTES = 32
MIN_SHIFT_DAYS = 365
MAX_SHIFT_DAYS = 3649


class KeyMissing(Exception):
    """The site secret is absent, unreadable or malformed; the text says what to do."""


@dataclass(frozen=True, slots=True)
class SiteKey:
    """A secret of 32 bytes that never leaves the site, and the keyed maps made from it.

    Every map is HMAC-SHA256(secret, domain ‖ 0x00 ‖ issuer ‖ 0x00 ‖ value): alike in every worker and every run of one
    site, unlike across sites, and without the secret neither reversible nor open to enumeration.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            raise KeyMissing(f"the site secret has {len(self.secret)} bytes, it needs {SECRET_BYTES}")

    def digest(self, domain: str, issuer: str, value: str | bytes) -> bytes:
        """The 32 bytes of the keyed map; `domain` and `issuer` must hold no 0x00."""
        raw = value.encode() if isinstance(value, str) else value
        prefix = f"{domain}\0{issuer}\0"
        if prefix.count("\0") != 2:
            raise ValueError("domain and issuer must not contain a zero byte")
        return hmac.digest(self.secret, prefix.encode() + raw, hashlib.sha256)

    @property
    def key_id(self) -> str:
        """A name for this secret (16 hexadecimal digits) for audits; it tells nothing about the secret."""
        return self.digest("key", "", b"").hex()[:16]

    def identifier(self, domain: str, issuer: str, value: str) -> str:
        """A pseudonym of 16 base32 characters (80 bits): what a DICOM SH can hold."""
        return base64.b32encode(self.digest(domain, issuer, value)[:10]).decode()

    def uid(self, uid: str) -> str:
        """A DICOM UID under 2.25 (PS3.5 Annex B.2) of 128 bits in the place of `uid`."""
        return f"2.25.{int.from_bytes(self.digest('uid', '', uid)[:16])}"

    def shift(self, issuer: str, patient_id: str) -> dt.timedelta:
        """How far back all dates of a patient move: 365 to 3649 days, the same for each of them."""
        span = MAX_SHIFT_DAYS - MIN_SHIFT_DAYS + 1
        number = int.from_bytes(self.digest("date", issuer, patient_id)[:16])
        return dt.timedelta(days=-(MIN_SHIFT_DAYS + number % span))


def parse_secret(text: str) -> SiteKey:
    """The key from base64 (either alphabet, padding optional) or 64 hexadecimal digits; raises KeyMissing."""
    text = text.strip()
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        return SiteKey(bytes.fromhex(text))
    try:
        standard = text.rstrip("=").translate(str.maketrans("-_", "+/"))
        return SiteKey(base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True))
    except ValueError:
        raise KeyMissing("the site secret must be 32 bytes in base64 (`openssl rand -base64 32` makes one)") from None


def site_key(settings: Settings) -> SiteKey:
    """The key of `ship.site_secret`, else the one kept in `data_dir`/keys, made on first use; raises KeyMissing."""
    secret = keyring.ensure(settings.ship.site_secret, settings.data_dir / "keys", "site-secret")
    try:
        text = secret.reveal()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyMissing(
            f"ship.site_secret cannot be read ({type(error).__name__}): nothing is shipped without"
        ) from None
    if secret.file and secret.file.stat().st_mode & 0o007:
        raise KeyMissing("the file of ship.site_secret is open to every user of this machine: chmod 600 it")
    return parse_secret(text or "")
