"""Work that can wait yields the processors to scoring."""

from __future__ import annotations

import os
import time
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")
_ATTEMPTS = 5


def yield_processors(niceness: int) -> None:
    """Lower this process's priority, and that of its session where it leads one; for the start of a process.

    Where Linux schedules by sessions (sched(7), autogroup), niceness counts within a session only, and the session has
    one of its own. Whoever does not lead it would lower others with it.
    """
    os.nice(niceness)
    if os.getsid(0) != os.getpid():
        return
    for _ in range(_ATTEMPTS):
        try:
            _AUTOGROUP.write_text(str(niceness), encoding="ascii")
        except BlockingIOError:  # the kernel takes ten changes a second, of all that are not root together
            time.sleep(0.1)
        except OSError:  # no such scheduling here, or /proc may not be written
            return
        else:
            return
