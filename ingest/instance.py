"""One received DICOM instance: what identifies it, the key that it is stored under, and storing it durably."""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pydicom.tag import Tag

from edgerad.store import ObjectGone, ObjectStore
from edgerad.upload import put_in_parts
from imaging.guard import MAX_META, check_file, meta_of
from imaging.limits import DEFAULT_LIMITS, Limits
from imaging.refusal import Unreadable

if TYPE_CHECKING:
    from hashlib import _Hash

    from pydicom.tag import BaseTag

MULTIPART_FROM = 32 * 2**20
"""Bytes from which an object is uploaded in parts."""
IDENTITY = (Tag(0x0008, 0x0018), Tag(0x0020, 0x000D), Tag(0x0008, 0x0016))
"""SOPInstanceUID, StudyInstanceUID, SOPClassUID."""
IDENTITY_BYTES = 8 * 2**20
"""The identity must stand in so many first bytes of the data set."""
DEFLATED = "1.2.840.10008.1.2.1.99"
"""Deflated Explicit VR Little Endian: its file says nothing about its size."""
_LOOKS = threading.BoundedSemaphore(2)
"""Files that this process looks into at a time: each may take some ten MB, however many senders there are."""
STORAGE_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
    "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
    "1.2.840.10008.5.1.4.1.1.1.1.1",  # Digital X-Ray, for processing
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
    "1.2.840.10008.5.1.4.1.1.7.2",  # Multi-frame Grayscale Byte Secondary Capture
    "1.2.840.10008.5.1.4.1.1.7.3",  # Multi-frame Grayscale Word Secondary Capture
    "1.2.840.10008.5.1.4.1.1.7.4",  # Multi-frame True Color Secondary Capture
)


@dataclass(frozen=True)
class Instance:
    """What identifies a received instance, as it stands in its data set."""

    study_uid: str
    instance_uid: str
    storage_class: str = ""


class NotUnderstood(ValueError):
    """The data set cannot be read or lacks what identifies it; the text says which attribute and quotes no value."""


def instance_prefix(study_uid: str, instance_uid: str) -> str:
    """Return what the keys of all contents of one instance begin with.

    It holds digests, so that no identifier stands in a URL. The instances of a study share a folder.
    """
    study, instance = (hashlib.sha256(uid.encode()).hexdigest() for uid in (study_uid, instance_uid))
    return f"dicom/{study[:16]}/{instance[:32]}-"


def object_key(study_uid: str, instance_uid: str, content: str) -> str:
    """Return the key of one content of an instance; `content` is the hexadecimal digest of `content_hash`.

    Two objects with equal UIDs and different contents have different keys: neither overwrites the other.
    """
    return f"{instance_prefix(study_uid, instance_uid)}{content[:32]}.dcm"


def content_hash(transfer_syntax: str) -> _Hash:
    """Return a hash that wants the encoded data set: what follows the file meta information.

    The file meta information itself does not count. The receiver writes its own, a STOW-RS client another one, and the
    instance is the same. The transfer syntax counts, because it says what the bytes mean.
    """
    return hashlib.sha256(transfer_syntax.encode() + b"\0")


def content_digest(file: BinaryIO) -> str:
    """Return the digest of `content_hash` for a DICOM file (PS3.10), read in pieces."""
    syntax, offset = _file_meta(file)
    file.seek(offset)
    hashed = content_hash(syntax)
    while piece := file.read(2**20):
        hashed.update(piece)
    return hashed.hexdigest()


def _file_meta(file: BinaryIO) -> tuple[str, int]:
    """Return the transfer syntax and where the data set begins; the file's beginning where there is no file meta."""
    file.seek(0)
    try:
        syntax, offset = meta_of(file.read(MAX_META + 1))
    except Unreadable:
        return "", 0
    return (syntax or "", offset) if offset < file.seek(0, os.SEEK_END) else ("", 0)


def identify(file: BinaryIO, max_bytes: int) -> Instance:
    """Read StudyInstanceUID (0020,000D), SOPInstanceUID (0008,0018) and SOPClassUID (0008,0016) of a DICOM file.

    The guard looks at the file first: what inflates to more than an image can have, is nested too deep or has too many
    elements is refused, and so is a file of more than `max_bytes`. Then no more than `IDENTITY_BYTES` are parsed, so
    memory stays flat. The values are taken as they are written: a UID that is too long is kept. Raises nothing but
    NotUnderstood.
    """
    from pydicom.filereader import read_dataset

    try:
        with _LOOKS:
            syntax, _ = _file_meta(file)
            found = check_file(file, DEFAULT_LIMITS if syntax == DEFLATED else Limits(max_bytes=max_bytes))
            head = BytesIO(bytes(found.body[found.start : found.start + IDENTITY_BYTES]))
            dataset = read_dataset(
                head, found.implicit, found.little_endian, stop_when=_after_identity, specific_tags=list(IDENTITY)
            )
            instance, study, storage_class = (_text(dataset, tag) for tag in IDENTITY)
    except Unreadable as refusal:
        raise NotUnderstood(str(refusal)) from None
    except Exception as error:  # noqa: BLE001 - pydicom raises what its parsing meets, and may quote values
        msg = f"the data set does not parse ({type(error).__name__})"
        raise NotUnderstood(msg) from None
    if not study or not instance:
        msg = "StudyInstanceUID (0020,000D) or SOPInstanceUID (0008,0018) is missing"
        raise NotUnderstood(msg)
    return Instance(study, instance, storage_class)


def _after_identity(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return bool(tag > IDENTITY[1])


def _text(dataset: Any, tag: BaseTag) -> str:
    """Return a UID without pydicom's conversion, which refuses some values and warns of others."""
    if tag not in dataset:
        return ""
    value = dataset.get_item(tag).value
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    return text.strip(" \0")


def keep(store: ObjectStore, path: Path, key: str) -> bool:
    """Store a file under its key, durably; return False when that content is there already. Raises StoreError.

    An instance that is sent twice must not be a new object: it would be scored again.
    """
    try:
        store.head(key)
    except ObjectGone:
        pass
    else:
        return False
    with path.open("rb") as file:
        if path.stat().st_size > MULTIPART_FROM:
            put_in_parts(store, key, file, "application/dicom")
        else:
            store.put(key, file, "application/dicom")
    return True
