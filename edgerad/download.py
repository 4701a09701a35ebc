"""An object's bytes by one signed GET over boto3's own connections, at a fraction of boto3's cost (ADR 15).

boto3 resolves endpoint rules, runs hooks, makes a user agent and parses dates for every request: about half of the CPU
that a replica spends on top of decoding; urllib3 and http.client make a mail message of the answer's headers. Here a
request is signed and sent over the connection itself; only the plain success is understood.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, urlsplit

from urllib3.exceptions import HTTPError

from edgerad.sigv4 import EMPTY, signature
from edgerad.store import check_size

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

LINE_BYTES, LINES = 8192, 100
"""Longest line of an answer's head, and most lines."""


class Download:
    """Whole objects of one bucket, path-style. Safe to share between threads."""

    def __init__(self, client: S3Client, bucket: str, access_key: str, secret_key: str) -> None:
        """Take endpoint, region, and connections with their TLS and timeouts from boto3's client."""
        inside: Any = client
        session, endpoint = inside._endpoint.http_session, client.meta.endpoint_url
        self._pool: Any = None
        if not session._proxy_config.proxy_url_for(endpoint):  # with a proxy boto3 does it all
            self._pool = session._manager.connection_from_url(endpoint)
            session._setup_ssl_cert(self._pool, endpoint, session._verify)
        where = urlsplit(endpoint)
        self._host = where.netloc.rpartition("@")[2].lower()
        if where.port == {"http": 80, "https": 443}.get(where.scheme):
            self._host = self._host.rpartition(":")[0]
        self._folder = f"{where.path.rstrip('/')}/{bucket}/"
        self._region, self._access_key, self._secret_key = client.meta.region_name, access_key, secret_key

    def get(self, key: str, etag: str | None, limit_bytes: int | None) -> bytes | None:
        """Return an object's bytes; None for every other end than success, which boto3 shall find out and name.

        Raises ObjectTooLarge before anything is read.
        """
        if self._pool is None:
            return None
        path = self._folder + quote(key, safe="/-_.~")
        head = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in self._headers(path, etag).items())]
        try:
            connection = self._pool._get_conn()
        except HTTPError:
            return None
        data, length, keep = None, None, False
        try:
            if not connection.is_connected:
                connection.timeout = self._pool.timeout.connect_timeout
                connection.connect()
            connection.sock.settimeout(self._pool.timeout.read_timeout)
            connection.sock.sendall("\r\n".join([*head, "accept-encoding: identity", "", ""]).encode())
            with connection.sock.makefile("rb") as answer:
                length, keep = _read_head(answer)
                if length is not None:
                    check_size(length, limit_bytes)
                    data = answer.read(length)
        except (HTTPError, OSError):
            data = None
        finally:
            whole = data is not None and len(data) == length
            if not whole or not keep:
                connection.close()
            self._pool._put_conn(connection)
        return data if whole else None

    def _headers(self, path: str, etag: str | None) -> dict[str, str]:
        """Return the headers of a GET, signed."""
        at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        condition = {"if-match": f'"{etag}"'} if etag else {}
        headers = {"host": self._host, **condition, "x-amz-content-sha256": EMPTY, "x-amz-date": at}
        scope = f"{at[:8]}/{self._region}/s3/aws4_request"
        proof = signature(self._secret_key, scope, at, "GET", path, "", headers)
        credential = f"Credential={self._access_key}/{scope}, SignedHeaders={';'.join(headers)}, Signature={proof}"
        return headers | {"authorization": f"AWS4-HMAC-SHA256 {credential}"}


def _read_head(answer: BinaryIO) -> tuple[int | None, bool]:
    """Return an answer's length, None unless it is a plain success, and whether the connection stays open."""
    if not answer.readline(LINE_BYTES).startswith(b"HTTP/1.1 200 "):
        return None, False
    headers = {}
    for _ in range(LINES):
        line = answer.readline(LINE_BYTES)
        if line in {b"\r\n", b"\n"}:
            break
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip()
    else:
        return None, False
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or b"transfer-encoding" in headers:
        return None, False
    return int(length), headers.get(b"connection", b"").lower() != b"close"
