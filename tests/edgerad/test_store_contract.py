"""What edgerad relies on an object store for: the same tests over the embedded server and a real Ceph."""

import hashlib
import io
import pickle
import socket
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgerad.cluster import QUIET
from edgerad.s3server import S3Server
from edgerad.sections import Secret, StoreSettings
from edgerad.settings import SettingsError
from edgerad.store import (
    ObjectGone,
    ObjectStore,
    ObjectTooLarge,
    StoreConfig,
    StoreDenied,
    StoreUnavailable,
    config_from,
)
from edgerad.upload import put_in_parts

ODD_KEYS = [
    "site a/pat 0.dcm",
    "plus+and%percent.dcm",
    "umlaut-ä-ß-漢字.jpg",
    "a/b",
    "a/b/c",
    "a//double",
    "tilde~(paren)'quote\"&amp;<x>",
    "dot./../escape",
    "x" * 200 + "/" + "y" * 300,
    "new=line?query#hash;semi,comma:colon@at",
]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3"), "access", "secret") as server:
        yield server


@pytest.fixture(params=["embedded", "embedded-files", pytest.param("ceph", marks=pytest.mark.real)])
def config(request: pytest.FixtureRequest) -> StoreConfig:
    """A store's configuration with a bucket name that nobody used."""
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    if request.param.startswith("embedded"):
        server = request.getfixturevalue("embedded")
        folder = server.folder if request.param == "embedded-files" else None
        return StoreConfig(server.endpoint_url, bucket, "access", "secret", folder=folder)
    endpoints = request.getfixturevalue("ceph").endpoints()
    return StoreConfig(endpoints["s3"], bucket, endpoints["access_key"], endpoints["secret_key"])


@pytest.fixture
def store(config: StoreConfig) -> ObjectStore:
    found = ObjectStore(config)
    found.ensure_bucket()
    return found


def test_a_bucket_is_made_once_and_checked(config: StoreConfig) -> None:
    store = ObjectStore(config)
    with pytest.raises(StoreDenied, match="bucket does not exist"):
        store.check()
    store.ensure_bucket()
    store.ensure_bucket()
    store.check()


def test_what_is_put_is_got_with_its_properties(store: ObjectStore) -> None:
    stored = store.put("k", b"content", "application/dicom", {"sha256": "ab12"})
    assert stored.etag == hashlib.md5(b"content").hexdigest()  # noqa: S324 - S3's ETag
    assert store.get("k") == b"content"
    head = store.head("k")
    assert (head.etag, head.size, head.content_type) == (stored.etag, 7, "application/dicom")
    assert head.metadata == {"sha256": "ab12"}


@pytest.mark.parametrize("key", ODD_KEYS)
def test_any_key_comes_back_as_it_was(store: ObjectStore, key: str) -> None:
    store.put(key, key.encode())
    assert store.get(key) == key.encode()
    assert [item.key for item in store.list()] == [key]
    store.delete(key)
    assert not store.exists(key)


def test_whole_objects_come_by_the_short_way(store: ObjectStore) -> None:
    for key in ODD_KEYS:
        store.put(key, key.encode())
    etag = store.put("k", bytes(3_000_000)).etag

    def forbid(**_: object) -> None:
        raise AssertionError

    store.client.meta.events.register("before-call.s3.GetObject", forbid)
    assert [store.get(key) for key in ODD_KEYS] == [key.encode() for key in ODD_KEYS]
    assert store.get("k", etag=etag, limit_bytes=3_000_000) == bytes(3_000_000)
    with pytest.raises(ObjectTooLarge):
        store.get("k", etag=etag, limit_bytes=2_999_999)
    assert store.get(ODD_KEYS[0], etag=hashlib.md5(ODD_KEYS[0].encode()).hexdigest())  # noqa: S324 - S3's ETag


def test_an_overwritten_object_is_the_last_one_written(store: ObjectStore) -> None:
    first = store.put("k", b"one")
    second = store.put("k", b"two")
    assert first.etag != second.etag
    assert store.get("k") == b"two"
    assert [(item.key, item.etag, item.size) for item in store.list()] == [("k", second.etag, 3)]
    with pytest.raises(ObjectGone):
        store.get("k", etag=first.etag)
    assert store.get("k", etag=second.etag) == b"two"


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.put("empty", b"")
    assert store.get("empty") == b""
    assert store.head("empty").size == 0


def test_a_missing_object_is_gone_and_deleting_it_is_fine(store: ObjectStore) -> None:
    for look in (store.get, store.head):
        with pytest.raises(ObjectGone) as caught:
            look("patient-DOE^JOHN")
        assert "DOE" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
    store.delete("patient-DOE^JOHN")
    assert not store.exists("patient-DOE^JOHN")


def test_an_object_over_the_limit_is_not_read(store: ObjectStore) -> None:
    store.put("big", bytes(1000))
    with pytest.raises(ObjectTooLarge, match="1000 bytes, the limit is 999"):
        store.get("big", limit_bytes=999)
    assert len(store.get("big", limit_bytes=1000)) == 1000


def test_a_listing_goes_on_over_pages_after_a_key_below_a_prefix(store: ObjectStore) -> None:
    keys = sorted(f"p/{index:03}" for index in range(25))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, key.encode()), [*keys, "o/before", "q/after"]))
    assert [item.key for item in store.list("p/", page=7)] == keys
    assert [item.key for item in store.list("p/", start_after="p/019", page=2)] == keys[20:]
    assert [item.key for item in store.list("none/")] == []
    first = next(iter(store.list("p/")))
    assert first.last_modified.tzinfo is not None
    assert first.etag == store.head(first.key).etag


def test_listings_are_in_the_order_of_utf8(store: ObjectStore) -> None:
    keys = ["Z", "a", "a ", "a/b", "a0", "é", "漢", "😀"]
    for key in keys:
        store.put(key, b"")
    assert [item.key for item in store.list()] == sorted(keys, key=str.encode)


def test_folders_are_told_by_a_delimiter(store: ObjectStore) -> None:
    for key in ("a/1", "a/2", "b", "c/d/3", "c/e", "z"):
        store.put(key, b"")
    pages = store.client.get_paginator("list_objects_v2").paginate(
        Bucket=store.bucket, Delimiter="/", PaginationConfig={"PageSize": 2}
    )
    keys, folders = [], []
    for page in pages:
        keys += [item["Key"] for item in page.get("Contents", ())]
        folders += [item["Prefix"] for item in page.get("CommonPrefixes", ())]
    assert keys == ["b", "z"]
    assert folders == ["a/", "c/"]
    inside = store.client.list_objects(Bucket=store.bucket, Prefix="c/", Delimiter="/")
    assert [item["Key"] for item in inside["Contents"]] == ["c/e"]
    assert [item["Prefix"] for item in inside["CommonPrefixes"]] == ["c/d/"]


def test_a_large_object_goes_in_parts(store: ObjectStore) -> None:
    part = 5 * 2**20  # S3's least
    content = bytes(range(256)) * (part * 2 // 256) + b"the rest"
    stored = put_in_parts(store, "large", io.BytesIO(content), "application/dicom", {"a": "b"}, part_bytes=part)
    assert stored.etag.endswith("-3")
    assert store.get("large") == content
    assert store.head("large").metadata == {"a": "b"}
    assert [item.etag for item in store.list()] == [stored.etag]


def test_a_failed_upload_in_parts_leaves_nothing(store: ObjectStore) -> None:
    class Breaks(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            if not data:
                raise OSError
            return data

    with pytest.raises(StoreUnavailable):
        put_in_parts(store, "large", Breaks(bytes(6 * 2**20)), part_bytes=5 * 2**20)
    assert not store.exists("large")
    assert "Uploads" not in store.client.list_multipart_uploads(Bucket=store.bucket)


def test_a_copy_has_content_and_metadata(store: ObjectStore) -> None:
    stored = store.put("from ä/x", b"content", "image/jpeg", {"sha256": "1"})
    assert store.copy("from ä/x", "to").etag == stored.etag
    store.delete("from ä/x")
    assert store.get("to") == b"content"
    assert store.head("to").metadata == {"sha256": "1"}
    with pytest.raises(ObjectGone):
        store.copy("from ä/x", "elsewhere")


def test_ranges(store: ObjectStore) -> None:
    store.put("k", b"0123456789")
    for asked, expected in (("bytes=2-4", b"234"), ("bytes=7-", b"789"), ("bytes=-3", b"789"), ("bytes=8-99", b"89")):
        answer = store.client.get_object(Bucket=store.bucket, Key="k", Range=asked)
        assert answer["Body"].read() == expected


def test_one_store_serves_many_threads(store: ObjectStore) -> None:
    barrier = threading.Barrier(8)

    def work(number: int) -> bytes:
        barrier.wait(10)
        store.put(f"k{number}", bytes([number]) * 1000)
        return store.get(f"k{number}")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [bytes([number]) * 1000 for number in range(8)]


def test_wrong_keys_are_refused_in_words(config: StoreConfig) -> None:
    wrong = StoreConfig(config.endpoint_url, config.bucket, config.access_key, "wrong")
    for call in (lambda: ObjectStore(wrong).put("k", b""), lambda: ObjectStore(wrong).get("k")):
        with pytest.raises(StoreDenied, match="check access_key, secret_key"):
            call()
    assert "wrong" not in repr(wrong)


def test_pyarrow_reads_and_writes_there(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ray Train does with its checkpoints, in the environment that edgerad gives Ray's processes."""
    from pyarrow import fs

    for name, value in QUIET.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)

    config = store.config
    scheme, _, endpoint = config.endpoint_url.partition("://")
    files = fs.S3FileSystem(
        access_key=config.access_key, secret_key=config.secret_key, endpoint_override=endpoint, scheme=scheme
    )
    content = bytes(range(256)) * (12 * 2**20 // 256)
    with files.open_output_stream(f"{store.bucket}/folder/large ä.bin") as stream:
        stream.write(content)
    with files.open_output_stream(f"{store.bucket}/folder/small.bin") as stream:
        stream.write(b"small")
    with files.open_input_file(f"{store.bucket}/folder/large ä.bin") as file:
        file.seek(1000)
        assert file.read(500) == content[1000:1500]
    assert store.get("folder/large ä.bin") == content
    listed = files.get_file_info(fs.FileSelector(store.bucket, recursive=True))
    assert {info.base_name: info.size for info in listed if info.is_file} == {
        "large ä.bin": len(content),
        "small.bin": 5,
    }
    files.delete_file(f"{store.bucket}/folder/small.bin")
    assert not store.exists("folder/small.bin")


def test_a_store_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with S3Server(tmp_path / "s3", "a", "s") as server:
        endpoint = server.endpoint_url
    gone = ObjectStore(StoreConfig(endpoint, "xray", "a", "s", connect_timeout=1, max_attempts=1))
    for call in (gone.check, gone.ensure_bucket, lambda: gone.get("DOE", etag="e"), lambda: list(gone.list("DOE"))):
        with pytest.raises(StoreUnavailable) as caught:
            call()
        assert not isinstance(caught.value, StoreDenied)
        assert "DOE" not in str(caught.value)


@pytest.mark.parametrize("endings", [1, 2])
def test_an_answer_that_is_cut_off_is_asked_for_again_and_never_taken_for_whole(endings: int) -> None:
    """So many answers end early; the next is whole."""
    head = b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: "e"\r\nConnection: close\r\n\r\n'
    asked = []

    def answer(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                asked.append(connection.recv(65536))
                connection.sendall(head + b"0123456789"[: 4 if len(asked) <= endings else 10])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        port = listener.getsockname()[1]
        store = ObjectStore(StoreConfig(f"http://127.0.0.1:{port}", "xray", "a", "s", max_attempts=1))
        if endings == 1:
            assert store.get("k") == b"0123456789"
        else:
            with pytest.raises(StoreUnavailable):
                store.get("k")
        listener.shutdown(socket.SHUT_RDWR)
    assert len(asked) == 2
    assert all(b"AWS4-HMAC-SHA256 Credential=a/" in request for request in asked)


def test_a_host_is_signed_without_a_port_that_goes_without_saying() -> None:
    for endpoint, host in (("https://Store:443", "store"), ("http://store:443", "store:443"), ("http://s/x/", "s")):
        signed = ObjectStore(StoreConfig(endpoint, "xray", "a", "s"))._short_way._headers("/k", None)
        assert signed["host"] == host


def test_a_key_that_no_store_takes_is_no_reason_to_try_again() -> None:
    store = ObjectStore(StoreConfig("http://127.0.0.1:9", "xray", "a", "s"))
    with pytest.raises(ObjectGone):
        store.get("")


def test_a_store_travels_between_processes_without_its_client() -> None:
    store = ObjectStore(StoreConfig("http://127.0.0.1:9", "xray", "a", "s"))
    assert store.client is not None
    assert pickle.loads(pickle.dumps(store)).config == store.config  # noqa: S301 - our own


def test_settings_make_a_configuration_or_name_what_is_missing(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cr3t\n")
    settings = StoreSettings(
        endpoint_url="http://store:7480", access_key=Secret(value="k"), secret_key=Secret(file=secret)
    )
    assert config_from(settings).secret_key == "s3cr3t"
    for field in ("access_key", "secret_key"):
        with pytest.raises(SettingsError, match=field):
            config_from(settings.model_copy(update={field: Secret()}))
