"""Whom and what the embedded S3 server refuses: wrong keys, changed requests, wrong clocks, bad documents."""

import hashlib
import http.client
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from edgerad.s3server import S3Server
from edgerad.s3server.app import S3App
from tests.edgerad.s3server.conftest import SECRET, client_of, code, send


def test_a_wrong_secret_key_or_an_unknown_one_is_refused(server: S3Server, s3: Any) -> None:
    wrong = client_of(server, "wrong")
    for call in (wrong.list_buckets, lambda: wrong.put_object(Bucket="box", Key="k", Body=b"1")):
        with pytest.raises(ClientError) as caught:
            call()
        assert code(caught) == (403, "SignatureDoesNotMatch")
    stranger = client_of(server, access="who")
    with pytest.raises(ClientError) as caught:
        stranger.list_buckets()
    assert code(caught) == (403, "InvalidAccessKeyId")
    assert "Contents" not in s3.list_objects_v2(Bucket="box")


def test_what_is_signed_cannot_be_changed(server: S3Server, s3: Any) -> None:
    assert send(server, "PUT", "/box/k", b"content")[0] == 200
    spoilt: list[dict[str, str]] = [
        {"X-Amz-Content-SHA256": hashlib.sha256(b"other").hexdigest()},
        {"X-Amz-Date": (datetime.now(UTC) - timedelta(seconds=60)).strftime("%Y%m%dT%H%M%SZ")},
        {"Host": "elsewhere"},
        {"Authorization": ""},
        {"Authorization": "AWS4-HMAC-SHA256 nonsense"},
    ]
    for headers in spoilt:
        status, said = send(server, "PUT", "/box/k", b"changed", spoil=headers)
        assert status == 403, said
        assert SECRET.encode() not in said
    status, said = send(server, "PUT", "/box/k", b"changed", spoil={"Content-MD5": "mgNkuembtIDdJeHwKEyFVQ=="})
    assert (status, b"BadDigest" in said) == (400, True)
    assert s3.get_object(Bucket="box", Key="k")["Body"].read() == b"content"


def test_a_body_that_is_not_the_signed_one_is_refused(
    server: S3Server, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert send(server, "PUT", "/box/k", b"signed")[0] == 200
    real = http.client.HTTPConnection.request

    def forge(self: Any, method: str, url: str, body: bytes, headers: dict[str, str]) -> None:
        real(self, method, url, b"forged", headers)  # the header still has the digest of the signed one

    with monkeypatch.context() as patched:
        patched.setattr(http.client.HTTPConnection, "request", forge)
        status, said = send(server, "PUT", "/box/k", b"signed")
    assert (status, b"XAmzContentSHA256Mismatch" in said) == (400, True)
    assert s3.get_object(Bucket="box", Key="k")["Body"].read() == b"signed"


@pytest.mark.parametrize("minutes", [-16, 16])
def test_a_clock_that_is_wrong_is_told(server: S3Server, s3: Any, minutes: int) -> None:
    status, said = send(server, "GET", "/box", at=datetime.now(UTC) + timedelta(minutes=minutes))
    assert (status, b"RequestTimeTooSkewed" in said) == (403, True)
    assert send(server, "GET", "/box", at=datetime.now(UTC) + timedelta(minutes=minutes * 14 / 16))[0] == 200


def test_documents_are_bounded_and_define_nothing(server: S3Server, s3: Any) -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]><Delete><Object><Key>&a;</Key></Object></Delete>'
    for body in (bomb, b"<Delete><Object>", b"x" * (3 * 2**20)):
        status, said = send(server, "POST", "/box?delete=", body)
        assert (status, b"MalformedXML" in said) == (400, True)
    assert send(server, "GET", "/box")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80", "Origin": "http://evil.example:80"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_web_page_of_another_site_is_refused_before_its_signature_is_looked_at(
    server: S3Server, headers: dict[str, str]
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", "/box/key", headers=headers)
        answer = connection.getresponse()
        assert (answer.status, b"<Error>" in answer.read()) == (403, False)
    finally:
        connection.close()


def test_an_object_above_the_limit_is_refused_and_leaves_nothing(
    server: S3Server, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgerad.s3server.app.MAX_PUT_BYTES", 2**20)
    monkeypatch.setattr(S3App._received, "__defaults__", (2**20,))
    before = sorted((server.folder / "files").rglob("*"))
    status, body = send(server, "PUT", "/box/large", bytes(2**20 + 1))
    assert (status, b"EntityTooLarge" in body) == (400, True)
    assert send(server, "PUT", "/box/fits", bytes(2**20))[0] == 200
    s3.delete_object(Bucket="box", Key="fits")
    assert sorted((server.folder / "files").rglob("*")) == before
