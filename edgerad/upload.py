"""Uploads in parts that go on where they ended, whoever began them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from edgerad.store import ObjectGone, ObjectStore, StoreUnavailable, store_errors

Read = Callable[[int, int], bytes]
"""Return `count` bytes from `first` on."""


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
