"""The model registry: immutable bundles and one pointer a finding, in the core's object store.

    registry/<finding>/<digest>/…            the bundle's files; bundle.json last, which commits it
    registry/<finding>/current.json          which bundle the edges are to serve, moved by one write

What a bundle holds is none of the registry's business: it moves files. Who serves a bundle proves it first.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgerad.records import now
from edgerad.store import Listed, ObjectGone, ObjectStore, StoreError, StoreUnavailable

PREFIX = "registry/"
COMMIT_FILE = "bundle.json"
CURRENT_FILE = "current.json"
MAX_BUNDLE_FILE_BYTES = 1 * 2**30
MAX_POINTER_BYTES = 64 * 1024

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FINDING = re.compile(r"[a-z][a-z0-9-]{0,40}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class RegistryError(StoreError):
    """The registry was asked for what it must not do; the text says what and what to do."""


class RegistryDamaged(RegistryError, StoreUnavailable):
    """What came out of the registry is damaged: another attempt may succeed, or somebody must put it right."""


class Current(BaseModel):
    """The pointer: which bundle is to be served, which one was before, and since when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    digest: Digest
    previous: Digest | None = None
    promoted_at: datetime


def publish(store: ObjectStore, finding: str, digest: str, folder: Path) -> None:
    """Upload a bundle folder; again, or after a crash, it completes what is missing and changes nothing else.

    Raises RegistryError where the registry holds other content under this digest, StoreUnavailable.
    """
    prefix = _prefix(finding, digest)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    names = [path.name for path in files]
    if COMMIT_FILE not in names or not all(_FILE.fullmatch(name) for name in names):
        raise RegistryError(f"bundle {digest[:12]} cannot be published: it needs {COMMIT_FILE} and plain file names")
    for path in sorted(files, key=lambda path: path.name == COMMIT_FILE):
        _put_once(store, prefix + path.name, path.read_bytes(), digest, len(files))


def _put_once(store: ObjectStore, key: str, data: bytes, digest: str, files: int) -> None:
    try:
        held = store.get(key, limit_bytes=MAX_BUNDLE_FILE_BYTES)
    except ObjectGone:
        store.put(key, data, metadata={"sha256": hashlib.sha256(data).hexdigest(), "files": str(files)})
        return
    if held != data:
        raise RegistryError(
            f"the registry holds another {PurePosixPath(key).name} under {digest[:12]}; bundles are immutable, so it"
            " was left as it is: if it is damaged, delete that bundle's objects and publish again"
        )


def is_published(store: ObjectStore, finding: str, digest: str) -> bool:
    """Return whether the whole bundle is in the registry."""
    return store.exists(_prefix(finding, digest) + COMMIT_FILE)


def digests(store: ObjectStore, finding: str) -> Iterator[str]:
    """Yield the digests of the published bundles of a finding."""
    prefix = _root(finding)
    for item in store.list(prefix):
        digest, _, name = item.key.removeprefix(prefix).partition("/")
        if name == COMMIT_FILE and _DIGEST.fullmatch(digest):
            yield digest


def pull(store: ObjectStore, finding: str, digest: str, into: Path) -> Path:
    """Download a bundle to `into`/`digest` and return that folder, which is there whole or not at all.

    Nothing of it is proven here beyond each file's SHA-256 as it was published: open it by `serve.bundle.load_bundle`.
    Raises ObjectGone when it is not in the registry, RegistryDamaged when what came is not what was published, or
    StoreUnavailable.
    """
    prefix = _prefix(finding, digest)
    target = into / digest
    if target.is_dir():
        return target
    files = store.head(prefix + COMMIT_FILE).metadata.get("files")  # published whole, or ObjectGone
    into.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{digest[:12]}-", dir=into))
    try:
        for item in store.list(prefix):
            name = item.key.removeprefix(prefix)
            (aside / name).write_bytes(_fetch(store, item, name, digest))
        _check_whole(aside, files, digest)
        try:
            aside.rename(target)
        except OSError:
            if not target.is_dir():  # another process pulled the same bundle meanwhile
                raise
            shutil.rmtree(aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return target


def _check_whole(folder: Path, files: str | None, digest: str) -> None:
    if files is not None and str(len(list(folder.iterdir()))) != files:
        raise RegistryDamaged(f"bundle {digest[:12]} in the registry has lost a file; publish it again")


def _fetch(store: ObjectStore, item: Listed, name: str, digest: str) -> bytes:
    if not _FILE.fullmatch(name):
        raise RegistryDamaged(f"bundle {digest[:12]} in the registry has a file with an unfit name; it was not pulled")
    data = store.get(item.key, etag=item.etag, limit_bytes=MAX_BUNDLE_FILE_BYTES)
    published = store.head(item.key).metadata.get("sha256")
    if published is not None and hashlib.sha256(data).hexdigest() != published:
        raise RegistryDamaged(f"bundle {digest[:12]}: {name} came damaged (its SHA-256 differs)")
    return data


def pointer(store: ObjectStore, finding: str) -> Current | None:
    """Return the pointer of a finding, or None when none was ever set; RegistryDamaged when it is unreadable."""
    try:
        raw = store.get(_root(finding) + CURRENT_FILE, limit_bytes=MAX_POINTER_BYTES)
    except ObjectGone:
        return None
    try:
        return Current.model_validate_json(raw)
    except ValidationError:
        raise RegistryDamaged(
            f"registry: {CURRENT_FILE} of {finding} is unreadable; `edgerad models promote DIGEST` writes it anew"
        ) from None


def current(store: ObjectStore, finding: str) -> str | None:
    """Return the digest that edges are to serve, or None when none was ever promoted."""
    held = pointer(store, finding)
    return held.digest if held else None


def promote(store: ObjectStore, finding: str, digest: str) -> Current:
    """Point to a published bundle by a single write; the same digest again changes nothing. Raises RegistryError."""
    if not is_published(store, finding, digest):
        raise RegistryError(
            f"model {digest[:12]} is not in the registry of {finding}; `edgerad models list` shows them"
        )
    try:
        held = pointer(store, finding)
    except RegistryDamaged:
        held = None  # an unreadable pointer is put right by this very write
    if held is not None and held.digest == digest:
        return held
    moved = Current(digest=digest, previous=held.digest if held else None, promoted_at=now())
    store.put(_root(finding) + CURRENT_FILE, moved.model_dump_json().encode(), content_type="application/json")
    return moved


def _root(finding: str) -> str:
    if not _FINDING.fullmatch(finding):
        raise RegistryError("registry: a finding is named in lower-case letters, digits and hyphens")
    return f"{PREFIX}{finding}/"


def _prefix(finding: str, digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise RegistryError("registry: a model is named by its digest, 64 hexadecimal digits")
    return f"{_root(finding)}{digest}/"
