"""Frozen sets of labelled radiographs in the core's store: the one to evaluate on, and the one to rehearse with.

    <prefix>objects/<sha256>.png   one radiograph, nothing but its pixels
    <prefix>manifest.json          every item with its label and SHA-256, and a digest over them all; written last

Once there, a set never changes: figures of two models can only be compared where they come from the same cases.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import cv2
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgerad.records import now
from edgerad.store import ObjectGone, ObjectStore
from imaging.pictures import Grey
from imaging.refusal import Unreadable
from serve.decode import decode
from train.dataset import LABELS

MANIFEST_FILE = "manifest.json"
THREADS = 2
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SetError(Exception):
    """A set that can't be frozen or must not be used; the text says why and what to do, and names no file."""


class SetItem(BaseModel):
    """One radiograph: `label` 1 is positive; `source` says where it comes from (a device, a collection)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    label: Literal[0, 1]
    sha256: Sha256
    source: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class FrozenSet(BaseModel):
    """A set's manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    version: str
    digest: Sha256
    frozen_at: datetime
    items: Annotated[tuple[SetItem, ...], Field(min_length=1)]

    @property
    def positives(self) -> int:
        """Number of positive items."""
        return sum(item.label for item in self.items)


@dataclass(frozen=True, slots=True)
class _Picture:
    data: bytes
    label: Literal[0, 1]
    source: str


def freeze(store: ObjectStore, prefix: str, folder: Path, *, apart_from: str | None = None) -> FrozenSet:
    """Freeze the radiographs under folders named NORMAL and PNEUMONIA, at any depth, as the set at `prefix`.

    Any format that can be scored is taken; only the pixels are kept, so no header reaches the store. The same files
    again change nothing. Raises SetError when another set is frozen there, a file can't be judged, or the set at
    `apart_from` has one of the radiographs (a model judged on what it was trained on is judged too well);
    StoreUnavailable.
    """
    pictures = _distinct(_load(folder))
    _check_apart(store, set(pictures), apart_from)
    items = tuple(
        SetItem(key=f"{prefix}objects/{digest}.png", label=picture.label, sha256=digest, source=picture.source)
        for digest, picture in sorted(pictures.items())
    )
    digest = _digest(items)
    held = read(store, prefix)
    if held is not None:
        if held.digest == digest:
            return held
        raise SetError(
            f"another set (version {held.version}, {len(held.items)} cases) is frozen at {prefix} and stays as it is:"
            " to use this one, freeze it at another prefix and set train.evaluation_prefix or train.rehearsal_prefix"
        )
    for item in items:
        store.put(item.key, pictures[item.sha256].data, content_type="image/png")
    frozen = FrozenSet(version=digest[:12], digest=digest, frozen_at=now(), items=items)
    store.put(prefix + MANIFEST_FILE, frozen.model_dump_json(indent=1).encode(), content_type="application/json")
    return frozen


def read(store: ObjectStore, prefix: str) -> FrozenSet | None:
    """Return the set at `prefix`, or None when none is frozen there. Raises SetError when its manifest was changed."""
    try:
        raw = store.get(prefix + MANIFEST_FILE)
    except ObjectGone:
        return None
    try:
        frozen = FrozenSet.model_validate_json(raw)
    except ValidationError:
        raise SetError(f"the manifest of the set at {prefix} is unreadable; restore it from a backup") from None
    if _digest(frozen.items) != frozen.digest:
        raise SetError(f"the manifest of the set at {prefix} was changed after it was frozen; restore it from a backup")
    return frozen


def load(store: ObjectStore, frozen: FrozenSet) -> Iterator[tuple[SetItem, Grey]]:
    """Yield every item with its pixels. Raises SetError when one is missing or not what was frozen."""

    def one(item: SetItem) -> tuple[SetItem, Grey]:
        try:
            data = store.get(item.key)
        except ObjectGone:
            raise SetError(f"frozen set {frozen.version}: an object is missing; restore it from a backup") from None
        if hashlib.sha256(data).hexdigest() != item.sha256:
            raise SetError(f"frozen set {frozen.version}: an object was changed; restore it from a backup")
        return item, decode(data).pixels

    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(one, frozen.items)


def _load(folder: Path) -> list[_Picture]:
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name in LABELS and not path.name.startswith(".")
    )
    if not files:
        raise SetError(f"there are no files in folders named {' and '.join(LABELS)}; put the radiographs there")
    with ThreadPoolExecutor(THREADS) as pool:
        pictures = list(pool.map(lambda path: _picture(path, folder), files))
    refused = Counter(item.reason for item in pictures if isinstance(item, Unreadable))
    if refused:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(refused.items()))
        raise SetError(
            f"{refused.total()} of {len(files)} files can't be judged ({reasons}); `edgerad score` on the folder names"
            " them: take them out and freeze again"
        )
    return [item for item in pictures if isinstance(item, _Picture)]


def _picture(path: Path, folder: Path) -> _Picture | Unreadable:
    try:
        pixels = decode(path.read_bytes()).pixels
    except Unreadable as refusal:
        return refusal
    done, data = cv2.imencode(".png", pixels)
    if not done:
        return Unreadable("corrupt", "the pixels can't be written as PNG")
    parts = path.relative_to(folder).parts
    source = parts[0].lower() if len(parts) > 2 else "set"
    return _Picture(data.tobytes(), 1 if LABELS[path.parent.name] else 0, source)


def _distinct(pictures: list[_Picture]) -> dict[str, _Picture]:
    distinct: dict[str, _Picture] = {}
    for picture in pictures:
        held = distinct.setdefault(hashlib.sha256(picture.data).hexdigest(), picture)
        if held.label != picture.label:
            raise SetError("one radiograph has both labels; take it out of one of the folders")
    if len({picture.label for picture in distinct.values()}) < 2:
        raise SetError(f"a set needs radiographs of both labels, in folders named {' and '.join(LABELS)}")
    return distinct


def _check_apart(store: ObjectStore, digests: set[str], apart_from: str | None) -> None:
    other = read(store, apart_from) if apart_from is not None else None
    shared = digests & {item.sha256 for item in other.items} if other is not None else set()
    if shared:
        raise SetError(
            f"{len(shared)} of these radiographs are in the set at {apart_from} too: one set is trained on, the other"
            " judges; take them out of the folder"
        )


def _digest(items: tuple[SetItem, ...]) -> str:
    rows = sorted(f"{item.sha256} {item.label} {item.source}" for item in items)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
