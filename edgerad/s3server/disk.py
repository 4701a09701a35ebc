"""Objects on disk: contents as files under random names, everything else in one SQLite table.

An object exists when its row is committed, and its file is complete and synced before that: a crash leaves at worst a
file that no row names, and those are removed at the next start. Keys never become paths. `edgerad/folder.py` reads
the table and the files beside this.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from edgerad import private

CHUNK = 2**20
SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS bucket (name TEXT PRIMARY KEY, created REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS object (bucket TEXT, key TEXT, file TEXT NOT NULL, etag TEXT NOT NULL, size INTEGER NOT NULL,
  modified REAL NOT NULL, headers TEXT NOT NULL, PRIMARY KEY (bucket, key)) WITHOUT ROWID;
"""


Allowed = Callable[[str | None], bool]
"""Whether a write may replace what is there, by its ETag; None: nothing is there."""


class ConditionFailed(Exception):
    """A write was not allowed to replace what is there; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object; `headers` are its content type and x-amz-meta-… headers, `modified` is in seconds since 1970."""

    key: str
    file: str
    etag: str
    size: int
    modified: float
    headers: dict[str, str]


class Draft:
    """A content on its way in: written and hashed."""

    def __init__(self, path: Path) -> None:
        """Start an empty one."""
        self.path, self.size = path, 0
        self.md5, self.sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, private.FILE), "wb")

    def write(self, data: bytes) -> None:
        """Append."""
        self._file.write(data)
        self.md5.update(data)
        self.sha256.update(data)
        self.size += len(data)

    def sync(self) -> None:
        """Make the content durable under its random name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        _sync_folder(self.path.parent)

    def discard(self) -> None:
        """Forget the content: on a full disk as well, where closing fails with what could not be written."""
        with contextlib.suppress(OSError):
            self._file.close()
        self.path.unlink(missing_ok=True)


class Disk:
    """All buckets of one folder; safe to use from several threads, refused to a second process.

    A multipart upload is an object in a bucket that no client can name: `<bucket>/uploads`; its parts are objects of
    `<upload id>/parts`, named by five digits.
    """

    def __init__(self, folder: Path) -> None:
        """Open or create the folder, removing files that a crash left without a row."""
        private.folder(folder)
        self._files = private.folder(folder / "files")
        self._held = private.file(folder / "lock").open("w")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._held.close()
            msg = (
                f"embedded store folder {folder} is in use by another edgerad; stop it or set embedded_store.directory"
            )
            raise RuntimeError(msg) from None
        self._lock = threading.Lock()
        self._db = sqlite3.connect(private.file(folder / "index.db"), check_same_thread=False, isolation_level=None)
        self._db.executescript(SCHEMA)
        self._db.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns, also in WAL mode
        known = {row[0] for row in self._db.execute("SELECT file FROM object")}
        for path in self._files.iterdir():
            if path.name not in known:
                path.unlink()

    def close(self) -> None:
        """Close the table and let another process have the folder."""
        with self._lock:
            self._db.close()
            self._held.close()

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def buckets(self) -> list[tuple[str, float]]:
        """Return names and times of creation."""
        return [(name, created) for name, created in self._rows("SELECT name, created FROM bucket ORDER BY name")]

    def has_bucket(self, bucket: str) -> bool:
        """Return whether the bucket is there."""
        return bool(self._rows("SELECT 1 FROM bucket WHERE name = ?", bucket))

    def create_bucket(self, bucket: str) -> None:
        """Create a bucket; one that is there stays as it is."""
        self._rows("INSERT OR IGNORE INTO bucket VALUES (?, ?)", bucket, time.time())

    def delete_bucket(self, bucket: str) -> bool:
        """Delete a bucket; False, and nothing done, when objects or uploads are in it."""
        inside = "SELECT 1 FROM object WHERE bucket IN (?, ?)"
        query = f"DELETE FROM bucket WHERE name = ? AND NOT EXISTS ({inside}) RETURNING name"  # noqa: S608 - our own
        return bool(self._rows(query, bucket, bucket, f"{bucket}/uploads"))

    def draft(self) -> Draft:
        """Return an empty content to write to."""
        return Draft(self._files / uuid.uuid4().hex)

    def commit(
        self,
        bucket: str,
        key: str,
        draft: Draft,
        headers: dict[str, str],
        etag: str | None = None,
        allowed: Allowed | None = None,
    ) -> Entry:
        """Make a complete draft the object's content, durably, in place of any other that it is allowed to replace.

        Raises ConditionFailed, the draft forgotten: of several that may only write a new object, one does.
        """
        try:
            draft.sync()
        except OSError:
            draft.discard()  # what found no room must not take it from the next
            raise
        entry = Entry(key, draft.path.name, etag or draft.md5.hexdigest(), draft.size, time.time(), headers)
        try:
            self._insert(bucket, entry, allowed)
        except (ConditionFailed, sqlite3.Error):
            draft.discard()
            raise
        return entry

    def _insert(self, bucket: str, entry: Entry, allowed: Allowed | None = None) -> None:
        row = (bucket, entry.key, entry.file, entry.etag, entry.size, entry.modified, json.dumps(entry.headers))
        with self._lock:
            query = "SELECT file, etag FROM object WHERE bucket = ? AND key = ?"
            old = self._db.execute(query, row[:2]).fetchone()
            if allowed is not None and not allowed(old[1] if old else None):
                raise ConditionFailed
            self._db.execute("INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        if old:
            (self._files / old[0]).unlink(missing_ok=True)

    def get(self, bucket: str, key: str) -> Entry | None:
        """Return an object, or None."""
        found = self._entries("bucket = ? AND key = ?", bucket, key)
        return found[0] if found else None

    def open(self, bucket: str, key: str) -> tuple[Entry, BinaryIO] | None:
        """Return an object with its content opened, or None; a replacement in between is met with another look."""
        while entry := self.get(bucket, key):
            try:
                return entry, (self._files / entry.file).open("rb")
            except FileNotFoundError:
                if entry == self.get(bucket, key):
                    raise  # the folder was tampered with: not a replacement
        return None

    def page(self, bucket: str, prefix: str = "", after: str = "", count: int = -1) -> list[Entry]:
        """Return at most `count` objects whose keys begin with `prefix` and follow `after`, in UTF-8 order."""
        where = "bucket = ? AND key >= ? AND key > ? AND key < ? ORDER BY key LIMIT ?"
        return self._entries(where, bucket, prefix, after, prefix + "\U0010ffff", count)

    def _entries(self, where: str, *values: object) -> list[Entry]:
        query = f"SELECT key, file, etag, size, modified, headers FROM object WHERE {where}"  # noqa: S608 - our own
        return [
            Entry(key, file, etag, size, modified, json.loads(headers))
            for key, file, etag, size, modified, headers in self._rows(query, *values)
        ]

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object; one that is not there is fine."""
        for (file,) in self._rows("DELETE FROM object WHERE bucket = ? AND key = ? RETURNING file", bucket, key):
            (self._files / file).unlink(missing_ok=True)

    def copy(self, source: Entry, bucket: str, key: str, headers: dict[str, str]) -> Entry:
        """Give the content of an object a second name; the bytes are shared (a hard link)."""
        entry = replace(source, key=key, file=uuid.uuid4().hex, modified=time.time(), headers=headers)
        os.link(self._files / source.file, self._files / entry.file)
        _sync_folder(self._files)
        self._insert(bucket, entry)
        return entry

    def start_upload(self, bucket: str, key: str, headers: dict[str, str]) -> str:
        """Return the id of a new multipart upload."""
        upload = uuid.uuid4().hex
        self.commit(f"{bucket}/uploads", f"{key}/{upload}", self.draft(), headers)
        return upload

    def parts(self, upload: str) -> dict[int, Entry]:
        """Return the parts kept so far by number."""
        return {int(part.key): part for part in self.page(f"{upload}/parts")}

    def complete(
        self, upload: str, bucket: str, key: str, chosen: list[Entry], allowed: Allowed | None = None
    ) -> Entry:
        """Join the chosen parts into the object; its ETag, as S3's: MD5 of the parts' MD5s, a dash, their count.

        Raises ConditionFailed; the upload stays.
        """
        draft, started = self.draft(), self.get(f"{bucket}/uploads", f"{key}/{upload}")
        for part in chosen:
            with (self._files / part.file).open("rb") as file:
                while data := file.read(CHUNK):
                    draft.write(data)
        joined = hashlib.md5(b"".join(bytes.fromhex(part.etag) for part in chosen), usedforsecurity=False)
        etag = f"{joined.hexdigest()}-{len(chosen)}"
        entry = self.commit(bucket, key, draft, started.headers if started else {}, etag, allowed)
        self.abort(upload, bucket, key)
        return entry

    def abort(self, upload: str, bucket: str, key: str) -> None:
        """Forget an upload and its parts."""
        self.delete(f"{bucket}/uploads", f"{key}/{upload}")
        for part in self.parts(upload).values():
            self.delete(f"{upload}/parts", part.key)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
