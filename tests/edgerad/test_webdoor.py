"""The door of HTTP listeners: foreign Host and Origin are refused, and so are slow or huge heads; over real sockets."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from websockets.sync.client import connect

from edgerad import webdoor
from edgerad.webdoor import Door, Names, PromptProtocol, authority

NAMES = Names("10.1.2.3", ["xray.example", "proxy.example:8443"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("localhost", ("localhost", None)),
        ("LOCALHOST.:8501", ("localhost", 8501)),
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:8501", ("::1", 8501)),
        ("[0:0:0:0:0:0:0:1]", ("::1", None)),
        ("[::ffff:10.1.2.3]", ("10.1.2.3", None)),
        ("", None),
        (".", None),
        ("a b", None),
        ("user@localhost", None),
        ("localhost/evil", None),
        ("localhost,evil.example", None),
        ("[localhost]", None),
        ("localhost:", None),
        ("localhost:123456", None),
        ("localhost\n", None),
        ("lοcalhost", None),
    ],
)
def test_a_host_header_is_read_as_one_name_or_not_at_all(text: str, found: tuple[str, int | None] | None) -> None:
    assert authority(text) == found


@pytest.mark.parametrize(
    ("hosts", "origins", "why"),
    [
        (["10.1.2.3:8501"], [], None),
        (["localhost:8501"], [], None),
        (["localhost:9999"], ["http://localhost:9999"], None),  # through a tunnel on another port
        (["[::1]:8501"], ["http://[::1]:8501"], None),
        (["xray.example"], ["https://xray.example"], None),
        (["xray.example:443"], ["https://xray.example"], None),
        (["127.0.0.1:8501"], ["https://xray.example"], None),  # a proxy that does not pass the Host on
        (["127.0.0.1:8501"], ["https://proxy.example:8443"], None),
        (["proxy.example:8443"], [], None),
        (["evil.example:8501"], [], "host"),
        (["evil.example:8501"], ["http://evil.example:8501"], "host"),  # DNS rebinding
        (["127.0.0.1.evil.example"], [], "host"),
        (["evilxray.example"], [], "host"),
        (["10.9.9.9:8501"], [], "host"),
        (["0.0.0.0:8501"], [], "host"),
        ([], [], "host"),
        (["localhost", "localhost"], [], "host"),
        (["localhost:8501"], ["http://evil.example"], "origin"),
        (["localhost:8501"], ["http://localhost:3000"], "origin"),  # another program on this machine
        (["localhost:8501"], ["http://127.0.0.1:8501"], "origin"),
        (["127.0.0.1:8501"], ["https://xray.example:444"], "origin"),
        (["127.0.0.1:8501"], ["https://proxy.example"], "origin"),
        (["localhost:8501"], ["null"], "origin"),
        (["localhost:8501"], [""], "origin"),
        (["localhost:8501"], ["file://localhost:8501"], "origin"),
        (["localhost:8501"], ["http://localhost:8501", "http://evil.example"], "origin"),
    ],
)
def test_only_own_names_and_own_pages_pass(hosts: list[str], origins: list[str], why: str | None) -> None:
    assert NAMES.refusal(hosts, origins, "10.1.2.3") == why


@pytest.mark.parametrize("listens", ["0.0.0.0", "::"])  # noqa: S104 - nothing is bound
def test_a_listener_on_all_addresses_answers_to_the_one_that_was_reached(listens: str) -> None:
    names = Names(listens)
    assert names.refusal(["10.1.2.3:8501"], ["http://10.1.2.3:8501"], "10.1.2.3") is None
    assert names.refusal(["10.1.2.3:8501"], [], "::ffff:10.1.2.3") is None
    assert names.refusal(["10.1.2.4:8501"], [], "10.1.2.3") == "host"
    assert names.refusal([listens if "." in listens else f"[{listens}]"], [], "10.1.2.3") == "host"
    assert names.refusal(["evil.example"], [], "evil.example") == "host", "only an address can be the one reached"


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_text_that_is_not_a_known_name_passes(host: str, origin: str) -> None:
    found = authority(host)
    if NAMES.refusal([host], [origin], "10.1.2.3") is None:
        assert found is not None
        assert found[0] in {"localhost", "127.0.0.1", "::1", "10.1.2.3", "xray.example", "proxy.example"}
        assert origin.startswith(("http://", "https://"))


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the Origin header that the application sees; send a websocket's messages back."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        return
    seen = [value for name, value in scope["headers"] if name == b"origin"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"ALLOW")]})
    await send({"type": "http.response.body", "body": b",".join(seen) or b"none"})


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a uvicorn behind a door, with one second for a head."""
    monkeypatch.setattr(webdoor, "HEAD_SECONDS", 1.0)
    door = Door(
        _answer, Names("127.0.0.1"), frozenset({"GET"}), "Ask.", lambda _: {"x-frame-options": "DENY"}, True
    )  # fmt: skip
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    bound.listen(16)  # a connection made now waits until the server is up
    config = uvicorn.Config(
        door, http=PromptProtocol, h11_max_incomplete_event_size=webdoor.MAX_HEAD_BYTES, log_config=None,
        lifespan="off", timeout_keep_alive=3,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    yield bound.getsockname()[1]
    server.should_exit = True
    thread.join(10)


def closed_after(connection: socket.socket) -> float:
    """Return after how many seconds the other side ends a connection."""
    start = time.monotonic()
    connection.settimeout(10)
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - start


def test_a_door_passes_on_adds_its_headers_and_hides_the_origin(listener: int) -> None:
    address = f"http://127.0.0.1:{listener}"
    answer = httpx.get(address, headers={"Origin": address})
    assert (answer.status_code, answer.text, answer.headers.get_list("x-frame-options")) == (200, "none", ["DENY"])
    assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 403
    refused = httpx.post(address, content=b"x" * 100_000)
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")


def test_a_connection_that_sends_nothing_or_only_a_part_is_closed(listener: int) -> None:
    parts = [b"", b"GET / HTTP/1.1\r\nHost: loc", b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx"]
    for part in parts:
        with socket.create_connection(("127.0.0.1", listener)) as connection:
            connection.sendall(part)
            assert closed_after(connection) < 5
    with socket.create_connection(("127.0.0.1", listener)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT")  # the second one stays a part
        assert closed_after(connection) < 5


def test_a_complete_request_keeps_its_connection(listener: int) -> None:
    with httpx.Client() as client:
        for _ in range(2):
            assert client.get(f"http://127.0.0.1:{listener}").status_code == 200
            time.sleep(1.5)
        with socket.create_connection(("127.0.0.1", listener)) as other:
            other.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(1.5)
            other.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            other.settimeout(5)
            answer = b""
            while answer.count(b"200 OK") < 2:
                answer += other.recv(4096)


def test_a_websocket_stays_open_however_quiet_it_is(listener: int) -> None:
    with connect(f"ws://127.0.0.1:{listener}/") as stream:
        for said in ("one", "two"):
            time.sleep(2.5)
            stream.send(said)
            assert stream.recv(5) == said


def test_a_huge_head_is_refused_while_it_arrives(listener: int) -> None:
    with socket.create_connection(("127.0.0.1", listener)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        sent = 0
        try:
            while sent < 4 * 2**20:
                connection.sendall(b"x" * 2**16)
                sent += 2**16
        except ConnectionError:
            pass
        assert sent < 4 * 2**20, "it was cut off"
