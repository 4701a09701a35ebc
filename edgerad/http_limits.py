"""uvicorn for listeners that take uploads: limits on heads, on slow bodies and on idle connections.

It parses with httptools, which has no limits of its own. h11, which has one for heads, takes half of the speed of the
embedded store.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from edgerad.webdoor import HEAD_SECONDS, MAX_HEAD_BYTES

MAX_HEADERS = 100
BODY_SECONDS, BODY_BYTES = 18.0, 18 * 1024
"""In each such span of time a body must bring so many bytes, about 1 KiB a second."""
WRITE_SECONDS = 20.0
"""Time in which a client must take some of an answer that it does not read."""
IDLE_SECONDS = 5
"""Time that a connection may stay open between two requests."""
IDLE, HEAD, BODY = "idle", "head", "body"


class UploadProtocol(HttpToolsProtocol):
    """A head must be complete in HEAD_SECONDS and is limited in size and number of headers (else 400, or no answer).

    A body may take as long as it needs while it comes. A span in which the application itself does not read on is not
    counted. A body that comes after its request was answered (a refusal) is dropped for one span at most.
    """

    _timer: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _phase = IDLE
    _received = _head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._watch(HEAD_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Parse; refuse a head that is too large; set the clock for what is to come next."""
        before = self._phase
        self._received += len(data)
        super().data_received(data)
        if self._phase == HEAD and self._received > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The request's head is too large.")
        if self._phase == IDLE and self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()  # the application is at it
        elif self._phase != before or self._timer is None:
            self._watch(BODY_SECONDS if self._phase == BODY else HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._unwatch()
        self._read_on()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the clock of an answer that is not read."""
        super().pause_writing()
        self._must_read()

    def resume_writing(self) -> None:
        """Stop it."""
        self._read_on()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; one whose last answer is not read would stay open."""
        super().timeout_keep_alive_handler()
        self._must_read()

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._phase, self._head = HEAD, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count; what is raised here is answered by 400."""
        super().on_header(name, value)
        self._head += len(name) + len(value)
        if len(self.headers) > MAX_HEADERS or self._head + len(self.url) > MAX_HEAD_BYTES:
            msg = "the head is too large"
            raise ValueError(msg)

    def on_headers_complete(self) -> None:
        """Begin a body."""
        self._phase = BODY
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the request."""
        self._phase = IDLE
        super().on_message_complete()

    def _must_read(self) -> None:
        self._read_on()
        self._unread = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def _read_on(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _watch(self, seconds: float) -> None:
        self._unwatch()
        self._received = 0
        self._timer = self.loop.call_later(seconds, self._look)

    def _unwatch(self) -> None:
        self._received = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Look whether a body came on; end the connection where it did not, or where a head is not complete."""
        self._timer = None
        comes = self._received >= BODY_BYTES or self.flow.read_paused
        if self._phase == BODY and comes and not self.cycle.response_complete:
            self._watch(BODY_SECONDS)
        elif not self.transport.is_closing():
            self.transport.abort()


def server(app: Any, **options: Any) -> uvicorn.Server:
    """Return a uvicorn server for an application, with the limits; `options` are further ones of uvicorn.Config."""
    config = uvicorn.Config(
        app,
        http=UploadProtocol,
        ws="none",
        timeout_keep_alive=IDLE_SECONDS,
        log_config=None,
        access_log=False,
        server_header=False,
        **options,
    )
    return uvicorn.Server(config)
