"""Objects of the embedded store as files: what is read past its server, and what is left to it."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgerad.folder import FolderReader
from edgerad.s3server import S3Server
from edgerad.store import ObjectStore, ObjectTooLarge, StoreConfig


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    with S3Server(tmp_path / "s3", "a", "s") as server:
        yield server


@pytest.fixture
def store(server: S3Server) -> ObjectStore:
    store = ObjectStore(StoreConfig(server.endpoint_url, "xray", "a", "s", folder=server.folder))
    store.ensure_bucket()
    return store


def test_what_has_the_etag_is_read_without_the_server(server: S3Server, store: ObjectStore) -> None:
    etag = store.put("k", b"content").etag
    assert FolderReader(server.folder, "xray").get("k", etag, 7) == b"content"
    with pytest.raises(ObjectTooLarge):
        FolderReader(server.folder, "xray").get("k", etag, 6)
    fresh = ObjectStore(store.config)
    assert fresh.get("k", etag=etag) == b"content"
    assert fresh._client is None, "boto3 was not even made"


def test_without_an_etag_or_with_another_the_server_is_asked(server: S3Server, store: ObjectStore) -> None:
    first = store.put("k", b"one").etag
    reader = FolderReader(server.folder, "xray")
    assert reader.get("k", first, None) == b"one"
    second = store.put("k", b"two").etag
    assert reader.get("k", first, None) is None, "what was written over is not read"
    assert reader.get("k", second, None) == b"two"
    assert reader.get("k", None, None) is None
    assert FolderReader(server.folder, "other").get("k", second, None) is None
    store.delete("k")
    assert reader.get("k", second, None) is None


def test_a_folder_that_is_not_there_or_damaged_leaves_it_to_the_server(
    server: S3Server, store: ObjectStore, tmp_path: Path
) -> None:
    etag = store.put("k", b"content").etag
    assert FolderReader(tmp_path / "none", "xray").get("k", etag, None) is None
    assert not (tmp_path / "none").exists()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "index.db").write_bytes(b"no table" * 200)
    bad = FolderReader(tmp_path / "bad", "xray")
    assert [bad.get("k", etag, None), bad.get("k", etag, None)] == [None, None]
    assert ObjectStore(StoreConfig(server.endpoint_url, "xray", "a", "s", folder=tmp_path / "bad")).get("k", etag=etag)
    file = (
        server.folder
        / "files"
        / sqlite3.connect(server.folder / "index.db").execute("SELECT file FROM object WHERE key = 'k'").fetchone()[0]
    )
    file.write_bytes(b"short")
    assert FolderReader(server.folder, "xray").get("k", etag, None) is None
    file.unlink()
    assert FolderReader(server.folder, "xray").get("k", etag, None) is None
