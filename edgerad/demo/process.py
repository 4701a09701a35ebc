"""How much memory this process and all it started use, read from /proc."""

from __future__ import annotations

import os
import threading
from pathlib import Path

PAGE = 1024


def descendants(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        current = queue.pop()
        found.append(current)
        queue += parents.get(current, [])
    return found


def memory_bytes(pids: list[int]) -> int:
    """Return the proportional set size (each shared page counted once in all) of processes, bytes."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        total += sum(int(line.split()[1]) * PAGE for line in lines if line.startswith("Pss:"))
    return total


class PeakMemory:
    """Samples the memory of this process and its descendants in a thread; 0 where there is no /proc."""

    def __init__(self, interval: float = 2.0) -> None:
        """Start sampling."""
        self.peak = 0
        self._ended = threading.Event()
        self._interval = interval
        if Path("/proc/self/smaps_rollup").exists():
            threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while not self._ended.wait(self._interval):
            self.peak = max(self.peak, memory_bytes(descendants(os.getpid())))

    def stop(self) -> int:
        """Stop and return the peak, bytes."""
        self._ended.set()
        return self.peak
