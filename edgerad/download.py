"""An object's bytes by one signed GET over boto3's own connections, at a fraction of boto3's cost (ADR 15).

boto3 resolves endpoint rules, runs hooks, makes a user agent and parses dates for every request: about half of the CPU
that a replica spends on top of decoding. Here a request is signed and sent; only the plain success is understood.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from botocore.awsrequest import AWSPreparedRequest
from botocore.exceptions import BotoCoreError, HTTPClientError
from urllib3.exceptions import HTTPError

from edgerad.sigv4 import EMPTY, signature
from edgerad.store import check_size

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

OK = 200


class Download:
    """Whole objects of one bucket, path-style. Safe to share between threads."""

    def __init__(self, client: S3Client, bucket: str, access_key: str, secret_key: str) -> None:
        """Take endpoint, region, and connections with their TLS, proxies and timeouts from boto3's client."""
        inside: Any = client
        self._session = inside._endpoint.http_session
        where = urlsplit(client.meta.endpoint_url)
        self._origin, self._host = f"{where.scheme}://{where.netloc}", where.netloc.rpartition("@")[2].lower()
        if where.port == {"http": 80, "https": 443}.get(where.scheme):
            self._host = self._host.rpartition(":")[0]
        self._folder = f"{where.path.rstrip('/')}/{bucket}/"
        self._region, self._access_key, self._secret_key = client.meta.region_name, access_key, secret_key

    def get(self, key: str, etag: str | None, limit_bytes: int | None) -> bytes | None:
        """Return an object's bytes; None for every other end than success, which boto3 shall find out and name.

        Raises ObjectTooLarge before anything is read.
        """
        path = self._folder + quote(key, safe="/-_.~")
        headers: Any = self._headers(path, etag)
        request = AWSPreparedRequest("GET", self._origin + path, headers, None, stream_output=True)
        try:
            answer = self._session.send(request)
            with answer.raw as body:
                length = answer.headers.get("Content-Length", "")
                if answer.status_code != OK or not length.isdecimal():
                    return None
                check_size(int(length), limit_bytes)
                data: bytes = body.read()
        except (BotoCoreError, HTTPClientError, HTTPError, OSError):
            return None
        return data if len(data) == int(length) else None

    def _headers(self, path: str, etag: str | None) -> dict[str, str]:
        """Return the headers of a GET, signed."""
        at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        condition = {"if-match": f'"{etag}"'} if etag else {}
        headers = {"host": self._host, **condition, "x-amz-content-sha256": EMPTY, "x-amz-date": at}
        scope = f"{at[:8]}/{self._region}/s3/aws4_request"
        proof = signature(self._secret_key, scope, at, "GET", path, "", headers)
        credential = f"Credential={self._access_key}/{scope}, SignedHeaders={';'.join(headers)}, Signature={proof}"
        return headers | {"authorization": f"AWS4-HMAC-SHA256 {credential}"}
