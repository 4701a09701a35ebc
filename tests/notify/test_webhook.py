"""Webhooks as a receiver sees them: signed as Standard Webhooks says, checked by code of its own."""

import base64
import hashlib
import hmac
import http.server
import json
import logging
import threading
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from edgerad.sections import NotifySettings, Secret
from edgerad.settings import SettingsError
from notify.alerts import Notice
from notify.channels import ChannelError, Unreachable, configured
from notify.channels.webhook import headers

KEY = base64.b64encode(bytes(range(32))).decode()
NOTICE = Notice("a" * 32, 2, 0, {"alert_id": "a" * 32, "level": 2, "opened_at": "2026-03-01T00:00:00+00:00"})


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps what it got; answers what it is told to."""

    got: list[tuple[dict[str, str], bytes]]
    status: int

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        type(self).got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(type(self).status)
        if type(self).status == 302:
            self.send_header("location", "/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@pytest.fixture
def receiver() -> Iterator[tuple[type[Receiver], str]]:
    """A receiver and its URL."""

    class Fresh(Receiver):
        got: list[tuple[dict[str, str], bytes]] = []  # noqa: RUF012
        status = 204

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fresh) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Fresh, f"http://127.0.0.1:{server.server_port}/hook?token=hidden"
        server.shutdown()


def settings(url: str | None, secret: str | None = KEY) -> NotifySettings:
    """Return settings with a webhook."""
    return NotifySettings(webhook_url=url, webhook_secret=Secret(value=SecretStr(secret) if secret else None))


def verified(got: dict[str, str], body: bytes, secret: str) -> bool:
    """Verify as the spec says: 'v1,' and the base64 of HMAC-SHA256 over 'id.timestamp.body', several by space."""
    mac = hmac.new(base64.b64decode(secret), digestmod=hashlib.sha256)
    mac.update(got["webhook-id"].encode() + b"." + got["webhook-timestamp"].encode() + b"." + body)
    expected = base64.b64encode(mac.digest()).decode()
    versions = [entry.partition(",") for entry in got["webhook-signature"].split(" ")]
    return any(version == "v1" and hmac.compare_digest(value, expected) for version, _, value in versions)


def test_the_spec_s_own_example() -> None:
    # Standard Webhooks 1.0.0, test vector of the reference libraries.
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = headers("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', key, 1614265330)
    assert made["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert made["webhook-timestamp"] == "1614265330"


@pytest.mark.parametrize("secret", [KEY, f"whsec_{KEY}", f"{KEY}\n"])
def test_a_receiver_can_verify(receiver: tuple[type[Receiver], str], secret: str) -> None:
    kind, url = receiver
    (channel,) = configured(settings(url, secret))
    channel.send(NOTICE)
    ((got, body),) = kind.got
    assert verified(got, body, KEY)
    assert not verified(got, body.replace(b"2", b"3"), KEY)
    assert not verified(got | {"webhook-timestamp": "1"}, body, KEY)
    assert not verified(got, body, base64.b64encode(bytes(32)).decode())
    assert got["content-type"] == "application/json"
    told = json.loads(body)
    assert (told["type"], told["data"]) == ("alert.open", NOTICE.payload)


def test_a_repeat_has_the_same_id_and_another_level_another(receiver: tuple[type[Receiver], str]) -> None:
    kind, url = receiver
    (channel,) = configured(settings(url))
    for level in (0, 0, 1):
        channel.send(Notice("b" * 32, level, 0, NOTICE.payload))
    seen = [got["webhook-id"] for got, _ in kind.got]
    assert seen[0] == seen[1] != seen[2]


def test_an_alert_that_was_opened_again_has_new_ids(receiver: tuple[type[Receiver], str]) -> None:
    kind, url = receiver
    (channel,) = configured(settings(url))
    for reopened in (0, 1, 2):
        channel.send(Notice("b" * 32, 1, 0, NOTICE.payload, reopened))
    assert len({got["webhook-id"] for got, _ in kind.got}) == 3


@pytest.mark.parametrize("status", [302, 400, 410, 429, 500])
def test_anything_but_2xx_is_a_failure_and_redirects_are_not_followed(
    receiver: tuple[type[Receiver], str], status: int
) -> None:
    kind, url = receiver
    kind.status = status
    (channel,) = configured(settings(url))
    with pytest.raises(ChannelError, match=f"^status {status}$"):
        channel.send(NOTICE)
    assert len(kind.got) == 1


def test_nobody_there_is_told_apart_and_no_text_holds_the_url(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    (channel,) = configured(settings("http://127.0.0.1:9/hook?token=hidden"))
    with pytest.raises(Unreachable) as error:
        channel.send(NOTICE)
    assert str(error.value) == "ConnectError"
    assert error.value.__cause__ is None
    assert "hidden" not in caplog.text


@pytest.mark.parametrize(
    ("url", "secret", "key"),
    [
        ("https://example.org/hook", None, "webhook_secret"),
        ("https://example.org/hook", "not base64!", "webhook_secret"),
        ("https://example.org/hook", base64.b64encode(b"short").decode(), "24 to 64 bytes"),
        ("example.org/hook", KEY, "webhook_url"),
        ("ftp://example.org", KEY, "webhook_url"),
        ("http://[", KEY, "webhook_url"),
    ],
)
def test_settings_given_by_halves_are_named(url: str, secret: str | None, key: str) -> None:
    with pytest.raises(SettingsError, match=key) as error:
        configured(settings(url, secret))
    if secret:
        assert secret not in str(error.value)


def test_without_a_url_there_is_no_channel() -> None:
    assert configured(settings(None)) == []
