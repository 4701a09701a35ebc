"""The folder that Ray's sessions live in: short enough for its sockets, made by this user, closed to all others.

Ray sets its own folders to mode 0777 (`ray._common.utils.try_make_directory_shared`), so they lie in a folder that only
this user may enter: TEMPORARY/edgerad-UID/ray.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from edgerad import private
from edgerad.preflight import CannotStart

SOCKET_BYTES = 107
"""Longest path of a Unix socket on Linux, bytes: sun_path without its final zero, unix(7)."""
LONGEST = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.99"
"""The longest path that Ray adds to its folder; 4194304 is the highest process id (PID_MAX_LIMIT, proc(5))."""
SHORT = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - what is made there is checked


def prepare() -> tuple[Path, Path]:
    """Return a short folder for Ray's sessions and one for temporary files, both in folders that only this user enters.

    Raises CannotStart, which says what to do.
    """
    parents = [temporary(), *SHORT]
    close_former(parents[0])
    sessions = choose(parents, "/ray" + LONGEST) / "ray"
    # Ray Train keeps locks in a folder with a fixed name in the temporary folder, whoever made that.
    return sessions, private.folder(choose(parents) / "tmp")


def temporary() -> Path:
    """Return the system's temporary folder; CannotStart where there is none that can be written to."""
    try:
        return Path(tempfile.gettempdir()).absolute()
    except OSError:
        msg = "there is no temporary folder that can be written to; set TMPDIR to a folder of edgerad's user"
        raise CannotStart(msg) from None


def choose(parents: Iterable[Path], below: str = "") -> Path:
    """Make edgerad-UID in the first parent where it is private and a socket at the path `below` fits; return it.

    Raises CannotStart where somebody else made the folder in advance, and where no parent fits.
    """
    tried = []
    for parent in dict.fromkeys(parents):
        own = parent / f"edgerad-{os.geteuid()}"
        if below and len(os.fsencode(own)) + len(below) > SOCKET_BYTES:
            tried.append(f"{parent} is longer than Ray's sockets allow")
        elif _can_be_replaced(parent):
            tried.append(f"{parent} lets other users replace what lies in it (no sticky bit)")
        else:
            try:
                own.mkdir(mode=private.FOLDER)
            except FileExistsError:
                _refuse_foreign(own)
            except OSError as error:
                tried.append(f"{parent}: {error.strerror}")
                continue
            return own
    msg = f"there is no place for Ray's files ({'; '.join(tried)}); set TMPDIR to a short path that you may write to"
    raise CannotStart(msg)


def _can_be_replaced(parent: Path) -> bool:
    try:
        mode = parent.stat().st_mode
    except OSError:
        return False  # making the folder says what is wrong
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def _refuse_foreign(own: Path) -> None:
    """Raise CannotStart unless the folder is a real one of this user that nobody else could have put things in."""
    found = own.lstat()
    if stat.S_ISLNK(found.st_mode) or not stat.S_ISDIR(found.st_mode):
        what = "is no folder"
    elif found.st_uid != os.geteuid():
        what = f"belongs to another user (uid {found.st_uid})"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        what = f"can be written to by other users (mode {stat.S_IMODE(found.st_mode):04o})"
    else:
        private.tighten(own)
        return
    msg = f"{own} {what}, so Ray's files would not be safe there; remove it, or set TMPDIR to another folder"
    raise CannotStart(msg)


def close_former(parent: Path) -> None:
    """Close the folder that versions before this one used, which Ray left open to all, and remove its ended sessions.

    A folder of another user, or a link, is left alone.
    """
    former = parent / f"edgerad-ray-{os.geteuid()}"
    if former.is_dir() and not former.is_symlink() and former.stat().st_uid == os.geteuid():
        private.tighten(former)
        remove_ended(former)


def remove_ended(folder: Path) -> None:
    """Remove what ended clusters left behind, but for the newest one's logs: Ray itself never does.

    A session's name ends with the pid of the process that began it, and its beginning sorts by time.
    """
    ended = [path for path in sorted(folder.glob("session_*_*")) if not _alive(path.name.rpartition("_")[2])]
    for path in ended[:-1]:
        shutil.rmtree(path, ignore_errors=True)


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
