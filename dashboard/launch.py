"""How the dashboard is started: Streamlit's command line and the address it listens on."""

from __future__ import annotations

import socket
from pathlib import Path

from dashboard.theme import OPTIONS
from edgerad.settings import Settings

APP = Path(__file__).parent / "app.py"


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
    return ["-m", "streamlit", "run", str(APP), *words], f"http://{host}:{port}"


def _free_port(host: str) -> int:
    with socket.socket() as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])
