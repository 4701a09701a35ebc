"""Folders and files that only this user may read, whatever the umask, and whatever an older version left."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

FOLDER, FILE = 0o700, 0o600
OTHERS = 0o077
"""The mode bits of group and others."""
KEPT = ("keys", "run", "s3", "models", "spool", "spool-stow", "train", "cache", "audit-anchors.jsonl")
"""What edgerad keeps in `data_dir`, besides the database, which edgerad/database.py takes care of."""


def folder(path: Path) -> Path:
    """Make a folder unless it is there, take the rights of group and others away, and return it. OSError."""
    path.mkdir(parents=True, exist_ok=True, mode=FOLDER)
    tighten(path)
    return path


def file(path: Path) -> Path:
    """Make an empty file unless it is there, take the rights of group and others away, and return it. OSError.

    The file is not opened: closing it would let go of all locks that this process holds on it, SQLite's included
    (fcntl(2); https://sqlite.org/howtocorrupt.html, section 2.2).
    """
    with suppress(FileExistsError):
        os.mknod(path, FILE | stat.S_IFREG)
    tighten(path)
    return path


def tighten(path: Path) -> None:
    """Take the rights of group and others away from a file or folder of this user; leave others' and links alone."""
    with suppress(FileNotFoundError):
        found = path.lstat()
        if found.st_uid == os.geteuid() and found.st_mode & OTHERS and not stat.S_ISLNK(found.st_mode):
            path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)


def tighten_data(data_dir: Path) -> None:
    """Close what an older version left open in the data folder: what lies below a closed folder is closed, too."""
    for name in KEPT:
        tighten(data_dir / name)
