"""STOW-RS (PS3.18 10.5): multipart/related DICOM instances, each stored as it came, each with its own answer."""

from __future__ import annotations

import asyncio
import re
import shutil
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerad.store import ObjectStore, StoreError, StoreFull
from edgerad.telemetry import get_logger
from ingest.instance import STORAGE_CLASSES, Instance, NotUnderstood, content_digest, identify, keep, object_key
from ingest.multipart import BodyLimits, MultipartError, write_parts
from ingest.spool import Spool

if TYPE_CHECKING:
    from fastapi import Request

PROCESSING_FAILURE, NOT_MATCHING, NOT_SUPPORTED, CANNOT_UNDERSTAND = 0x0110, 0xA900, 0x0122, 0xC000
OUT_OF_RESOURCES = 0xA700
"""FailureReason (0008,1197) values (PS3.18 Table I.2-2)."""


def boundary_of(content_type: str) -> bytes:
    """Return the boundary of multipart/related; type="application/dicom". Raises MultipartError 415."""
    message = Message()
    message["content-type"] = content_type
    kind = str(message.get_param("type", "")).lower()
    boundary = message.get_param("boundary")
    if message.get_content_type() != "multipart/related" or kind != "application/dicom" or not boundary:
        raise MultipartError(415, 'send multipart/related; type="application/dicom"; boundary=… (PS3.18 10.5)')
    return str(boundary).encode("utf-8", "replace")


async def store_parts(
    request: Request, store: ObjectStore, spool: Spool, limits: BodyLimits, study: str | None
) -> tuple[int, dict[str, Any]]:
    """Store every part; return the HTTP status (200 all, 202 some, 409 none, 503 store down) and the response.

    Raises MultipartError for a request that cannot be taken as a whole. Nothing of it stays in the spool.
    """
    boundary = boundary_of(request.headers.get("content-type", ""))
    folder = spool.path()
    try:
        try:
            folder.mkdir(mode=0o700)
        except OSError:
            raise MultipartError(503, "there is no room to take the request; send it again later") from None
        files = await write_parts(request.stream(), boundary, limits, folder)
        return await asyncio.to_thread(_store_all, files, store, study, limits.part_bytes)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _store_all(files: list[Path], store: ObjectStore, study: str | None, max_bytes: int) -> tuple[int, dict[str, Any]]:
    stored: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    down = False
    for path in files:
        instance, failure = Instance("", ""), None
        try:
            with path.open("rb") as file:
                instance = identify(file, max_bytes)
            failure = _store(path, instance, store, study)
        except NotUnderstood:
            failure = CANNOT_UNDERSTAND
        except StoreError as error:
            down, failure = True, OUT_OF_RESOURCES if isinstance(error, StoreFull) else PROCESSING_FAILURE
        except Exception as error:  # noqa: BLE001 - one instance must not fail the others; logged by its type
            get_logger("gateway").error("instance could not be stored", error=error)
            failure = PROCESSING_FAILURE
        (stored if failure is None else failed).append(_item(instance, failure))
        path.unlink(missing_ok=True)
    content: dict[str, Any] = {}
    if stored:
        content["00081199"] = {"vr": "SQ", "Value": stored}
    if failed:
        content["00081198"] = {"vr": "SQ", "Value": failed}
    if not failed:
        return 200, content
    return (202 if stored else 503 if down else 409), content


def _store(path: Path, instance: Instance, store: ObjectStore, study: str | None) -> int | None:
    """Store one instance; return why it was not taken, None when it was."""
    if study is not None and instance.study_uid != study:
        return NOT_MATCHING
    if instance.storage_class not in STORAGE_CLASSES:
        return NOT_SUPPORTED
    with path.open("rb") as file:
        key = object_key(instance.study_uid, instance.instance_uid, content_digest(file))
    keep(store, path, key)
    return None


def _item(instance: Instance, failure: int | None) -> dict[str, Any]:
    item: dict[str, Any] = {}
    if re.fullmatch(r"[0-9.]{1,64}", instance.storage_class):
        item["00081150"] = {"vr": "UI", "Value": [instance.storage_class]}
    if re.fullmatch(r"[0-9.]{1,64}", instance.instance_uid):
        item["00081155"] = {"vr": "UI", "Value": [instance.instance_uid]}
    if failure is not None:
        item["00081197"] = {"vr": "US", "Value": [failure]}
    return item
