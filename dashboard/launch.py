"""How the dashboard is started: Streamlit's command line and the address it listens on.

`python -m dashboard.launch` is Streamlit's command line, but ends with the process that started it, also when that is
killed: else an orphan would hold the port.
"""

from __future__ import annotations

import ctypes
import signal
import socket
import sys
from pathlib import Path

from dashboard.theme import OPTIONS
from edgerad.settings import Settings

APP = Path(__file__).parent / "app.py"
PR_SET_PDEATHSIG = 1
"""prctl(2), Linux."""


def command(settings: Settings) -> tuple[list[str], str]:
    """Return the arguments for the Python interpreter, and the address; settings travel by the environment."""
    host = settings.dashboard.host
    port = settings.dashboard.port or _free_port(host)
    options = {
        "server.port": port,
        "server.address": host,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "server.showEmailPrompt": "false",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",  # a traceback on a page could quote patient data
        **{f"theme.{name}": value for name, value in OPTIONS.items()},
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    return ["-m", "dashboard.launch", "run", str(APP), *words], f"http://{host}:{port}"


def _free_port(host: str) -> int:
    with socket.socket() as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])


def main() -> None:
    """Run Streamlit's command line until the process that started this one ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    from streamlit.web import cli

    sys.argv[0] = "streamlit"
    cli.main()


if __name__ == "__main__":
    main()
