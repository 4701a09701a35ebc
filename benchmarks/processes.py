"""What processes cost, read from /proc: CPU seconds, memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(processes: Iterable[int]) -> dict[int, float]:
    """Return the CPU seconds that processes have used so far, by pid; those that ended are left out."""
    used = {}
    for process in processes:
        try:
            fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        user, system = fields.rpartition(")")[2].split()[11:13]
        used[process] = (int(user) + int(system)) / TICKS
    return used


def named(processes: Iterable[int], part: str) -> list[int]:
    """Return those whose command line holds `part` (Ray writes an actor's class there)."""
    found = []
    for process in processes:
        try:
            line = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            continue
        if part.encode() in line:
            found.append(process)
    return sorted(found)


def label(process: int) -> str:
    """Return a short name: Ray's for its workers, else that of the program."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "ended"
    first = words[0].decode(errors="replace")
    return first if first.startswith("ray::") else Path(first).name


def memory_mb(process: int) -> dict[str, int]:
    """Return resident (rss) and proportional (pss: shared pages divided among their users) memory, MB of 10^6 bytes."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    sizes = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
    return {name: round(int(sizes[name.title()]) * 1024 / 1e6) for name in ("rss", "pss")}
