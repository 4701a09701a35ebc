"""AWS Signature Version 4, checked by recomputing it; and the aws-chunked body encoding."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, unquote

from edgerad.sigv4 import EMPTY, signature, signed

SKEW_SECONDS = 15 * 60
AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/,\s]+)/(\d{8})/([^/,\s]+)/s3/aws4_request,\s*"
    r"SignedHeaders=([^,\s]+),\s*Signature=([0-9a-f]{64})"
)
MAX_LINE = 16 * 1024


class S3Error(Exception):
    """An answer of S3 other than success: HTTP status, error code, message without the key."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        """Keep the three."""
        super().__init__(code)
        self.status, self.code, self.message = status, code, message or code


@dataclass(frozen=True, slots=True)
class Signed:
    """A verified request: what its body must be checked with."""

    payload: str  # value of x-amz-content-sha256
    signature: str
    timestamp: str
    scope: str
    secret_key: str

    def chunk_signature(self, previous: str, chunk: bytes) -> str:
        """Return the signature that one chunk of a signed streaming body must have."""
        text = "\n".join(
            ("AWS4-HMAC-SHA256-PAYLOAD", self.timestamp, self.scope, previous, EMPTY, hashlib.sha256(chunk).hexdigest())
        )
        return signed(self.secret_key, self.scope, text)


def verify(
    method: str, path: str, query: str, headers: Mapping[str, str], keys: Mapping[str, str], now: datetime | None = None
) -> Signed:
    """Check a request's Authorization header; `path` and `query` as they came, header names in lower case.

    Raises S3Error (403) for anything unsigned, unknown, too old, too early or signed otherwise.
    """
    match = AUTHORIZATION.fullmatch(headers.get("authorization", "").strip())
    if not match:
        raise S3Error(403, "AccessDenied", "requests must carry an AWS4-HMAC-SHA256 Authorization header")
    access_key, day, region, names, given = match.groups()
    timestamp = headers.get("x-amz-date", "")
    try:
        age = (now or datetime.now(UTC)) - datetime.strptime(timestamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise S3Error(403, "AccessDenied", "X-Amz-Date is missing or malformed") from None
    if abs(age.total_seconds()) > SKEW_SECONDS or not timestamp.startswith(day):
        raise S3Error(403, "RequestTimeTooSkewed", "clocks differ by more than 15 minutes")
    secret_key = keys.get(access_key)
    if secret_key is None:
        raise S3Error(403, "InvalidAccessKeyId")
    chosen = sorted(names.split(";"))
    if not {"host", "x-amz-date", "x-amz-content-sha256"} <= set(chosen) or not set(chosen) <= set(headers):
        raise S3Error(403, "AccessDenied", "host, x-amz-date and x-amz-content-sha256 must be signed")

    scope = f"{day}/{region}/s3/aws4_request"
    values = {name: headers[name] for name in chosen}
    expected = signature(secret_key, scope, timestamp, method, _again(path, "/"), _canonical(query), values)
    if not hmac.compare_digest(expected, given):
        raise S3Error(403, "SignatureDoesNotMatch", "check the secret key")
    return Signed(values["x-amz-content-sha256"], given, timestamp, scope, secret_key)


def _again(text: str, safe: str = "") -> str:
    # Clients leave different characters unescaped; the signature is over RFC 3986 form.
    return quote(unquote(text, errors="surrogateescape"), safe=f"{safe}-_.~", errors="surrogateescape")


def _canonical(query: str) -> str:
    pairs = [(_again(name), _again(value)) for name, _, value in (i.partition("=") for i in query.split("&") if i)]
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


async def decoded(body: AsyncIterator[bytes], signed: Signed, expected_bytes: int | None) -> AsyncIterator[bytes]:
    """Yield a body's content, out of the aws-chunked encoding where it is in it, checking what its encoding checks.

    Checked: the chunks' signatures (STREAMING-AWS4-HMAC-SHA256-PAYLOAD), the decoded length, and trailing CRC32, SHA-1
    and SHA-256 checksums (a trailing CRC32C or CRC64NVME is left alone: the standard library has neither).
    """
    if not signed.payload.startswith("STREAMING-"):
        async for data in body:
            yield data
        return
    reader, previous, total = _Reader(body), signed.signature, 0
    crc32, sha1, sha256 = 0, hashlib.sha1(usedforsecurity=False), hashlib.sha256()
    while True:
        size, _, extension = (await reader.line()).partition(";")
        if not re.fullmatch(r"[0-9a-fA-F]{1,8}", size):
            raise S3Error(400, "InvalidRequest", "malformed aws-chunked body")
        chunk = await reader.exactly(int(size, 16))
        if signed.payload.startswith("STREAMING-AWS4"):
            previous = signed.chunk_signature(previous, chunk)
            if not hmac.compare_digest(extension, f"chunk-signature={previous}"):
                raise S3Error(403, "SignatureDoesNotMatch", "a chunk is signed wrongly")
        if not chunk:
            break
        crc32, total = zlib.crc32(chunk, crc32), total + len(chunk)
        sha1.update(chunk)
        sha256.update(chunk)
        yield chunk
        await reader.line()
    digests = {"crc32": crc32.to_bytes(4, "big"), "sha1": sha1.digest(), "sha256": sha256.digest()}
    while line := await reader.line():
        name, _, value = line.partition(":")
        digest = digests.get(name.strip().lower().removeprefix("x-amz-checksum-"))
        if digest is not None and value.strip() != base64.b64encode(digest).decode():
            raise S3Error(400, "BadDigest", "the trailing checksum does not match")
    if expected_bytes is not None and total != expected_bytes:
        raise S3Error(400, "IncompleteBody", "x-amz-decoded-content-length does not match")


class _Reader:
    """Lines and exact counts of bytes out of a stream of pieces."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body, self._buffer = body, bytearray()

    async def _more(self) -> bool:
        data = await anext(self._body, None)
        self._buffer += data or b""
        return data is not None

    async def line(self) -> str:
        """Return the next line without its CRLF; empty at the end."""
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > MAX_LINE:
                raise S3Error(400, "InvalidRequest", "malformed aws-chunked body")
            if not await self._more():
                return ""
        text = self._buffer[:end].decode("latin-1")
        del self._buffer[: end + 2]
        return text

    async def exactly(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if count > 2**26:
            raise S3Error(400, "InvalidRequest", "chunks may have at most 64 MiB")
        while len(self._buffer) < count:
            if not await self._more():
                raise S3Error(400, "IncompleteBody")
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data
