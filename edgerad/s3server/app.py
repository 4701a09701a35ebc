"""S3's REST operations over a Disk, path-style, as one ASGI application.

Source: Amazon S3 API Reference. Left out, and answered NotImplemented: versions, access control, tags, encryption.
"""

from __future__ import annotations

import base64
import errno
import hmac
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from email.utils import formatdate
from typing import BinaryIO
from urllib.parse import parse_qsl, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from anyio.to_thread import run_sync
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from edgerad.s3server import conditions, documents, listings
from edgerad.s3server.auth import S3Error, Signed, decoded, verify
from edgerad.s3server.disk import CHUNK, ConditionFailed, Disk, Draft, Entry

BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
SUBRESOURCES = frozenset(
    {"acl", "cors", "encryption", "lifecycle", "notification", "object-lock", "policy", "replication", "tagging",
     "versions", "website", "restore", "select", "torrent", "legal-hold", "retention", "attributes", "accelerate"}
)  # fmt: skip
MAX_XML_BYTES = 2 * 2**20
MAX_PUT_BYTES = 5 * 2**30
"""Largest body of one request (Amazon S3 User Guide, "Uploading objects")."""
OnPut = Callable[[str, Entry], None]
"""Called with the bucket after an object is durable and before the client is told."""


class S3App:
    """The ASGI application; `keys` maps access keys to secret keys."""

    def __init__(self, disk: Disk, keys: Mapping[str, str], on_put: OnPut | None = None) -> None:
        """Keep what the operations work on."""
        self._disk, self._keys, self._on_put = disk, keys, on_put

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        try:
            response = await self._answered(request)
        except S3Error as error:
            response = _refusal(request, error)
        except ConditionFailed:
            response = _refusal(request, S3Error(412, "PreconditionFailed"))
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _answered(self, request: Request) -> Response:
        try:
            return await self._answer(request)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
        raise S3Error(507, "InsufficientStorage", "the disk of the embedded store is full")

    async def _answer(self, request: Request) -> Response:
        raw_path, raw_query = (
            request.scope["raw_path"].decode("latin-1"),
            request.scope["query_string"].decode("latin-1"),
        )
        signed = verify(request.method, raw_path, raw_query, request.headers, self._keys)
        try:
            bucket, _, key = unquote(raw_path.removeprefix("/"), errors="strict").partition("/")
        except UnicodeDecodeError:
            raise S3Error(400, "InvalidURI", "keys must be UTF-8") from None
        query = dict(parse_qsl(raw_query, keep_blank_values=True))
        if SUBRESOURCES & set(query):
            raise S3Error(501, "NotImplemented", "the embedded store does not have this")
        if not bucket:
            return await self._list_buckets()
        if not BUCKET.fullmatch(bucket):
            raise S3Error(400, "InvalidBucketName")
        if key:
            return await self._object(request, signed, bucket, key, query)
        return await self._bucket(request, signed, bucket, query)

    async def _list_buckets(self) -> Response:
        found = await run_sync(self._disk.buckets)
        inner = "".join(
            f"<Bucket><Name>{name}</Name><CreationDate>{documents.time(at)}</CreationDate></Bucket>"
            for name, at in found
        )
        return documents.ok("ListAllMyBucketsResult", f"<Owner><ID>edgerad</ID></Owner><Buckets>{inner}</Buckets>")

    async def _bucket(  # noqa: PLR0911 - one case an operation
        self, request: Request, signed: Signed, bucket: str, query: dict[str, str]
    ) -> Response:
        there = await run_sync(self._disk.has_bucket, bucket)
        if request.method == "PUT" and not query:
            await self._document(request, signed)
            await run_sync(self._disk.create_bucket, bucket)
            return Response(headers={"Location": f"/{bucket}"})
        if not there:
            raise S3Error(404, "NoSuchBucket")
        match request.method:
            case "HEAD":
                return Response()
            case "DELETE":
                if not await run_sync(self._disk.delete_bucket, bucket):
                    raise S3Error(409, "BucketNotEmpty")
                return Response(status_code=204)
            case "POST" if "delete" in query:
                return await self._delete_many(bucket, await self._document(request, signed))
            case "GET" if "location" in query:
                return documents.ok("LocationConstraint", "")
            case "GET" if "versioning" in query:
                return documents.ok("VersioningConfiguration", "")
            case "GET" if "uploads" in query:
                return await run_sync(listings.uploads, self._disk, bucket, query)
            case "GET":
                return await run_sync(listings.objects, self._disk, bucket, query)
        raise S3Error(405, "MethodNotAllowed")

    async def _delete_many(self, bucket: str, document: ElementTree.Element) -> Response:
        keys = [element.text or "" for element in document.iter() if element.tag.rpartition("}")[2] == "Key"]
        quiet = any(element.tag.endswith("Quiet") and element.text == "true" for element in document)
        for key in keys:
            await run_sync(self._disk.delete, bucket, key)
        inner = "" if quiet else "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        return documents.ok("DeleteResult", inner)

    async def _object(  # noqa: PLR0911 - one case an operation
        self, request: Request, signed: Signed, bucket: str, key: str, query: dict[str, str]
    ) -> Response:
        if len(key.encode()) > 1024:
            raise S3Error(400, "KeyTooLongError")
        if request.method in {"GET", "HEAD"} and "uploadId" not in query:
            return await run_sync(self._read, request, bucket, key)
        if not await run_sync(self._disk.has_bucket, bucket):
            raise S3Error(404, "NoSuchBucket")
        upload = query.get("uploadId")
        if upload is not None and await run_sync(self._disk.get, f"{bucket}/uploads", f"{key}/{upload}") is None:
            raise S3Error(404, "NoSuchUpload")
        match request.method:
            case "GET" if upload:
                return await self._list_parts(bucket, key, upload)
            case "PUT" if upload:
                return await self._put_part(request, signed, upload, query)
            case "PUT" if "x-amz-copy-source" in request.headers:
                return await self._copy(request, bucket, key)
            case "PUT":
                return await self._put(request, signed, bucket, key)
            case "POST" if "uploads" in query:
                upload = await run_sync(self._disk.start_upload, bucket, key, _kept_headers(request))
                inner = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><UploadId>{upload}</UploadId>"
                return documents.ok("InitiateMultipartUploadResult", inner)
            case "POST" if upload:
                return await self._complete(request, signed, bucket, key, upload)
            case "DELETE" if upload:
                await run_sync(self._disk.abort, upload, bucket, key)
                return Response(status_code=204)
            case "DELETE":
                await run_sync(self._disk.delete, bucket, key)
                return Response(status_code=204)
        raise S3Error(405, "MethodNotAllowed")

    def _read(self, request: Request, bucket: str, key: str) -> Response:
        """Answer a GET or HEAD, on one hop to a thread: what is not large is read at once."""
        found = self._disk.open(bucket, key)
        if found is None:
            if not self._disk.has_bucket(bucket):
                raise S3Error(404, "NoSuchBucket")
            raise S3Error(404, "NoSuchKey", "The specified key does not exist.")
        entry, file = found
        try:
            first, last, status = conditions.to_read(request, entry)
            headers = {**entry.headers, "ETag": f'"{entry.etag}"', "Accept-Ranges": "bytes"}
            headers["Last-Modified"] = formatdate(entry.modified, usegmt=True)
            if status != 304:
                headers["Content-Length"] = str(last - first + 1)
            if status == 206:
                headers["Content-Range"] = f"bytes {first}-{last}/{entry.size}"
            content = None
            if request.method == "GET" and status != 304:
                if last - first >= CHUNK:
                    return StreamingResponse(_pieces(file, first, last - first + 1), status, headers)
                file.seek(first)
                content = file.read(last - first + 1)
        except BaseException:
            file.close()
            raise
        file.close()
        return Response(content, status, headers)

    async def _put(self, request: Request, signed: Signed, bucket: str, key: str) -> Response:
        allowed = conditions.allowed_to_write(request)
        if allowed is not None:  # looked at before the body comes, and again when it is written
            old = await run_sync(self._disk.get, bucket, key)
            conditions.check_write(request, old.etag if old else None)
        draft = await self._received(request, signed)
        entry = await run_sync(self._disk.commit, bucket, key, draft, _kept_headers(request), None, allowed)
        await self._tell(bucket, entry)
        return Response(headers={"ETag": f'"{entry.etag}"'})

    async def _put_part(self, request: Request, signed: Signed, upload: str, query: dict[str, str]) -> Response:
        number = query.get("partNumber", "")
        if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= 10_000:
            raise S3Error(400, "InvalidArgument", "partNumber is 1 to 10000")
        if "x-amz-copy-source" in request.headers:
            raise S3Error(501, "NotImplemented", "parts cannot be copied here")
        draft = await self._received(request, signed)
        entry = await run_sync(self._disk.commit, f"{upload}/parts", f"{int(number):05}", draft, {})
        return Response(headers={"ETag": f'"{entry.etag}"'})

    async def _list_parts(self, bucket: str, key: str, upload: str) -> Response:
        parts = await run_sync(self._disk.parts, upload)
        inner = "".join(
            f"<Part><PartNumber>{number}</PartNumber>{documents.described(part)}</Part>"
            for number, part in parts.items()
        )
        head = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><UploadId>{upload}</UploadId>"
        return documents.ok("ListPartsResult", f"{head}<IsTruncated>false</IsTruncated>{inner}")

    async def _complete(self, request: Request, signed: Signed, bucket: str, key: str, upload: str) -> Response:
        kept, chosen, before = await run_sync(self._disk.parts, upload), [], 0
        for element in await self._document(request, signed):
            values = {child.tag.rpartition("}")[2]: child.text or "" for child in element}
            if "PartNumber" not in values:
                continue
            part = kept.get(number := int(values["PartNumber"]))
            if part is None or part.etag != values.get("ETag", "").strip('"'):
                raise S3Error(400, "InvalidPart")
            if number <= before:
                raise S3Error(400, "InvalidPartOrder")
            chosen.append(part)
            before = number
        if not chosen:
            raise S3Error(400, "MalformedXML", "no parts are named")
        entry = await run_sync(self._disk.complete, upload, bucket, key, chosen, conditions.allowed_to_write(request))
        await self._tell(bucket, entry)
        return documents.ok(
            "CompleteMultipartUploadResult",
            f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><ETag>&quot;{entry.etag}&quot;</ETag>",
        )

    async def _copy(self, request: Request, bucket: str, key: str) -> Response:
        source = unquote(request.headers["x-amz-copy-source"]).partition("?versionId")[0].removeprefix("/")
        from_bucket, _, from_key = source.partition("/")
        entry = await run_sync(self._disk.get, from_bucket, from_key) if BUCKET.fullmatch(from_bucket) else None
        if entry is None:
            raise S3Error(404, "NoSuchKey")
        replaced = request.headers.get("x-amz-metadata-directive", "COPY").upper() == "REPLACE"
        copied = await run_sync(
            self._disk.copy, entry, bucket, key, _kept_headers(request) if replaced else entry.headers
        )
        await self._tell(bucket, copied)
        return documents.ok(
            "CopyObjectResult",
            f"<ETag>&quot;{copied.etag}&quot;</ETag><LastModified>{documents.time(copied.modified)}</LastModified>",
        )

    async def _tell(self, bucket: str, entry: Entry) -> None:
        if self._on_put is not None:
            await run_sync(self._on_put, bucket, entry)

    async def _received(self, request: Request, signed: Signed, limit: int = MAX_PUT_BYTES) -> Draft:
        """Write the body to disk, `limit` bytes at most, and check it against all that the client said about it."""
        length = request.headers.get("x-amz-decoded-content-length")
        draft = await run_sync(self._disk.draft)
        try:
            body = decoded(request.stream(), signed, int(length) if length else None)
            async for data in _gathered(body, limit):
                await run_sync(draft.write, data)
            _check(draft, signed.payload, request.headers.get("content-md5"))
        except BaseException:
            draft.discard()
            raise
        return draft

    async def _document(self, request: Request, signed: Signed) -> ElementTree.Element:
        """Return the XML that a request carries; an empty element when it carries none."""
        draft = await self._received(request, signed, MAX_XML_BYTES)
        draft.sync()
        data = draft.path.read_bytes()
        draft.discard()
        try:
            if b"<!" in data:  # document types define entities, which can grow without bound
                raise S3Error(400, "MalformedXML")
            return ElementTree.fromstring(data or b"<Empty/>")  # noqa: S314 - bounded, and no document type
        except ElementTree.ParseError:
            raise S3Error(400, "MalformedXML") from None


def _refusal(request: Request, error: S3Error) -> Response:
    body = documents.xml("Error", f"<Code>{error.code}</Code><Message>{escape(error.message)}</Message>", namespace="")
    # A body that was not read to its end would be taken for the next request.
    headers = {"Connection": "close"} if request.method in {"PUT", "POST"} else {}
    return Response(b"" if request.method == "HEAD" else body, error.status, headers, "application/xml")


def _check(draft: Draft, sha256: str, md5: str | None) -> None:
    if len(sha256) == 64 and not hmac.compare_digest(sha256, draft.sha256.hexdigest()):
        raise S3Error(400, "XAmzContentSHA256Mismatch")
    if md5 and md5 != base64.b64encode(draft.md5.digest()).decode():
        raise S3Error(400, "BadDigest")


async def _gathered(body: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    """Yield the same bytes in pieces of at least CHUNK, so that a hop to a thread pays; `limit` bytes at most."""
    buffer, total = bytearray(), 0
    async for data in body:
        buffer += data
        total += len(data)
        if total > limit:
            raise S3Error(
                400, "EntityTooLarge" if limit == MAX_PUT_BYTES else "MalformedXML", f"more than {limit} bytes"
            )
        if len(buffer) >= CHUNK:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)


async def _pieces(file: BinaryIO, first: int, count: int) -> AsyncIterator[bytes]:
    with file:
        file.seek(first)
        while count > 0 and (data := await run_sync(file.read, min(CHUNK, count))):
            count -= len(data)
            yield data


def _kept_headers(request: Request) -> dict[str, str]:
    kept = {name: value for name, value in request.headers.items() if name.startswith("x-amz-meta-")}
    return {**kept, "content-type": request.headers.get("content-type", "binary/octet-stream")}
