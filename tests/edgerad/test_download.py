"""The short way to an object: what it takes for a success, over which connections."""

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edgerad.download import LINES, _read_head
from edgerad.store import ObjectStore, ObjectTooLarge, StoreConfig, StoreUnavailable

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: x\r\n"


@pytest.mark.parametrize(
    ("head", "read"),
    [
        (PLAIN, (10, True)),
        (PLAIN.replace(b"Content-Length", b"content-length"), (10, True)),
        (PLAIN + b"Connection: Close\r\n", (10, False)),
        (PLAIN.replace(b"200 OK", b"206 Partial Content"), (None, False)),
        (PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"), (None, False)),
        (PLAIN.replace(b": 10", b": -1"), (None, False)),
        (b"HTTP/1.1 200 OK\r\n", (None, False)),
        (PLAIN + b"Transfer-Encoding: chunked\r\n", (None, False)),
        (PLAIN + b"X: y\r\n" * LINES, (None, False)),
        (b"", (None, False)),
    ],
)
def test_only_a_plain_success_of_known_length_is_taken(head: bytes, read: tuple[int | None, bool]) -> None:
    assert _read_head(BytesIO(head + b"\r\n0123456789")) == read


def test_a_head_that_ends_early_is_none() -> None:
    assert _read_head(BytesIO(PLAIN)) == (None, False)


class Handler(BaseHTTPRequestHandler):
    """Answers every GET with ten bytes; counts connections."""

    protocol_version = "HTTP/1.1"
    connections = 0

    def setup(self) -> None:
        type(self).connections += 1
        super().setup()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "10")
        self.send_header("ETag", '"e"')
        self.end_headers()
        self.wfile.write(b"0123456789")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served(context: ssl.SSLContext | None = None) -> Iterator[tuple[int, type[Handler]]]:
    """Serve; yield port and handler."""
    handler = type("Counting", (Handler,), {"connections": 0})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1], handler
        server.shutdown()


def test_one_connection_serves_one_object_after_the_other() -> None:
    with served() as (port, handler):
        store = ObjectStore(StoreConfig(f"http://127.0.0.1:{port}", "xray", "a", "s"))
        assert [store._short_way.get("k", "e", 10) for _ in range(3)] == [b"0123456789"] * 3
        assert handler.connections == 1
        with pytest.raises(ObjectTooLarge):
            store._short_way.get("k", "e", 9)
        assert store._short_way.get("k", "e", 10) == b"0123456789"
        assert handler.connections == 2, "what was not read is no other answer's beginning"


def test_a_connection_that_the_store_ended_is_replaced() -> None:
    with served() as (port, handler):
        store = ObjectStore(StoreConfig(f"http://127.0.0.1:{port}", "xray", "a", "s"))
        handler.timeout = 0.05  # seconds without a request after which the store hangs up
        assert store._short_way.get("k", None, None)
        pool = store._short_way._pool
        idle = pool.pool.queue[-1]
        while idle.is_connected:
            threading.Event().wait(0.01)
        assert store._short_way.get("k", None, None) == b"0123456789"


def test_a_proxy_is_boto3_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert ObjectStore(StoreConfig("http://store", "xray", "a", "s"))._short_way.get("k", None, None) is None


def test_a_store_s_certificate_is_checked(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    with served(context) as (port, _):
        config = StoreConfig(f"https://127.0.0.1:{port}", "xray", "a", "s", max_attempts=1)
        trusting = ObjectStore(StoreConfig(config.endpoint_url, "xray", "a", "s", ca_file=str(tmp_path / "pem")))
        assert trusting._short_way.get("k", "e", 10) == b"0123456789"
        distrusting = ObjectStore(config)
        assert distrusting._short_way.get("k", "e", 10) is None
        with pytest.raises(StoreUnavailable):
            distrusting.get("k")


def certificate(folder: Path) -> Path:
    """Write a certificate of 127.0.0.1 that signs itself, with its key; return the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    at = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(at - datetime.timedelta(days=1))
        .not_valid_after(at + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "pem"
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path
