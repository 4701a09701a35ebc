"""Alerts by HTTP POST, signed as Standard Webhooks 1.0.0: HMAC-SHA256 over id, timestamp and body."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from urllib.parse import urlsplit

import httpx

from edgerad.sections import NotifySettings
from edgerad.settings import SettingsError
from notify.alerts import Notice
from notify.channels.channel import ChannelError, Unreachable

TIMEOUT = httpx.Timeout(10.0, connect=5.0)
PREFIX = "whsec_"
KEY_BYTES = (24, 64)
"""Standard Webhooks 1.0.0, "Signature scheme": a key has between 192 and 512 bits."""


class Webhook:
    """Posts notices to one URL; redirects are not followed, so that what was signed goes where it was meant to go."""

    name = "webhook"

    def __init__(self, url: str, key: bytes) -> None:
        """Keep where to post and what to sign with."""
        self._url, self._key = url, key
        self._client = httpx.Client(timeout=TIMEOUT, headers={"user-agent": "edgerad"})

    def send(self, notice: Notice) -> None:
        """Post one notice; 2xx means delivered."""
        body = json.dumps(
            {"type": "alert.open", "timestamp": notice.payload["opened_at"], "data": notice.payload},
            separators=(",", ":"),
        ).encode()
        # The id stays the same for repeats of one level, so that a receiver can drop what it has seen. An alert that
        # was opened again has new ids: else a receiver would drop it as known.
        identity = f"{notice.alert_id}_{notice.level}" + (f"_{notice.reopened}" if notice.reopened else "")
        try:
            answer = self._client.post(self._url, content=body, headers=headers(identity, body, self._key))
        except httpx.HTTPError as error:
            raise Unreachable(type(error).__name__) from None
        if not answer.is_success:
            msg = f"status {answer.status_code}"
            raise ChannelError(msg)


def headers(identity: str, body: bytes, key: bytes, timestamp: int | None = None) -> dict[str, str]:
    """Return the headers of Standard Webhooks: webhook-id, webhook-timestamp, webhook-signature (v1)."""
    at = int(time.time()) if timestamp is None else timestamp
    signed = hmac.digest(key, f"{identity}.{at}.".encode() + body, hashlib.sha256)
    return {
        "content-type": "application/json",
        "webhook-id": identity,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }


def from_settings(settings: NotifySettings) -> Webhook | None:
    """Return the webhook of the settings, or None when there is no URL; SettingsError when URL or key are wrong."""
    if not settings.webhook_url:
        return None
    if not _is_http(settings.webhook_url):
        msg = "setting notify.webhook_url: write https://HOST/PATH (or http:// on a protected network)"
        raise SettingsError(msg)
    secret = settings.webhook_secret.reveal()
    if not secret:
        msg = "setting notify.webhook_secret: a webhook must be signed; make one with `openssl rand -base64 32`"
        raise SettingsError(msg)
    try:
        key = base64.b64decode(secret.strip().removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not KEY_BYTES[0] <= len(key) <= KEY_BYTES[1]:
        msg = "setting notify.webhook_secret: give {} to {} bytes in base64; make it with `openssl rand -base64 32`"
        raise SettingsError(msg.format(*KEY_BYTES))
    return Webhook(settings.webhook_url, key)


def _is_http(url: str) -> bool:
    try:
        return urlsplit(url).scheme in {"http", "https"} and bool(urlsplit(url).hostname) and bool(httpx.URL(url).host)
    except (ValueError, httpx.InvalidURL):
        return False
