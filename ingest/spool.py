"""The spool: files that are on their way from a sender to the object store. Nothing in it outlives its request."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from hashlib import _Hash


class TooLarge(Exception):
    """More bytes came than are accepted; the file is gone."""


class Spool:
    """A folder of its own, mode 0700. What an earlier process left in it is removed when the spool is opened."""

    def __init__(self, folder: Path) -> None:
        """Make the folder, or empty it. OSError when neither is possible."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder

    def path(self) -> Path:
        """Return the path of a new file or folder; it does not exist yet."""
        return self.folder / secrets.token_hex(16)


class Spooled:
    """A file that is being received: limited in size, hashed as it comes, removed by `discard`.

    `limit` is the largest size in bytes, without the header that `begin` may write; `digest` hashes what `write` gets.
    """

    def __init__(self, path: Path, limit: int, digest: _Hash) -> None:
        """Keep what to write to; the file is made by the first write. Memory stays flat."""
        self.path, self.limit, self.digest = path, limit, digest
        self.size = 0
        self._file: BinaryIO | None = None
        self._closed = False

    def begin(self, header: bytes) -> None:
        """Write bytes that count neither for the limit nor for the digest. OSError when there is no room."""
        self._open().write(header)

    def write(self, data: bytes | memoryview) -> None:
        """Append data. Raises TooLarge or OSError; the file is removed then and takes nothing more."""
        if self._closed or self.size + len(data) > self.limit:
            self.discard()
            raise TooLarge
        try:
            self._open().write(data)
        except OSError:
            self.discard()
            raise
        self.size += len(data)
        self.digest.update(data)

    def close(self) -> None:
        """Write out what is buffered. OSError when there is no room; the file is removed then."""
        self._closed = True
        try:
            self._open().close()
        except OSError:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove the file; does nothing when it is gone."""
        self._closed = True
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk: what is buffered cannot be written, and is not wanted
                self._file.close()
            self._file = None
        self.path.unlink(missing_ok=True)

    def _open(self) -> BinaryIO:
        if self._file is None:
            self._file = os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        return self._file
