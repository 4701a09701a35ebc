"""Reads objects of the embedded store past its server, from the files of a folder on the same machine (ADR 17)."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

from edgerad.store import check_size

QUERY = "SELECT file, size FROM object WHERE bucket = ? AND key = ? AND etag = ?"


class FolderReader:
    """Whole objects of one bucket, while another process writes to the folder. Safe to share between threads.

    Only what has the ETag asked for is read, so that no other store's content is ever taken for it.
    """

    def __init__(self, folder: Path, bucket: str) -> None:
        """Keep where to look; nothing is opened, and the folder need not be there."""
        self._folder, self._bucket = folder, bucket
        self._db: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def get(self, key: str, etag: str | None, limit_bytes: int | None) -> bytes | None:
        """Return an object's bytes; None for every other end than success, which the server shall find out and name.

        Raises ObjectTooLarge before anything is read.
        """
        if not etag:
            return None
        try:
            found = self._row(key, etag)
            if found is None:
                return None
            check_size(found[1], limit_bytes)
            data = (self._folder / "files" / found[0]).read_bytes()
        except (OSError, sqlite3.Error):
            return None
        return data if len(data) == found[1] else None

    def _row(self, key: str, etag: str) -> tuple[str, int] | None:
        with self._lock:
            if self._db is None:
                where = (self._folder / "index.db").absolute().as_uri()
                self._db = sqlite3.connect(f"{where}?mode=ro", uri=True, check_same_thread=False, isolation_level=None)
            with closing(self._db.execute(QUERY, (self._bucket, key, etag))) as rows:
                found: tuple[str, int] | None = rows.fetchone()
                return found
