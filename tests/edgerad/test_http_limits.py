"""Limits of HTTP listeners that take uploads: heads, headers, slow bodies, silent connections; over real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from edgerad import http_limits
from edgerad.http_limits import MAX_HEADERS
from edgerad.webdoor import MAX_HEAD_BYTES


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer /refuse at once, /large with 64 MiB, and everything else with the length of the body."""
    if scope["path"] == "/large":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % 2**26)]})
        for left in range(63, -1, -1):
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": left > 0})
        return
    size = 0
    while scope["path"] != "/refuse":
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        if not message["more_body"]:
            break
    text = str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": text})


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """A server with short times."""
    monkeypatch.setattr(http_limits, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(http_limits, "BODY_SECONDS", 0.5)
    monkeypatch.setattr(http_limits, "BODY_BYTES", 1000)
    monkeypatch.setattr(http_limits, "WRITE_SECONDS", 0.5)
    monkeypatch.setattr(http_limits, "IDLE_SECONDS", 1)
    server = http_limits.server(echo, lifespan="off")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join()


def talk(address: tuple[str, int], *pieces: bytes, pause: float = 0.0) -> bytes:
    """Send pieces with pauses and return all that comes until the server ends the connection."""
    received = b""
    with socket.create_connection(address, timeout=30) as peer:
        try:
            for piece in pieces:
                peer.sendall(piece)
                if pause:
                    threading.Event().wait(pause)
            while data := peer.recv(65536):
                received += data
        except ConnectionError:
            pass
    return received


def head(*headers: str, target: str = "/", method: str = "POST") -> bytes:
    """Return the head of a request."""
    return "\r\n".join((f"{method} {target} HTTP/1.1", "Host: localhost", *headers, "", "")).encode()


def test_a_request_is_answered_and_the_connection_serves_the_next(address: tuple[str, int]) -> None:
    request = head("Content-Length: 5") + b"hello"
    assert talk(address, request, request).count(b"HTTP/1.1 200 OK") == 2
    assert talk(address, head(f"X: {'y' * (MAX_HEAD_BYTES - 200)}", "Content-Length: 0")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "request_head",
    [
        head("X: " + "y" * MAX_HEAD_BYTES, "Content-Length: 0"),
        head("X" * MAX_HEAD_BYTES + ": y", "Content-Length: 0"),
        head(target="/" + "y" * MAX_HEAD_BYTES, method="GET"),
        head(*[f"X-{number}: y" for number in range(MAX_HEADERS + 1)], "Content-Length: 0"),
        b"GET / HTTP/1.1\r\nX: " + b"y" * 2**22,
        b"GET /" + b"y" * 2**22,
    ],
    ids=["value", "name", "target", "many", "value without end", "target without end"],
)
def test_a_large_head_is_refused(address: tuple[str, int], request_head: bytes) -> None:
    assert talk(address, request_head)[:12] in {b"HTTP/1.1 400", b""}


def send_on(peer: socket.socket, piece: bytes, limit: int, pause: float = 0.0) -> int:
    """Send a piece again and again until the server ends the connection; return the bytes sent, `limit` at most."""
    sent = 0
    try:
        while sent < limit:
            sent += peer.send(piece)
            threading.Event().wait(pause)
    except ConnectionError:
        return sent
    return limit


def test_a_head_without_end_is_not_kept(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nX: ")
        assert send_on(peer, b"y" * 2**16, 200 * 2**20) < 20 * 2**20


@pytest.mark.parametrize(
    "pieces",
    [
        [b""],
        [b"\r\n"],
        [b"\r\n"] * 20,
        [b"G", b"E", b"T"],
        [head("Content-Length: 5")[:-1]],
        [b"POST / HTTP/1.1\r\n", *[f"X-{number}: y\r\n".encode() for number in range(40)]],
        [head("Content-Length: 100000")],
        [head("Content-Length: 100000"), *[b"y"] * 40],
        [head("Transfer-Encoding: chunked"), *[b"1\r\ny\r\n"] * 40],
        [head("Content-Length: 0"), b"POST / HTTP/1.1\r\n", *[f"X-{number}: y\r\n".encode() for number in range(40)]],
    ],
    ids=[
        "silent",
        "newline",
        "newlines",
        "bytes",
        "almost",
        "slow head",
        "no body",
        "slow body",
        "slow chunks",
        "second",
    ],
)
def test_what_does_not_come_on_is_ended(address: tuple[str, int], pieces: list[bytes]) -> None:
    # A connection that is not ended makes `talk` fail, after 30 s. Only the first of two requests was whole.
    assert talk(address, *pieces, pause=0.1).count(b"HTTP/1.1") <= 1


def test_a_body_that_comes_on_may_take_its_time(address: tuple[str, int]) -> None:
    pieces = [bytes(500)] * 20
    answer = talk(address, head("Content-Length: 10000"), *pieces, pause=0.1)
    assert answer.endswith(b"10000")


def test_a_body_that_comes_on_after_a_refusal_is_not_read_for_ever(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as peer:
        peer.sendall(head(f"Content-Length: {2**40}", target="/refuse"))
        assert peer.recv(100).startswith(b"HTTP/1.1 200")
        assert send_on(peer, bytes(10_000), 2**30, pause=0.02) < 2**30


def test_an_answer_that_is_not_read_ends_the_connection(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.sendall(head(target="/large", method="GET"))
        threading.Event().wait(2)
        taken = 0
        try:
            while data := peer.recv(2**20):
                taken += len(data)
        except ConnectionError:
            pass
        assert taken < 2**26


def test_an_answer_that_is_read_slowly_comes_whole(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as peer:
        peer.sendall(head("Connection: close", target="/large", method="GET"))
        taken = 0
        while data := peer.recv(2**20):
            taken += len(data)
            threading.Event().wait(0.02)
        assert taken > 2**26
