"""Uploads in parts: all at once, or so that they go on where they ended, whoever began them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

from edgerad.store import ObjectGone, ObjectStore, Stored, StoreUnavailable, etag_of, store_errors

PART_BYTES = 16 * 2**20

Read = Callable[[int, int], bytes]
"""Return `count` bytes from `first` on."""


def put_in_parts(
    store: ObjectStore,
    key: str,
    file: BinaryIO,
    content_type: str = "application/octet-stream",
    metadata: Mapping[str, str] | None = None,
    part_bytes: int = PART_BYTES,
) -> Stored:
    """Write a large object in parts, one part in memory at a time; a failure leaves nothing behind."""
    with store_errors("write an object in parts"):
        where = {"Bucket": store.bucket, "Key": key}
        upload = store.client.create_multipart_upload(
            **where,  # type: ignore[arg-type]
            ContentType=content_type,
            Metadata=dict(metadata or {}),
        )["UploadId"]
        try:
            parts: list[Any] = []
            while (chunk := file.read(part_bytes)) or not parts:
                number = len(parts) + 1
                part = store.client.upload_part(**where, UploadId=upload, PartNumber=number, Body=chunk)  # type: ignore[arg-type]
                parts.append({"PartNumber": number, "ETag": part["ETag"]})
            answer = store.client.complete_multipart_upload(
                **where,  # type: ignore[arg-type]
                UploadId=upload,
                MultipartUpload={"Parts": parts},
            )
        except BaseException:
            with store_errors("give up an upload", suppress=True):
                store.client.abort_multipart_upload(**where, UploadId=upload)  # type: ignore[arg-type]
            raise
        etag = etag_of(answer) or store.head(key).etag  # Ceph 16 answers without
        return Stored(etag, answer.get("VersionId"))


def put_resumed(
    store: ObjectStore,
    key: str,
    read: Read,
    size: int,
    part_bytes: int,
    *,
    body: Callable[[bytes], Any] = lambda data: data,
    before_part: Callable[[], None] = lambda: None,
) -> int:
    """Write an object in parts and return how many of them were sent now.

    What an earlier attempt has left at the store is compared by its MD5 and not sent again; so nothing has to be
    remembered here, and a part of other content never gets into the object. `body` makes a request's body of a part,
    `before_part` may raise to stop. On any error the upload stays at the store, to be resumed or aborted.
    """
    upload, there = _begun(store, key)
    parts: list[Any] = []
    sent = 0
    for number, first in enumerate(range(0, size, part_bytes), start=1):
        data = read(first, min(part_bytes, size - first))
        etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        if there.get(number) != (etag, len(data)):
            before_part()
            with store_errors("write a part of an object"):
                answer = store.client.upload_part(
                    Bucket=store.bucket, Key=key, UploadId=upload, PartNumber=number, Body=body(data)
                )
                etag = answer["ETag"]
            sent += 1
        parts.append({"PartNumber": number, "ETag": etag})
    with store_errors("complete an upload"):
        store.client.complete_multipart_upload(
            Bucket=store.bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
        )
    if store.head(key).size != size:
        msg = "object store says that an upload is complete, and it is not"
        raise StoreUnavailable(msg)
    return sent


def abort_uploads(store: ObjectStore, prefix: str, keep: Callable[[str], bool]) -> int:
    """Abort the unfinished uploads below a prefix whose keys are not to be kept; return how many."""
    stale = [(key, upload) for key, upload in _uploads(store, prefix) if not keep(key)]
    for key, upload in stale:
        _abort(store, key, upload)
    return len(stale)


def _begun(store: ObjectStore, key: str) -> tuple[str, dict[int, tuple[str, int]]]:
    """Return the upload to go on with and its parts (ETag with quotes, size) by number: one left behind, or a new."""
    left = [upload for found, upload in _uploads(store, key) if found == key]
    for upload in left[:-1]:
        _abort(store, key, upload)
    for upload in left[-1:]:
        try:
            return upload, _parts(store, key, upload)
        except ObjectGone:  # aborted at the store between the two looks
            break
    with store_errors("begin an upload"):
        answer = store.client.create_multipart_upload(Bucket=store.bucket, Key=key)
        return answer["UploadId"], {}


def _uploads(store: ObjectStore, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield key and id of the unfinished uploads, the oldest first for each key."""
    with store_errors("list uploads"):
        found = []
        for page in store.client.get_paginator("list_multipart_uploads").paginate(Bucket=store.bucket, Prefix=prefix):
            found += [(item["Key"], item["Initiated"], item["UploadId"]) for item in page.get("Uploads", ())]
    for key, _, upload in sorted(found):
        yield key, upload


def _parts(store: ObjectStore, key: str, upload: str) -> dict[int, tuple[str, int]]:
    with store_errors("list the parts of an upload"):
        pages = store.client.get_paginator("list_parts").paginate(Bucket=store.bucket, Key=key, UploadId=upload)
        return {
            part["PartNumber"]: (f'"{part["ETag"].strip(chr(34))}"', part["Size"])
            for page in pages
            for part in page.get("Parts", ())
        }


def _abort(store: ObjectStore, key: str, upload: str) -> None:
    with store_errors("abort an upload", also_fine=("NoSuchUpload",)):
        store.client.abort_multipart_upload(Bucket=store.bucket, Key=key, UploadId=upload)
