"""Uploads in parts over the embedded server and Ceph: resumed by content, whole in the end."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from botocore import auth

from edgerad.s3server import S3Server
from edgerad.store import ClockSkewed, ObjectGone, ObjectStore, StoreConfig, StoreFull
from edgerad.upload import abort_uploads, put_resumed

PART = 5 * 2**20


@pytest.fixture(params=["embedded", pytest.param("ceph", marks=pytest.mark.real)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    """An empty bucket."""
    bucket = f"upload-{uuid.uuid4().hex[:12]}"
    if request.param == "ceph":
        found = request.getfixturevalue("ceph").endpoints()
        made = ObjectStore(StoreConfig(found["s3"], bucket, found["access_key"], found["secret_key"]))
        made.ensure_bucket()
        yield made
        return
    with S3Server(tmp_path, "ak", "sk") as server:
        made = ObjectStore(StoreConfig(server.endpoint_url, bucket, "ak", "sk"))
        made.ensure_bucket()
        yield made


class Stop(Exception):
    pass


def uploads(store: ObjectStore) -> list[str]:
    return [item["Key"] for item in store.client.list_multipart_uploads(Bucket=store.bucket).get("Uploads", [])]


def test_it_goes_on_where_it_ended_and_other_content_is_sent_anew(store: ObjectStore) -> None:
    content = os.urandom(2 * PART + 1000)
    left = [True, True]

    def stop_at_the_third() -> None:
        if not left:
            raise Stop
        left.pop()

    def read(first: int, count: int) -> bytes:
        return content[first : first + count]

    with pytest.raises(Stop):
        put_resumed(store, "a/k", read, len(content), PART, before_part=stop_at_the_third)
    assert uploads(store) == ["a/k"]
    store.client.create_multipart_upload(Bucket=store.bucket, Key="a/k2")
    assert not store.exists("a/k")
    content = content[:PART] + os.urandom(PART) + content[2 * PART :]
    assert put_resumed(store, "a/k", read, len(content), PART) == 2, "the second is another, the third was not there"
    assert store.get("a/k") == content
    assert uploads(store) == ["a/k2"]
    assert abort_uploads(store, "a/", lambda key: key == "a/k2") == 0
    assert abort_uploads(store, "a/", lambda key: False) == 1
    assert uploads(store) == []


def test_a_range_is_read_of_the_version_that_was_asked_for(store: ObjectStore) -> None:
    etag = store.put("k", bytes(range(100))).etag
    assert store.get_range("k", 10, 5, etag) == bytes(range(10, 15))
    assert store.get_range("k", 95, 5, etag) == bytes(range(95, 100))
    store.put("k", b"other" * 20)
    with pytest.raises(ObjectGone):
        store.get_range("k", 10, 5, etag)


def test_a_clock_that_is_wrong_is_named(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[[], datetime] = vars(auth)["get_current_datetime"]
    monkeypatch.setattr(auth, "get_current_datetime", lambda: real() - timedelta(hours=2))
    with pytest.raises(ClockSkewed, match="set it right"):
        store.put("k", b"content")
    with pytest.raises(ClockSkewed):
        list(store.list())


@pytest.mark.real
def test_a_quota_that_is_used_up_is_called_a_full_store(request: pytest.FixtureRequest) -> None:
    from deploy import process

    ceph = request.getfixturevalue("ceph")
    found, user = ceph.endpoints(), f"u{uuid.uuid4().hex[:8]}"
    admin = ["radosgw-admin", "--conf", str(ceph.folder / "ceph.conf")]
    keys = ["--access-key", user, "--secret-key", user * 4]
    process.run([*admin, "user", "create", f"--uid={user}", f"--display-name={user}", *keys])
    process.run([*admin, "quota", "set", "--quota-scope=user", f"--uid={user}", "--max-objects=1"])
    process.run([*admin, "quota", "enable", "--quota-scope=user", f"--uid={user}"])
    store = ObjectStore(StoreConfig(found["s3"], f"{user}-bucket", user, user * 4))
    store.ensure_bucket()
    store.put("one", b"content")
    with pytest.raises(StoreFull, match="raise its quota"):
        store.put("two", b"content")
