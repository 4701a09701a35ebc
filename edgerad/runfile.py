"""The run file of a running `edgerad up` or demo: who it is and where it listens, for `edgerad status` and `down`.

Whether it still runs is told by a lock that the kernel lets go with the process, however that ends: a pid alone may by
now be somebody else's.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from edgerad import private

CLAIM_WITHIN = 2.0
"""Seconds that a start waits for the lock: whoever looks whether it is held, holds it for a moment."""


class AlreadyRuns(RuntimeError):
    """Another process holds this data folder."""


@dataclass
class RunFile:
    """What a supervisor writes about itself; holds no secret."""

    role: str
    pid: int
    started_at: str
    addresses: dict[str, str] = field(default_factory=dict)
    state: str = "running"
    """starting or running."""

    def write(self, data_dir: Path) -> None:
        """Write the file whole or not at all."""
        path = _path(data_dir)
        private.folder(path.parent)
        draft = private.file(path.with_suffix(".new"))
        draft.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")
        draft.replace(path)


def claim(data_dir: Path) -> IO[str]:
    """Take the data folder for this process until the file returned is closed or the process ends.

    Raises AlreadyRuns when another process has it, OSError when the folder cannot be written.
    """
    path = _path(data_dir).with_suffix(".lock")
    private.folder(path.parent)
    held = private.file(path).open("a")
    deadline = time.monotonic() + CLAIM_WITHIN
    while not _locked(held, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            held.close()
            run = read(data_dir)
            msg = f"edgerad already runs with these settings (pid {run.pid if run else '?'}); `edgerad down` ends it"
            raise AlreadyRuns(msg)
        time.sleep(0.05)
    remove(data_dir)  # what a killed one left behind
    return held


def read(data_dir: Path) -> RunFile | None:
    """Return the run file of a supervisor that is alive, or None."""
    try:
        with _path(data_dir).with_suffix(".lock").open() as lock:
            if _locked(lock, fcntl.LOCK_SH):
                return None
        return RunFile(**json.loads(_path(data_dir).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remove(data_dir: Path) -> None:
    """Remove the run file when the supervisor ends."""
    _path(data_dir).unlink(missing_ok=True)


def stop(data_dir: Path, run: RunFile, timeout: float) -> bool:
    """Ask the supervisor to end and wait up to `timeout` seconds; return whether it ended."""
    try:
        os.kill(run.pid, signal.SIGTERM)
    except ProcessLookupError:
        return True
    deadline = time.monotonic() + timeout
    while (now := read(data_dir)) is not None and now.pid == run.pid:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _path(data_dir: Path) -> Path:
    return data_dir / "run" / "edgerad.json"


def _locked(file: IO[str], how: int) -> bool:
    """Take the lock if nobody holds it against that; closing the file lets it go."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
