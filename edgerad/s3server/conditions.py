"""Conditions of a request: If-Match, If-None-Match and Range.

Source: RFC 9110, sections 13 and 14, as far as S3 keeps them.
"""

from __future__ import annotations

import re

from starlette.requests import Request

from edgerad.s3server.auth import S3Error
from edgerad.s3server.disk import Allowed, Entry


def allowed_to_write(request: Request) -> Allowed | None:
    """Return the condition of a write (If-None-Match: *, or If-Match), or None."""
    if request.headers.get("if-none-match") == "*":
        return lambda etag: etag is None
    tags = request.headers.get("if-match")
    return None if tags is None else lambda etag: etag is not None and _matches(tags, etag)


def check_write(request: Request, etag: str | None) -> None:
    """Raise S3Error where the condition of a write does not hold for what is there (its ETag, or None)."""
    if "if-match" in request.headers and etag is None:
        raise S3Error(404, "NoSuchKey", "The specified key does not exist.")
    allowed = allowed_to_write(request)
    if allowed is not None and not allowed(etag):
        raise S3Error(412, "PreconditionFailed")


def _matches(tags: str, etag: str) -> bool:
    return tags.strip() == "*" or etag in (tag.strip(' "') for tag in tags.split(","))


def to_read(request: Request, entry: Entry) -> tuple[int, int, int]:
    """Return first and last byte to send and the status, by If-Match, If-None-Match and Range."""
    if not _matches(request.headers.get("if-match", "*"), entry.etag):
        raise S3Error(412, "PreconditionFailed")
    whole = (0, entry.size - 1)
    if _matches(request.headers.get("if-none-match", ""), entry.etag):
        return (*whole, 304)
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if not match or match.groups() == ("", ""):
        return (*whole, 200)
    start, end = match.groups()
    first = int(start) if start else max(entry.size - int(end), 0)
    last = min(int(end), entry.size - 1) if start and end else entry.size - 1
    if first > last:
        raise S3Error(416, "InvalidRange")
    return first, last, 206
