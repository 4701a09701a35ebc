"""The XML documents that S3 answers with."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.responses import Response

from edgerad.s3server.disk import Entry

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


def ok(root: str, inner: str) -> Response:
    """Return the answer of an operation that was done."""
    return Response(xml(root, inner), 200, media_type="application/xml")


def xml(root: str, inner: str, namespace: str = NAMESPACE) -> bytes:
    """Return a document; `inner` is XML already."""
    attribute = f' xmlns="{namespace}"' if namespace else ""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{root}{attribute}>{inner}</{root}>'.encode()


def described(entry: Entry) -> str:
    """Return the elements that tell of an object or a part."""
    modified, etag = time(entry.modified), f"&quot;{entry.etag}&quot;"
    return f"<LastModified>{modified}</LastModified><ETag>{etag}</ETag><Size>{entry.size}</Size>"


def time(seconds: float) -> str:
    """Return a time, given in seconds since 1970, as S3 writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
