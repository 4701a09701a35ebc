"""How the dashboard is started: Streamlit as an ASGI application behind a door, and the address it listens on.

`python -m dashboard.launch` serves it, and ends with the process that started it, also when that is killed: else an
orphan would hold the port.
"""

from __future__ import annotations

import ctypes
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from dashboard.theme import OPTIONS
from edgerad.sections import TelemetrySettings
from edgerad.settings import Settings, SettingsError, load_settings
from edgerad.telemetry import configure_logging

APP = Path(__file__).parent / "app.py"
PR_SET_PDEATHSIG = 1
"""prctl(2), Linux."""
MAX_MESSAGE_BYTES = 2**20
"""Largest websocket message from a browser; it sends clicks and short texts."""
ADVICE = "An administrator can add the name to the setting dashboard.allowed_hosts."
METHODS = frozenset({"GET", "HEAD"})
"""Without PUT and POST there are no uploads: pages have no uploader, and Streamlit would take files all the same."""
CONFIG = {
    "server.headless": True,
    "server.fileWatcherType": "none",
    "server.showEmailPrompt": False,
    "server.enableStaticServing": False,
    "server.maxWidgetStateSize": 1,  # megabytes
    "server.maxUploadSize": 1,  # megabytes; the door refuses uploads anyway
    "browser.gatherUsageStats": False,
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",  # a traceback on a page could quote patient data
    "client.showErrorLinks": False,
    **{f"theme.{name}": value for name, value in OPTIONS.items()},
}
"""Streamlit's own settings."""


def command(settings: Settings) -> tuple[list[str], str]:
    """Return the arguments for the Python interpreter, and the address; other settings travel by the environment."""
    host = settings.dashboard.host
    port = settings.dashboard.port or _free_port(host)
    words = [host, str(port), *settings.dashboard.allowed_hosts]
    spoken = "localhost" if host in {"0.0.0.0", "::"} else f"[{host}]" if ":" in host else host  # noqa: S104
    return ["-m", "dashboard.launch", *words], f"http://{spoken}:{port}"


def _free_port(host: str) -> int:
    with socket.socket(_family(host)) as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def browser_rules(host: str) -> dict[str, str]:
    """Return the headers that forbid a browser to load from elsewhere, to show the pages in another page's frame, or
    to hand what they hold to another site (CSP level 3; Fetch 3.6). `host` is the checked Host header.

    Streamlit needs inline styles, and the charts need `unsafe-eval`.
    """
    policy = (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        f"img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' ws://{host} wss://{host}; "
        "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    )
    return {
        "content-security-policy": policy,
        "x-frame-options": "DENY",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
    }


def application(host: str, allowed_hosts: list[str]) -> Any:
    """Return the dashboard as an ASGI application behind its door.

    Streamlit (1.67) checks Origin and Host for its websocket alone, and asks an outside server for this machine's
    address when it does not know an Origin. So the door checks both, for pages too, and Streamlit sees no Origin.
    """
    from starlette.middleware import Middleware
    from streamlit import net_util
    from streamlit.starlette import App
    from streamlit.web import bootstrap

    from edgerad.webdoor import Door, Names

    net_util.get_external_ip = lambda: None  # nothing else in Streamlit's server calls outside
    bootstrap.load_config_options(CONFIG)
    names = Names(host, allowed_hosts)
    door = Middleware(Door, names=names, methods=METHODS, advice=ADVICE, headers=browser_rules, strip_origin=True)
    return App(APP, middleware=[door])


def set_up_logs() -> None:
    """Log as the settings say, and keep the warnings of libraries that quote patient data out of the log."""
    try:
        telemetry = load_settings().telemetry
    except SettingsError:  # the pages say what is wrong with the settings
        telemetry = TelemetrySettings()
    configure_logging(telemetry)


def serve(host: str, port: int, allowed_hosts: list[str]) -> None:
    """Serve the dashboard until the process is told to end."""
    import uvicorn

    from edgerad.webdoor import MAX_HEAD_BYTES, PromptProtocol

    config = uvicorn.Config(
        application(host, allowed_hosts),
        host=host,
        port=port,
        http=PromptProtocol,
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run()


def main() -> None:
    """Serve until the process that started this one ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    set_up_logs()
    host, port, *allowed_hosts = sys.argv[1:]
    serve(host, int(port), allowed_hosts)


if __name__ == "__main__":
    main()
