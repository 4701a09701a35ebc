"""Programs that a part starts: logs and pid files in the part's folder, ended by their own pid and no other."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LOG_TAIL = 2000
PORTS = range(20000, 32000)
"""Below Linux's ports for outgoing connections, so that nobody's connection takes a port while its part restarts, and
above those of Ray's workers."""


class PartError(Exception):
    """A part could not be started; the text says which, and ends with the end of its log."""


def free_port() -> int:
    """Return a TCP port that is free on 127.0.0.1 now."""
    for port in random.sample(PORTS, 200):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    msg = f"no free port found on 127.0.0.1 between {PORTS.start} and {PORTS.stop}"
    raise PartError(msg)


def listens(port: int) -> bool:
    """Return whether something accepts connections on 127.0.0.1."""
    with socket.socket() as client:
        client.settimeout(0.5)
        return client.connect_ex(("127.0.0.1", port)) == 0


def run(command: Sequence[str], *, timeout: float = 300.0) -> str:
    """Run a program to its end and return its output; PartError with what it said when it fails."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout
        )
    except FileNotFoundError:
        msg = f"{command[0]} is not installed; python -m deploy.install brings what it may and names the rest"
        raise PartError(msg) from None
    except subprocess.TimeoutExpired:
        msg = f"{command[0]} did not end within {timeout:.0f} s"
        raise PartError(msg) from None
    if done.returncode:
        msg = f"{command[0]} failed with status {done.returncode}: {(done.stderr or done.stdout)[-LOG_TAIL:]}"
        raise PartError(msg)
    return done.stdout


def spawn(folder: Path, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
    """Start a program in the background, in a session of its own; its pid and log stay in the folder.

    The session of its own keeps Ctrl-C on the starter's terminal from it: whoever started it also stops it.
    """
    try:
        with (folder / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )
    except FileNotFoundError:
        msg = f"{command[0]} is not installed; python -m deploy.install brings what it may and names the rest"
        raise PartError(msg) from None
    (folder / f"{name}.pid").write_text(f"{child.pid} {_birth(child.pid)}", encoding="utf-8")
    child.returncode = 0  # it lives on without this handle, whose end must not warn of it


def pid_of(folder: Path, name: str) -> int | None:
    """Return the pid of a program that runs, or None, also when its pid has passed to another program."""
    try:
        pid, born = (int(word) for word in (folder / f"{name}.pid").read_text(encoding="utf-8").split())
    except (FileNotFoundError, ValueError):
        return None
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # a child of ours that ended must not look alive
    return pid if _birth(pid) == born else None


def _birth(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot (proc(5), stat, field 22), or None when it ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in "ZX" and len(list(Path(f"/proc/{pid}/task").glob("*"))) <= 1:
        return None  # all its threads are gone, with its sockets; only nobody has asked for its status yet
    return int(fields[19])


def end(folder: Path, name: str, how: signal.Signals = signal.SIGTERM, timeout: float = 20.0) -> None:
    """End a program by its pid file: by the signal, and after `timeout` seconds by SIGKILL."""
    deadline = time.monotonic() + timeout
    while (pid := pid_of(folder, name)) is not None:
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            break
        until = deadline if how != signal.SIGKILL else time.monotonic() + timeout
        while pid_of(folder, name) is not None and time.monotonic() < until:
            time.sleep(0.05)
        if how == signal.SIGKILL:
            break
        how = signal.SIGKILL
    (folder / f"{name}.pid").unlink(missing_ok=True)


def wait(ready: Callable[[], bool], what: str, folder: Path, name: str, timeout: float = 90.0) -> None:
    """Wait until ready; PartError with the end of the program's log when it ended or takes too long."""
    deadline = time.monotonic() + timeout
    while not ready():
        ended = pid_of(folder, name) is None
        if ended or time.monotonic() > deadline:
            log = folder / f"{name}.log"
            tail = log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:] if log.exists() else "no log"
            why = "ended by itself" if ended else f"was not ready after {timeout:.0f} s"
            msg = f"{what} {why}; its log ends with:\n{tail}"
            raise PartError(msg)
        time.sleep(0.1)


def remember(folder: Path, **values: object) -> None:
    """Keep what was chosen at the first start (ports, keys), so that a restart over the folder uses it again."""
    path = folder / "part.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps({**recall(folder), **values}), encoding="utf-8")


def recall(folder: Path) -> dict[str, object]:
    """Return what was kept."""
    path = folder / "part.json"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return dict(json.loads(text)) if text else {}
