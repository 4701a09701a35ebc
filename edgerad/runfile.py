"""The run file of a running `edgerad up` or demo: who it is and where it listens, for `edgerad status` and `down`."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class RunFile:
    """What a supervisor writes about itself; holds no secret."""

    role: str
    pid: int
    started_at: str
    addresses: dict[str, str] = field(default_factory=dict)

    def write(self, data_dir: Path) -> None:
        """Write the file whole or not at all."""
        path = _path(data_dir)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")
        draft.replace(path)


def _path(data_dir: Path) -> Path:
    return data_dir / "run" / "edgerad.json"


def read(data_dir: Path) -> RunFile | None:
    """Return the run file of a supervisor that is alive, or None."""
    try:
        run = RunFile(**json.loads(_path(data_dir).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return run if _is_edgerad(run.pid) else None


def remove(data_dir: Path) -> None:
    """Remove the run file when the supervisor ends."""
    _path(data_dir).unlink(missing_ok=True)


def stop(run: RunFile, timeout: float) -> bool:
    """Ask the supervisor to end and wait up to `timeout` seconds; return whether it ended."""
    os.kill(run.pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if not _is_edgerad(run.pid):
            return True
        time.sleep(0.1)
    return False


def _is_edgerad(pid: int) -> bool:
    # A pid is reused after a reboot: only a process that is an edgerad may be signalled.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False
    command = Path(f"/proc/{pid}/cmdline")
    return b"edgerad" in command.read_bytes() if command.exists() else True
