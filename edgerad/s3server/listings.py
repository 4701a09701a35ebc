"""Listings: a bucket's objects with prefix, delimiter and continuation, and its unfinished uploads."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import quote
from xml.sax.saxutils import escape

from starlette.responses import Response

from edgerad.s3server import documents
from edgerad.s3server.auth import S3Error
from edgerad.s3server.disk import Disk, Entry


def objects(disk: Disk, bucket: str, query: dict[str, str]) -> Response:
    """List objects, version 1 or 2, with prefix, delimiter and continuation."""
    second = query.get("list-type") == "2"
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    try:
        limit = min(max(int(query.get("max-keys") or 1000), 0), 1000)
        token = base64.b64decode(query.get("continuation-token", ""), b"-_", validate=True).decode()
    except (ValueError, binascii.Error):
        raise S3Error(400, "InvalidArgument", "max-keys or continuation-token") from None
    after = token or query.get("start-after" if second else "marker", "")
    entries, folders, more, last = _walk(disk, bucket, prefix, delimiter, after, limit)

    name = quote if query.get("encoding-type") == "url" else escape
    inner = [f"<Name>{bucket}</Name><Prefix>{name(prefix)}</Prefix><MaxKeys>{limit}</MaxKeys>"]
    inner.append(f"<Delimiter>{name(delimiter)}</Delimiter>" if delimiter else "")
    inner.append("<EncodingType>url</EncodingType>" if name is quote else "")
    inner.append(f"<IsTruncated>{str(more).lower()}</IsTruncated>")
    if second:
        inner.append(f"<KeyCount>{len(entries) + len(folders)}</KeyCount>")
        if more:
            token = base64.urlsafe_b64encode(last.encode()).decode()
            inner.append(f"<NextContinuationToken>{token}</NextContinuationToken>")
    else:
        inner.append(f"<Marker>{name(query.get('marker', ''))}</Marker>")
        inner.append(f"<NextMarker>{name(last)}</NextMarker>" if more else "")
    for entry in entries:
        described = documents.described(entry)
        inner.append(
            f"<Contents><Key>{name(entry.key)}</Key>{described}<StorageClass>STANDARD</StorageClass></Contents>"
        )
    inner += [f"<CommonPrefixes><Prefix>{name(folder)}</Prefix></CommonPrefixes>" for folder in folders]
    return documents.ok("ListBucketResult", "".join(inner))


def _walk(
    disk: Disk, bucket: str, prefix: str, delimiter: str, after: str, limit: int
) -> tuple[list[Entry], list[str], bool, str]:
    """Return a page's objects and folders, whether more follow, and what to go on after."""
    entries: list[Entry] = []
    folders: list[str] = []
    while True:
        # A folder is one query, however many objects it holds: its last possible key is jumped to.
        jump = after + "\U0010ffff" if delimiter and after.endswith(delimiter) and after > prefix else after
        batch = disk.page(bucket, prefix, jump, limit - len(entries) - len(folders) + 1)
        for entry in batch:
            if len(entries) + len(folders) == limit:
                return entries, folders, limit > 0, after
            cut = entry.key.find(delimiter, len(prefix)) if delimiter else -1
            after = entry.key[: cut + len(delimiter)] if cut >= 0 else entry.key
            if cut >= 0:
                folders.append(after)
                break
            entries.append(entry)
        else:
            return entries, folders, False, after


def uploads(disk: Disk, bucket: str, query: dict[str, str]) -> Response:
    """List the unfinished uploads below a prefix."""
    name = quote if query.get("encoding-type") == "url" else escape
    inner = [f"<Bucket>{bucket}</Bucket><IsTruncated>false</IsTruncated>"]
    for entry in disk.page(f"{bucket}/uploads", query.get("prefix", "")):
        key, _, upload = entry.key.rpartition("/")
        started = f"<Initiated>{documents.time(entry.modified)}</Initiated>"
        inner.append(f"<Upload><Key>{name(key)}</Key><UploadId>{upload}</UploadId>{started}</Upload>")
    return documents.ok("ListMultipartUploadsResult", "".join(inner))
