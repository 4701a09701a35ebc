"""What a file does to the process that de-identifies it, for tests, as the file says."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

from ship.deidentify import Clean, Options, Quarantined
from ship.keys import SiteKey
from tests.ship.poisoned_worker import once


def work(data: bytes, key: SiteKey, options: Options, hints: Sequence[str]) -> Clean | Quarantined:
    """Crash, be killed, hang or print; else answer as if it were clean."""
    match data.decode().partition("-")[2]:
        case "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "is-killed-once" if once(Path(os.environ["POISON_FOLDER"]) / "killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        case "hangs":
            threading.Event().wait()
        case "prints":
            os.write(1, b"no line of JSON")
    return Clean(data, "image/png", "p", {"source": hashlib.sha256(data).hexdigest(), "boxes": []})
