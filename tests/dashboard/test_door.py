"""Nobody but its own pages reaches a running dashboard, it calls nobody, and it takes no uploads."""

import http.server
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import select
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from dashboard import launch
from edgerad.records import Alert
from edgerad.settings import SettingsError, load_settings
from tests.conftest import CHROMIUM_FLAGS
from tests.dashboard.conftest import Edge, running

STREAM = "/_stcore/stream"
PROXY_NAME = "xray.example"


class Outside:
    """Listens where the dashboard is told that a proxy for the outside world is; counts who comes."""

    def __init__(self) -> None:
        self.callers = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.callers += 1
            connection.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def outside() -> Iterator[Outside]:
    """A world that counts its callers."""
    world = Outside()
    yield world
    world.close()


@pytest.fixture
def door(edge: Edge, tmp_path: Path, outside: Outside) -> Iterator[str]:
    """The address of a dashboard that also answers to PROXY_NAME, and would find the outside through a proxy."""
    environment = edge.environment | {"http_proxy": outside.url, "https_proxy": outside.url}
    environment = {name: value for name, value in environment.items() if name.lower() != "no_proxy"}
    with running(environment, tmp_path / "dashboard.log", allowed_hosts=[PROXY_NAME]) as found:
        yield found


def opens(address: str, host: str | None = None, origin: str | None = None) -> bool:
    """Return whether the websocket, which carries all of the pages, opens; anything but 403 otherwise fails."""
    port = urlsplit(address).port
    names = {} if host is None else {"Host": host.format(port=port)}
    try:
        with connect(
            address.replace("http", "ws", 1) + STREAM if host is None else f"ws://{names['Host']}{STREAM}",
            sock=socket.create_connection(("127.0.0.1", port or 0)),
            origin=None if origin is None else Origin(origin.format(port=port)),
            subprotocols=[Subprotocol("streamlit")],
        ):
            return True
    except InvalidStatus as error:
        if error.response.status_code != 403:
            raise
        return False


CASES = (
    (None, None, True),
    (None, "http://127.0.0.1:{port}", True),
    ("localhost:{port}", "http://localhost:{port}", True),
    ("localhost:9999", "http://localhost:9999", True),  # a tunnel
    (PROXY_NAME, f"https://{PROXY_NAME}", True),  # a reverse proxy that passes the name on
    ("127.0.0.1:{port}", f"https://{PROXY_NAME}", True),  # one that does not
    ("evil.example:{port}", "http://evil.example:{port}", False),  # DNS rebinding
    ("evil.example:{port}", None, False),
    ("127.0.0.1:{port}", "http://evil.example", False),
    ("127.0.0.1:{port}", "http://localhost:3000", False),
    ("127.0.0.1:{port}", "null", False),
)
"""Host, Origin, and whether such a request passes."""


def test_only_own_names_and_own_pages_pass_for_pages_and_the_websocket(door: str, outside: Outside) -> None:
    port = urlsplit(door).port
    for host, origin, passes in CASES:
        headers = {name: value.format(port=port) for name, value in (("Host", host), ("Origin", origin)) if value}
        for path in ("/", "/worklist", "/_stcore/health", "/_stcore/host-config"):
            status = httpx.get(door + path, headers=headers).status_code
            assert (status, host, origin, path) == (200 if passes else 403, host, origin, path)
        assert (opens(door, host, origin), host, origin) == (passes, host, origin)
    assert outside.callers == 0, "Streamlit asks an outside server when it sees an Origin that it does not know"


def test_nothing_is_uploaded_and_messages_are_limited(door: str) -> None:
    for path in ("/_stcore/upload_file/session/file", "/", "/worklist", "/_stcore/mcp"):
        for method in ("PUT", "POST", "DELETE", "PATCH", "OPTIONS"):
            assert httpx.request(method, door + path, content=b"x").status_code == 405, (method, path)
    with connect(door.replace("http", "ws", 1) + STREAM, subprotocols=[Subprotocol("streamlit")]) as stream:
        stream.send(bytes(launch.MAX_MESSAGE_BYTES + 1))
        with pytest.raises(ConnectionClosed) as closed:
            list(iter(stream.recv, None))
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


def test_a_browser_is_told_to_load_nothing_from_elsewhere_and_to_show_pages_in_no_frame(door: str) -> None:
    headers = httpx.get(door).headers
    rules = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
    assert rules["default-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"
    assert headers["x-frame-options"] == "DENY"
    sources = {source for rule in rules.values() for source in rule.split()}
    own = urlsplit(door).netloc
    assert sources == {
        "'self'", "'none'", "'unsafe-inline'", "'unsafe-eval'", "data:", "blob:", f"ws://{own}", f"wss://{own}",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["https://xray.example", "a b", "xray.example/", "*", ""])
def test_a_name_that_is_none_is_refused_in_the_settings(name: str) -> None:
    with pytest.raises(SettingsError, match=r"dashboard\.allowed_hosts"):
        load_settings(dashboard={"allowed_hosts": [name]})


@pytest.mark.parametrize("host", ["::1", "0.0.0.0", "localhost"])  # noqa: S104
def test_the_address_that_is_told_is_one_that_answers(edge: Edge, tmp_path: Path, host: str) -> None:
    with running(edge.environment, tmp_path / "dashboard.log", host=host) as told:
        assert httpx.get(told).status_code == 200
        assert httpx.get(told, headers={"Host": "evil.example"}).status_code == 403
        if host == "0.0.0.0":  # noqa: S104
            assert httpx.get(told.replace("localhost", "127.0.0.1")).status_code == 200


@pytest.mark.parametrize("wrong", [{}, {"EDGERAD_DASHBOARD__PORT": "none"}])
def test_the_log_holds_no_warning_of_a_library_that_quotes_a_patient(
    edge: Edge, tmp_path: Path, wrong: dict[str, str]
) -> None:
    code = "from dashboard import launch; launch.set_up_logs(); import warnings; warnings.warn('Doe' + '^Jane')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=edge.environment | wrong, capture_output=True, text=True, check=True
    )
    assert "a library warns" in done.stderr
    assert "Doe^Jane" not in done.stdout + done.stderr


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """A page of another site that tries to reach the dashboard named in its query, by a websocket, a fetch, a frame."""

    def do_GET(self) -> None:
        target = self.path.partition("?")[2]
        body = f"""<!doctype html><script>
            window.seen = {{}};
            const stream = new WebSocket("ws://{target}{STREAM}", ["streamlit"]);
            stream.onopen = () => window.seen.socket = "open";
            stream.onerror = () => window.seen.socket = "refused";
            const asked = fetch("http://{target}/worklist");
            asked.then(() => window.seen.fetch = "read", () => window.seen.fetch = "refused");
            </script><iframe id="frame" src="http://{target}/worklist"></iframe>""".encode()
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@pytest.mark.real
def test_a_page_of_another_site_reaches_nothing_in_a_browser(edge: Edge, door: str, chromium: str) -> None:
    from playwright.sync_api import expect, sync_playwright

    port = urlsplit(door).port
    rules = f"MAP evil.example 127.0.0.1, MAP {PROXY_NAME} 127.0.0.1"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as other, sync_playwright() as playwright:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        flags = [*CHROMIUM_FLAGS, f"--host-resolver-rules={rules}"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page()
        for site in ("evil.example", "127.0.0.1"):
            page.goto(f"http://{site}:{other.server_port}/?127.0.0.1:{port}")
            page.wait_for_function("window.seen.socket && window.seen.fetch", timeout=30_000)
            assert page.evaluate("window.seen") == {"socket": "refused", "fetch": "refused"}
            frame = page.frames[1]
            frame.wait_for_load_state()
            assert "stApp" not in frame.content()
        rebound = page.goto(f"http://evil.example:{port}/")  # the attacker's name now leads to the dashboard
        assert rebound is not None
        assert rebound.status == 403
        assert "dashboard.allowed_hosts" in page.content()
        page.goto(f"http://{PROXY_NAME}:{port}/")
        expect(page.locator(f".st-key-row-open-{edge.alarming}")).to_contain_text("94%", timeout=60_000)
        browser.close()
        other.shutdown()
    with edge.database.read() as session:
        assert session.scalars(select(Alert.state)).one() == "open"
