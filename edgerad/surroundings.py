"""What surrounds edgerad's processes: proxies, libraries that report home, modes of new files, encoding of output.

`prepare` runs when the command line starts, and again in each Ray worker, which may have been started by somebody else.
The processes that edgerad starts inherit both the environment and the umask.
"""

from __future__ import annotations

import io
import ipaddress
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path
from urllib.parse import urlsplit

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts that no proxy is asked for. urllib, httpx and gRPC all take these forms; httpx takes no `[::1]`."""
PRIVATE_UMASK = 0o077
SILENT = {
    # onnxruntime 1.32 tells mobile.events.data.microsoft.com of each session, under a device id that it keeps in
    # ~/.cache/Microsoft (onnxruntime/core/platform/telemetry_1ds.cc).
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Variables that keep libraries from reporting to their makers: a hospital's edge calls only whom its settings name."""
CACHES = {"KERAS_HOME": "keras"}
"""Variables that name a library's folder in the home folder, and the folder in `data_dir`/cache to use instead. Keras
falls back to /tmp/.keras where the home folder cannot be written to, and any local user can put a file there."""


def prepare() -> None:
    """Exempt loopback from proxies, keep libraries from reporting home, and let no unusual character end a command.

    Call it before such a library is imported.
    """
    exempt_loopback(os.environ)
    silence()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def silence() -> None:
    """Keep libraries from reporting to their makers."""
    os.environ.update(SILENT)


def exempt_loopback(environment: MutableMapping[str, str]) -> None:
    """Add the loopback hosts to the exemptions from proxies; the proxies and the exemptions that are set stay.

    Programs read `no_proxy`, `NO_PROXY` or both, and prefer the lower case: each gets the exemptions that a program
    which reads it saw before. gRPC reads `no_grpc_proxy` instead where it is set.
    """
    before = {name: environment.get(name) for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy")}
    lower, upper = before["no_proxy"], before["NO_PROXY"]
    environment["no_proxy"] = _with_loopback(lower if lower is not None else upper or "")
    environment["NO_PROXY"] = _with_loopback(upper if upper is not None else lower or "")
    if before["no_grpc_proxy"] is not None:
        environment["no_grpc_proxy"] = _with_loopback(before["no_grpc_proxy"])


def _with_loopback(exemptions: str) -> str:
    hosts = [host.strip() for host in exemptions.split(",") if host.strip()]
    if "*" in hosts:
        return exemptions  # no host goes through a proxy; urllib understands the star only where it stands alone
    return ",".join([*hosts, *(host for host in LOOPBACK if host not in hosts)])


def is_loopback(url: str) -> bool:
    """Return whether a URL's host is this machine's loopback: localhost, 127.0.0.0/8 or ::1."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def keep_private() -> None:
    """Let only this user read the files that this process, and those that it starts, will make."""
    os.umask(PRIVATE_UMASK)


def keep_caches(data_dir: Path) -> None:
    """Have libraries keep their files in `data_dir`: the home folder may be missing or read-only.

    A user without an account and without HOME has none at all, and Streamlit ends where it cannot even name one.
    """
    cache = data_dir.absolute() / "cache"
    for variable, name in CACHES.items():
        os.environ.setdefault(variable, str(cache / name))
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(cache)
