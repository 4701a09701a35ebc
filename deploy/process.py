"""Programs that a part starts: logs and pid files in the part's folder, ended by their own pid and no other."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LOG_TAIL = 2000


class PartError(Exception):
    """A part could not be started; the text says which, and ends with the end of its log."""


def free_port() -> int:
    """Return a TCP port that is free on 127.0.0.1 now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def listens(port: int) -> bool:
    """Return whether something accepts connections on 127.0.0.1."""
    with socket.socket() as client:
        client.settimeout(0.5)
        return client.connect_ex(("127.0.0.1", port)) == 0


def run(command: Sequence[str], *, stdin: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a program to its end and return its output; PartError with what it said when it fails."""
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})}
    )
    if done.returncode:
        msg = f"{command[0]} failed with status {done.returncode}: {(done.stderr or done.stdout)[-LOG_TAIL:]}"
        raise PartError(msg)
    return done.stdout


def spawn(folder: Path, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
    """Start a program in the background, in a session of its own; its pid and log stay in the folder."""
    with (folder / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
    (folder / f"{name}.pid").write_text(str(child.pid), encoding="utf-8")
    child.returncode = 0  # it lives on without this handle, whose end must not warn of it


def pid_of(folder: Path, name: str) -> int | None:
    """Return the pid of a program that runs, or None."""
    try:
        pid = int((folder / f"{name}.pid").read_text(encoding="utf-8"))
        os.waitpid(pid, os.WNOHANG)  # a child of ours that ended must not look alive
    except ChildProcessError:
        pass
    except (FileNotFoundError, ValueError):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    return pid


def end(folder: Path, name: str, *, timeout: float = 20.0, hard: bool = False) -> None:
    """End a program by its pid file; with `hard` as if the power had gone."""
    pid = pid_of(folder, name)
    if pid is not None:
        os.kill(pid, signal.SIGKILL if hard else signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while pid_of(folder, name) is not None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                deadline = time.monotonic() + timeout
            time.sleep(0.05)
    (folder / f"{name}.pid").unlink(missing_ok=True)


def wait(ready: Callable[[], bool], what: str, log: Path, timeout: float = 90.0) -> None:
    """Wait until ready; PartError with the end of the log when it takes too long."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            tail = log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:] if log.exists() else "no log"
            msg = f"{what} was not ready after {timeout:.0f} s; its log ends with:\n{tail}"
            raise PartError(msg)
        time.sleep(0.1)


def remember(folder: Path, **values: object) -> None:
    """Keep what was chosen at the first start (ports, keys), so that a restart over the folder uses it again."""
    path = folder / "part.json"
    path.write_text(json.dumps({**recall(folder), **values}), encoding="utf-8")
    path.chmod(0o600)


def recall(folder: Path) -> dict[str, object]:
    """Return what was kept."""
    path = folder / "part.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
