"""The line to an S3 server, as bad as one likes: a proxy that loses, cuts, garbles or swallows what one tells it to."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import urlsplit

How = Literal[
    "not at all",
    "refused",
    "cut",
    "lost answer",
    "silent",
    "garbage",
    "truncated",
    "403",
    "500",
    "503",
    "507",
    "404 page",
]
When = Callable[[str, str], bool]
"""Whether a request, by its method and path with query, is meant."""
DROPPED = {"expect", "connection", "transfer-encoding", "keep-alive"}
PAGES: dict[How, tuple[int, str, bytes]] = {
    "garbage": (200, "text/html", b"<html><body>Welcome to the hospital's guest network</body></html>"),
    "404 page": (404, "text/html", b"<html><body>not found</body></html>"),
    "403": (403, "application/xml", b"<Error><Code>AccessDenied</Code></Error>"),
    "500": (500, "application/xml", b"<Error><Code>InternalError</Code></Error>"),
    "503": (503, "application/xml", b"<Error><Code>SlowDown</Code><Message>"),
    "507": (507, "application/xml", b"<Error><Code>InsufficientStorage</Code></Error>"),
}


@dataclass
class Fault:
    """What goes wrong with the requests that are meant, and how often; `then` is called when it does."""

    how: How
    when: When = lambda method, path: True
    times: int = 10**9
    then: Callable[[], None] = lambda: None


@dataclass
class Line:
    """A proxy on 127.0.0.1; `asked` are the requests that reached the server: method and path with query."""

    upstream: str
    faults: list[Fault] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    bytes_in: int = 0

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._lock = threading.Lock()
        line = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

            def relay(self) -> None:
                line.relay(self)

        for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.relay)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """What clients take for the server."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def breaks(
        self, how: How, when: When | None = None, times: int = 10**9, then: Callable[[], None] | None = None
    ) -> None:
        """Let requests fail from now on."""
        self.faults.append(Fault(how, when or (lambda method, path: True), times, then or (lambda: None)))

    def mend(self) -> None:
        """Let everything through again."""
        self.faults.clear()

    def requests(self, method: str, part: str = "") -> list[str]:
        """Return the paths of the requests of a method that reached the server and hold `part`."""
        return [path for asked, path in self.asked if asked == method and part in path]

    def close(self) -> None:
        """End the proxy, and the requests that it leaves without an answer."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def relay(self, request: BaseHTTPRequestHandler) -> None:
        """Handle one request."""
        fault = self._fault(request.command, request.path)
        size = int(request.headers.get("Content-Length") or 0)
        if fault and fault.how in {"refused", "cut", "silent"}:
            request.rfile.read(size // 2 if fault.how == "cut" else 0)
            if fault.how == "silent":
                self._over.wait()
            self._hang_up(request)
            return
        body = request.rfile.read(size)
        if fault and fault.how in PAGES:
            self._answer(request, *PAGES[fault.how])
            return
        with self._lock:
            self.asked.append((request.command, request.path))
            self.bytes_in += size
        status, headers, content = self._forward(request, body)
        if fault and fault.how == "lost answer":
            self._hang_up(request)
            return
        request.send_response_only(status)
        for name, value in headers:
            request.send_header(name, value)
        request.end_headers()
        whole = not (fault and fault.how == "truncated")
        request.wfile.write(content if whole else content[: len(content) // 2])
        if not whole:
            self._hang_up(request)

    def _fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            fault = next((fault for fault in self.faults if fault.times > 0 and fault.when(method, path)), None)
            if fault is not None:
                fault.times -= 1
        if fault is not None:
            fault.then()
        return fault

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(urlsplit(self.upstream).netloc, timeout=120)
        try:
            upstream.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in DROPPED:
                    upstream.putheader(name, value)
            upstream.endheaders(body or None)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in DROPPED]
        if request.command != "HEAD" and "content-length" not in {name.lower() for name, _ in headers}:
            headers.append(("Content-Length", str(len(content))))
        return answer.status, headers, content

    def _answer(self, request: BaseHTTPRequestHandler, status: int, kind: str, content: bytes) -> None:
        request.send_response_only(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(content)))):
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(b"" if request.command == "HEAD" else content)

    def _hang_up(self, request: Any) -> None:
        request.close_connection = True
        try:
            request.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
