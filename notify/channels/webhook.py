"""Alerts by HTTP POST, signed as Standard Webhooks 1.0: HMAC-SHA256 over id, timestamp and body."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time

import httpx

from edgerad.settings import NotifySettings, SettingsError
from notify.alerts import Notice

TIMEOUT = 10.0
PREFIX = "whsec_"


class ChannelError(Exception):
    """A notice did not get through; the text says why, without the URL, which can hold a token."""


class Webhook:
    """Posts notices to one URL."""

    name = "webhook"

    def __init__(self, url: str, key: bytes) -> None:
        """Keep where to post and what to sign with."""
        self._url, self._key = url, key

    def send(self, notice: Notice) -> None:
        """Post one notice; 2xx means delivered."""
        body = json.dumps({"type": "alert.open", "data": notice.payload}, separators=(",", ":")).encode()
        # The id stays the same for repeats of one level, so that a receiver can drop what it has seen.
        identity = f"{notice.alert_id}.{notice.level}"
        try:
            answer = httpx.post(self._url, content=body, headers=headers(identity, body, self._key), timeout=TIMEOUT)
        except httpx.HTTPError as error:
            raise ChannelError(type(error).__name__) from None
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
    """Return the webhook of the settings, or None when there is no URL; SettingsError when its key is missing."""
    if not settings.webhook_url:
        return None
    secret = settings.webhook_secret.reveal()
    if not secret:
        msg = "setting notify.webhook_secret: a webhook must be signed; set it (base64, with or without whsec_)"
        raise SettingsError(msg)
    try:
        return Webhook(settings.webhook_url, base64.b64decode(secret.removeprefix(PREFIX), validate=True))
    except binascii.Error:
        msg = "setting notify.webhook_secret: not base64; make one with `openssl rand -base64 32`"
        raise SettingsError(msg) from None
