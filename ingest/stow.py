"""STOW-RS (PS3.18 10.5): multipart/related DICOM instances, each stored as it came."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgerad.store import ObjectStore, StoreError
from ingest.receiver import STORAGE_CLASSES, Instance, NotUnderstood, identify, keep, object_key

if TYPE_CHECKING:
    from fastapi import Request

PROCESSING_FAILURE, NOT_MATCHING, NOT_SUPPORTED, CANNOT_UNDERSTAND = 0x0110, 0xA900, 0x0122, 0xC000
"""FailureReason (0008,1197) values (PS3.18 Table I.2-2)."""
MAX_HEADER = 16 * 1024


class StowError(Exception):
    """A request that cannot be taken as a whole: HTTP status and what to do."""

    def __init__(self, status: int, text: str) -> None:
        """Keep the status."""
        super().__init__(text)
        self.status = status


def boundary_of(content_type: str) -> bytes:
    """Return the boundary of multipart/related; type="application/dicom". Raises StowError 415."""
    message = Message()
    message["content-type"] = content_type
    kind = str(message.get_param("type", "")).lower()
    boundary = message.get_param("boundary")
    if message.get_content_type() != "multipart/related" or kind != "application/dicom" or not boundary:
        raise StowError(415, 'send multipart/related; type="application/dicom"; boundary=… (PS3.18 10.5)')
    return str(boundary).encode()


async def parts(stream: AsyncIterator[bytes], boundary: bytes, limit: int, folder: Path) -> list[Path]:
    """Write each part's content to a file of `folder`; memory stays flat. Raises StowError for what is malformed."""
    mark = b"\r\n--" + boundary
    buffer, total = bytearray(b"\r\n"), 0
    found: list[Path] = []
    file: BinaryIO | None = None
    ended = False
    async for chunk in stream:
        total += len(chunk)
        if total > limit:
            raise StowError(413, f"more than {limit} bytes; raise gateway.max_stow_bytes if that is right")
        buffer += chunk
        while not ended:
            at = buffer.find(mark)
            if at < 0:
                safe = len(buffer) - len(mark)
                if file is not None and safe > 0:
                    file.write(buffer[:safe])
                    del buffer[:safe]
                break
            tail = buffer[at + len(mark) :]
            end_of_header = tail.find(b"\r\n\r\n")
            if tail[:2] == b"--":
                ended = True
            elif end_of_header < 0:
                if len(tail) > MAX_HEADER:
                    raise StowError(400, "a part's header is too long")
                break
            if file is not None:
                file.write(buffer[:at])
                file.close()
                file = None
            if not ended:
                del buffer[: at + len(mark) + end_of_header + 4]
                path = folder / f"{len(found)}.dcm"
                found.append(path)
                file = path.open("wb")
    if file is not None:
        file.close()
    if not ended or not found:
        raise StowError(400, "the multipart body ends too early or has no parts")
    return found


async def store_parts(
    request: Request, store: ObjectStore, limit: int, study: str | None
) -> tuple[int, dict[str, Any]]:
    """Store every part; return the HTTP status (200 all, 202 some, 409 none, 503 store down) and the response."""
    boundary = boundary_of(request.headers.get("content-type", ""))
    with tempfile.TemporaryDirectory(prefix="edgerad-stow-") as folder:
        files = await parts(request.stream(), boundary, limit, Path(folder))
        return await asyncio.to_thread(_store_all, files, store, study)


def _store_all(files: list[Path], store: ObjectStore, study: str | None) -> tuple[int, dict[str, Any]]:
    stored, failed, down = [], [], False
    for path in files:
        storage_class = ""
        instance = Instance("", "")
        try:
            with path.open("rb") as file:
                instance = identify(file)
                file.seek(0)
                storage_class = _storage_class(file)
            if study is not None and instance.study_uid != study:
                failed.append(_item(storage_class, instance, NOT_MATCHING))
            elif storage_class not in STORAGE_CLASSES:
                failed.append(_item(storage_class, instance, NOT_SUPPORTED))
            else:
                keep(store, path, object_key(instance.study_uid, instance.instance_uid))
                stored.append(_item(storage_class, instance))
        except NotUnderstood:
            failed.append(_item(storage_class, instance, CANNOT_UNDERSTAND))
        except StoreError:
            down = True
            failed.append(_item(storage_class, instance, PROCESSING_FAILURE))
    content: dict[str, Any] = {}
    if stored:
        content["00081199"] = {"vr": "SQ", "Value": stored}
    if failed:
        content["00081198"] = {"vr": "SQ", "Value": failed}
    if not failed:
        return 200, content
    return (202 if stored else 503 if down else 409), content


def _storage_class(file: BinaryIO) -> str:
    import pydicom

    dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SOPClassUID"])
    return str(dataset.get("SOPClassUID", ""))


def _item(storage_class: str, instance: Instance, failure: int | None = None) -> dict[str, Any]:
    item: dict[str, Any] = {}
    if re.fullmatch(r"[0-9.]{1,64}", storage_class):
        item["00081150"] = {"vr": "UI", "Value": [storage_class]}
    if re.fullmatch(r"[0-9.]{1,64}", instance.instance_uid):
        item["00081155"] = {"vr": "UI", "Value": [instance.instance_uid]}
    if failure is not None:
        item["00081197"] = {"vr": "US", "Value": [failure]}
    return item
