"""What an HTTP listener refuses before its application sees it: foreign names and pages, slow or huge heads.

A web page that somebody opens elsewhere can make the browser talk to a listener inside the hospital: by a request from
its own origin, or by pointing its own host name at the listener's address (DNS rebinding). A listener is safe when it
answers only to its own names (`Host`, RFC 9110 7.2) and to pages that it served itself (`Origin`, RFC 6454 7).
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgerad.sections import HOST
from edgerad.telemetry import get_logger

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOCAL = ("localhost", "127.0.0.1", "::1")
PORTS = {"http": 80, "https": 443}
MAX_HEAD_BYTES = 32 * 2**10
HEAD_SECONDS = 10.0
"""Within this time a request must be complete, from the connection or from the request's first byte."""


def authority(text: str) -> tuple[str, int | None] | None:
    """Return host name (lower case; an address in its usual form) and port of `HOST[:PORT]`; None when it is none."""
    found = re.fullmatch(HOST, text)
    if found is None:
        return None
    name, port = found[1].strip("[]").lower().removesuffix("."), found[2]
    try:
        name = _address(name)
    except ValueError:
        if found[1].startswith("["):
            return None
    return (name, int(port) if port else None) if name else None


def _address(text: str) -> str:
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


class Names:
    """The names a listener answers to: its own address, localhost, and those that an administrator added."""

    def __init__(self, host: str, added: Iterable[str] = ()) -> None:
        """Take the address it listens on, and `NAME` or `NAME:PORT` for each further name."""
        self._added = {found for name in added if (found := authority(name))}
        self._names = {name for name, _ in self._added} | set(LOCAL)
        own = authority(f"[{host}]" if ":" in host else host)
        if own is not None and not _is_wildcard(own[0]):
            self._names.add(own[0])

    def refusal(self, hosts: list[str], origins: list[str], reached: str | None) -> str | None:
        """Return `host` or `origin` for the header that forbids a request, None when it may pass.

        `hosts` and `origins` are the values of all such headers, `reached` is the address the connection came to. A
        request without Origin passes: browsers leave it out when a person opens an address.
        """
        host = authority(hosts[0]) if len(hosts) == 1 else None
        if host is None or not (host[0] in self._names or _is_same_address(host[0], reached)):
            return "host"
        if not origins:
            return None
        scheme, _, rest = origins[0].partition("://")
        origin = authority(rest)
        if len(origins) > 1 or origin is None or scheme not in PORTS:
            return "origin"
        usual = PORTS[scheme]
        from_here = (origin[0], origin[1] or usual) == (host[0], host[1] or usual)
        added = any((origin[0], origin[1] or usual) == (name, port or usual) for name, port in self._added)
        return None if from_here or added else "origin"


def _is_wildcard(name: str) -> bool:
    return name in {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound


def _is_same_address(name: str, reached: str | None) -> bool:
    # A listener on all addresses: a Host that is the very address reached cannot be another site's name.
    try:
        return reached is not None and name == _address(reached.partition("%")[0])
    except ValueError:
        return False


class Door:
    """ASGI middleware: refuses by `Names` and by method, for pages and for websockets, before `app` sees anything.

    `headers` go along with every answer. With `strip_origin` the application does not see the Origin header that was
    checked here, for an application whose own check must not run.
    """

    def __init__(
        self,
        app: App,
        names: Names,
        methods: frozenset[str],
        advice: str,
        headers: Callable[[str], dict[str, str]] = lambda _: {},
        strip_origin: bool = False,
    ) -> None:
        """Keep what to check; `advice` is told to whoever is refused by Host, `headers` is called with the Host."""
        self._app, self._names, self._methods, self._advice = app, names, methods, advice
        self._headers, self._strip_origin = headers, strip_origin
        self._log, self._logged = get_logger("door"), set[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on or refuse it: 403 for Host and Origin (RFC 9110 15.5.4), 405 for the method."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        hosts, origins = (
            [value.decode("latin-1").strip() for name, value in scope["headers"] if name.lower() == wanted]
            for wanted in (b"host", b"origin")
        )
        server = scope.get("server")
        why = self._names.refusal(hosts, origins, server[0] if server else None)
        if why is None and scope["type"] == "http" and scope["method"] not in self._methods:
            why = "method"
        if why is not None:
            self._note(why)
            await self._refuse(scope, send, why)
            return
        extra = [(name.encode(), value.encode()) for name, value in self._headers(hosts[0]).items()]

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                known = {name for name, _ in extra}
                kept = [item for item in message.get("headers", []) if item[0].lower() not in known]
                message = {**message, "headers": [*kept, *extra]}
            await send(message)

        if self._strip_origin:
            scope = {**scope, "headers": [item for item in scope["headers"] if item[0].lower() != b"origin"]}
        await self._app(scope, receive, with_headers if extra else send)

    def _note(self, why: str) -> None:
        """Log the first refusal of each kind: all of them would let a stranger fill the log."""
        if why not in self._logged:
            self._logged.add(why)
            self._log.warning("a request was refused", reason=why)

    async def _refuse(self, scope: Scope, send: Send, why: str) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it was accepted: the client gets a 403
            return
        texts = {
            "host": f"This server does not answer to that host name. {self._advice}",
            "origin": "Another web site sent this request. Open this server's own address instead.",
            "method": "This server does not take that method.",
        }
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        if why == "method":
            headers.append((b"allow", ", ".join(sorted(self._methods)).encode()))
        status = 405 if why == "method" else 403
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": texts[why].encode() + b"\n"})


class PromptProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, but a connection that keeps its request to itself for HEAD_SECONDS is closed.

    Give uvicorn `h11_max_incomplete_event_size=MAX_HEAD_BYTES` with it: a longer head is answered by 400.
    """

    _timer: asyncio.TimerHandle | None = None
    _is_websocket = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Stop the clock when the request is complete, start it when another one begins."""
        super().data_received(data)
        if self._is_websocket or self.conn.their_state not in {h11.IDLE, h11.SEND_BODY}:
            self._unwatch()
        elif self._timer is None:
            self._watch()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Leave the connection to the websocket's protocol, which has limits of its own."""
        self._is_websocket = True
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.abort()
