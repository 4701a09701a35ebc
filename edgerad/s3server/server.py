"""Runs the embedded S3 server in a thread of this process."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import uvicorn

from edgerad import http_limits
from edgerad.s3server.app import OnPut, S3App
from edgerad.s3server.disk import Disk
from edgerad.webdoor import Door, Names

METHODS = frozenset({"DELETE", "GET", "HEAD", "POST", "PUT"})


class S3Server:
    """An S3 server on 127.0.0.1 whose objects live in `folder` and survive restarts."""

    def __init__(
        self, folder: Path, access_key: str, secret_key: str, port: int = 0, on_put: OnPut | None = None
    ) -> None:
        """Keep what to start; port 0 takes a free one."""
        self.folder, self._port, self._on_put = folder, port, on_put
        self._keys = {access_key: secret_key}
        self._disk: Disk | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen; returns when requests are taken. OSError when the port is taken, RuntimeError when the folder is."""
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self._port))
            listener.listen(128)
            self._disk = Disk(self.folder)
        except BaseException:
            listener.close()
            raise
        self._port = listener.getsockname()[1]
        app = S3App(self._disk, self._keys, self._on_put)
        door = Door(app, Names("127.0.0.1"), METHODS, "The embedded store answers on 127.0.0.1 alone.")
        self._server = http_limits.server(door, lifespan="off", timeout_graceful_shutdown=5)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="s3server", daemon=True)
        self._thread.start()  # the socket already listens: a request sent now waits in its backlog

    @property
    def port(self) -> int:
        """Port listened on."""
        return self._port

    @property
    def endpoint_url(self) -> str:
        """URL for S3 clients."""
        return f"http://127.0.0.1:{self._port}"

    def stop(self) -> None:
        """Stop listening, once what is under way has been answered (5 s at most)."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(10)
        if self._disk is not None:
            self._disk.close()
        self._server = self._thread = self._disk = None

    def __enter__(self) -> S3Server:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()
