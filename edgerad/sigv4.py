"""AWS Signature Version 4: what a store's client and the embedded server compute alike.

Source: Amazon S3 API Reference, "Authenticating Requests (AWS Signature Version 4)".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from functools import lru_cache

EMPTY = hashlib.sha256(b"").hexdigest()
"""The payload of a request without a body."""


def signature(
    secret_key: str, scope: str, timestamp: str, method: str, path: str, query: str, headers: Mapping[str, str]
) -> str:
    """Return a request's signature, 64 hex digits.

    `scope` is date/region/s3/aws4_request; `path` and `query` are escaped as RFC 3986 has it, the query sorted;
    `headers` are those that are signed, in lower case, in order, x-amz-content-sha256 among them.
    """
    lines = "".join(f"{name}:{' '.join(value.split())}\n" for name, value in headers.items())
    canonical = f"{method}\n{path}\n{query}\n{lines}\n{';'.join(headers)}\n{headers['x-amz-content-sha256']}"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return signed(secret_key, scope, f"AWS4-HMAC-SHA256\n{timestamp}\n{scope}\n{digest}")


def signed(secret_key: str, scope: str, text: str) -> str:
    """Return the signature of a text in a scope, 64 hex digits."""
    return hmac.digest(_signing_key(secret_key, scope), text.encode(), "sha256").hex()


@lru_cache(8)
def _signing_key(secret_key: str, scope: str) -> bytes:
    """Return the key of a day, region and service, made once for it."""
    key = f"AWS4{secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
