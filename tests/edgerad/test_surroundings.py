"""Loopback goes through no proxy, whatever the environment says; what is remote goes through the one that is set."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import proxy_bypass

import httpx
import pytest

from edgerad import surroundings
from edgerad.store import ObjectStore, StoreConfig, StoreUnavailable

PROXY = "http://192.0.2.9:3128"
"""An address of TEST-NET-1 (RFC 5737): nobody answers there."""
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
HERE = ("http://127.0.0.1:9000", "http://localhost:9000", "https://127.0.0.1", "http://[::1]:9000")
ELSEWHERE = ("http://store.example", "https://10.20.0.1:9000", "http://127.0.0.1.example")


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which everything goes through a proxy, without exemptions."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in VARIABLES:
        monkeypatch.setenv(name, PROXY)
    return monkeypatch


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"no_proxy": "localhost,127.0.0.1,::1", "NO_PROXY": "localhost,127.0.0.1,::1"}),
        (
            {"NO_PROXY": ".corp, 10.0.0.1"},
            {
                "no_proxy": ".corp,10.0.0.1,localhost,127.0.0.1,::1",
                "NO_PROXY": ".corp,10.0.0.1,localhost,127.0.0.1,::1",
            },
        ),
        (
            {"no_proxy": "a,127.0.0.1", "NO_PROXY": "b"},
            {"no_proxy": "a,127.0.0.1,localhost,::1", "NO_PROXY": "b,localhost,127.0.0.1,::1"},
        ),
        ({"no_proxy": "*"}, {"no_proxy": "*", "NO_PROXY": "*"}),
        ({"no_proxy": ""}, {"no_proxy": "localhost,127.0.0.1,::1", "NO_PROXY": "localhost,127.0.0.1,::1"}),
        (
            {"no_grpc_proxy": "ray.corp"},
            {
                "no_proxy": "localhost,127.0.0.1,::1",
                "NO_PROXY": "localhost,127.0.0.1,::1",
                "no_grpc_proxy": "ray.corp,localhost,127.0.0.1,::1",
            },
        ),
    ],
)
def test_loopback_is_added_to_the_exemptions_that_are_there(before: dict[str, str], after: dict[str, str]) -> None:
    environment = {**before, "http_proxy": PROXY}
    surroundings.exempt_loopback(environment)
    assert environment == {**after, "http_proxy": PROXY}
    surroundings.exempt_loopback(environment)
    assert environment == {**after, "http_proxy": PROXY}, "once more changes nothing"


def test_httpx_and_urllib_ask_no_proxy_for_loopback_and_the_set_one_for_the_rest(
    proxied: pytest.MonkeyPatch,
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        proxied.setenv(name, ".corp")
    surroundings.exempt_loopback(os.environ)
    with httpx.Client() as client:
        direct: Any = client._transport
        assert [url for url in HERE if client._transport_for_url(httpx.URL(url)) is not direct] == []
        assert [url for url in ELSEWHERE if client._transport_for_url(httpx.URL(url)) is direct] == []
        assert client._transport_for_url(httpx.URL("http://store.corp")) is direct, "the user's own exemption stays"
    assert proxy_bypass("127.0.0.1:9000")
    assert proxy_bypass("localhost:9000")
    assert not proxy_bypass("store.example")


@pytest.mark.parametrize("exempted", [True, False])
@pytest.mark.parametrize("url", [*HERE, "http://127.0.0.2:9000"])
def test_the_object_store_on_loopback_is_reached_directly(
    proxied: pytest.MonkeyPatch, url: str, exempted: bool
) -> None:
    if exempted:
        surroundings.exempt_loopback(os.environ)
    assert proxies_of(url) == {}


@pytest.mark.parametrize("url", ELSEWHERE)
def test_a_remote_object_store_is_reached_through_the_proxy(proxied: pytest.MonkeyPatch, url: str) -> None:
    surroundings.exempt_loopback(os.environ)
    scheme = url.partition(":")[0]
    assert proxies_of(url)[scheme] == PROXY


def proxies_of(url: str) -> dict[str, str]:
    """Return what boto3's client has for proxies."""
    inside: Any = ObjectStore(StoreConfig(url, "xray", "k", "s")).client
    return dict(inside._endpoint.http_session._proxy_config._proxies)


def test_an_object_is_read_from_a_store_on_loopback_though_the_proxy_is_dead(
    proxied: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from edgerad.s3server import S3Server

    with S3Server(tmp_path, "key", "secret") as server:
        store = ObjectStore(StoreConfig(server.endpoint_url, "xray", "key", "secret"))
        store.ensure_bucket()
        stored = store.put("a", b"content")
        assert store.get("a", etag=stored.etag) == b"content"
    for name in VARIABLES:
        proxied.setenv(name, "http://127.0.0.1:9")
    remote = StoreConfig("http://store.example", "xray", "k", "s", connect_timeout=1.0, max_attempts=1)
    with pytest.raises(StoreUnavailable, match="ProxyConnectionError"):
        ObjectStore(remote).get("a")


@pytest.mark.parametrize(
    ("url", "is_loopback"),
    [
        ("http://localhost", True), ("http://127.9.9.9:80", True), ("https://[::1]:8443/x", True),
        ("http://10.0.0.1", False), ("http://localhost.example", False), ("http://", False), ("nonsense", False),
        ("http://[", False), ("http://[::ffff:127.0.0.1]", False),
    ],
)  # fmt: skip
def test_what_loopback_is(url: str, is_loopback: bool) -> None:
    assert surroundings.is_loopback(url) == is_loopback


def test_the_command_line_and_every_ray_worker_exempt_loopback(proxied: pytest.MonkeyPatch) -> None:
    look = "import os; print(os.environ['no_proxy'], os.environ['http_proxy'])"
    expected = f"localhost,127.0.0.1,::1 {PROXY}\n"
    said = subprocess.run(
        [sys.executable, "-c", f"import edgerad.ray_worker; {look}"], capture_output=True, text=True, check=True
    )
    assert said.stdout == expected
    code = (
        f"import sys; sys.argv = ['edgerad', '--version']\nimport edgerad.cli\ntry: edgerad.cli.main()\nfinally: {look}"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.endswith(expected)


def test_no_library_reports_home(tmp_path: Path) -> None:
    """onnxruntime keeps a device id and a queue of events in the home folder from the first session on, or nothing."""
    code = (
        "from edgerad import surroundings; surroundings.prepare(); import onnxruntime, rapidocr_onnxruntime, pathlib;"
        "models = pathlib.Path(rapidocr_onnxruntime.__file__).parent / 'models';"
        "onnxruntime.InferenceSession(min(models.glob('*.onnx'), key=lambda path: path.stat().st_size))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in {"CI", *surroundings.SILENT}}
    environment |= {"HOME": str(tmp_path), "ORT_DISABLE_TELEMETRY": "0"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert [path.name for path in tmp_path.rglob("*")] == []


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LANG": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}])
def test_text_that_standard_output_cannot_encode_ends_no_command(locale: dict[str, str]) -> None:
    code = "from edgerad import surroundings; surroundings.prepare(); print('p\\u00e4t \\u2192')"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    said = subprocess.run([sys.executable, "-c", code], env={**environment, **locale}, capture_output=True, check=False)
    assert (said.returncode, said.stderr) == (0, b"")
    assert said.stdout.startswith(b"p")


def test_standard_output_that_is_no_text_stream_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    surroundings.prepare()


def test_new_files_are_private_and_caches_lie_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o022)
    try:
        surroundings.keep_private()
        (tmp_path / "file").touch()
        (tmp_path / "folder").mkdir()
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("KERAS_HOME", raising=False)
    surroundings.keep_caches(tmp_path)
    assert os.environ["KERAS_HOME"] == str(tmp_path / "cache" / "keras")
    monkeypatch.setenv("KERAS_HOME", "/elsewhere")
    surroundings.keep_caches(tmp_path)
    assert os.environ["KERAS_HOME"] == "/elsewhere", "what the administrator has set stays"


def test_who_has_no_home_gets_one_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", "/elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    surroundings.keep_caches(tmp_path)
    assert os.environ["HOME"] == str(tmp_path / "missing"), "a home that is named stays"
    monkeypatch.delenv("HOME")

    def nobody(_: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    surroundings.keep_caches(tmp_path)
    assert Path.home() == tmp_path / "cache"
