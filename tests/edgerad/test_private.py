"""What edgerad keeps is readable by its user only: with any umask, and where an older version left it open."""

import fcntl
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgerad import keyring, private, runfile
from edgerad.audit import Anchorer
from edgerad.database import Database, _make_private
from edgerad.ledger import audit
from edgerad.runfile import RunFile
from edgerad.s3server import S3Server
from edgerad.sections import Secret
from edgerad.store import ObjectStore, StoreConfig


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """This umask holds during the test."""
    before = os.umask(request.param)
    yield int(request.param)
    os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    """Return what others than the owner have any right to in a folder; a closed folder closes what is in it."""
    return [path.name for path in sorted(folder.iterdir()) if path.stat().st_mode & 0o077]


def test_database_objects_keys_run_files_and_anchors_are_private(tmp_path: Path, umask: int) -> None:
    data = tmp_path / "data"
    data.mkdir()
    database = Database(f"sqlite:///{data / 'edgerad.db'}")
    database.upgrade()
    with database.write() as session:
        audit(session, "test", "nothing", "x", {})
    keyring.ensure(Secret(), data / "keys", "site-secret")
    with runfile.claim(data):
        RunFile("edge", os.getpid(), "now").write(data)
        Anchorer(database, data).step()
        with S3Server(data / "s3", "key", "secret") as server:
            store = ObjectStore(StoreConfig(server.endpoint_url, "xray", "key", "secret"))
            store.ensure_bucket()
            store.put("a", b"content")
            names = {path.name for path in data.iterdir()}
            assert names >= {
                "edgerad.db",
                "edgerad.db-wal",
                "edgerad.db-shm",
                "keys",
                "run",
                "s3",
                "audit-anchors.jsonl",
            }
            assert open_to_others(data) == []
            files = [path for path in data.rglob("*") if path.is_file()]
            assert len(files) > 8
            assert [path.name for path in files if path.stat().st_mode & 0o077] == []
    database.close()


def test_what_an_older_version_left_open_is_closed(tmp_path: Path) -> None:
    for name in private.KEPT:
        path = tmp_path / name
        path.write_text("{}") if "." in name else path.mkdir()
        path.chmod(0o644 if "." in name else 0o755)
    path = tmp_path / "edgerad.db"
    plain = sqlite3.connect(path)
    plain.execute("PRAGMA journal_mode=WAL")
    plain.execute("CREATE TABLE t (x)")
    plain.commit()
    logs = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]
    for file in logs:
        file.chmod(0o644)
    private.tighten_data(tmp_path)
    database = Database(f"sqlite:///{path}")
    with database.read() as session:
        assert session.connection().exec_driver_sql("SELECT count(*) FROM t").scalar() == 0
        assert [file.stat().st_mode & 0o777 for file in logs] == [0o600] * 3
    assert open_to_others(tmp_path) == []
    database.close()
    plain.close()


def test_a_link_and_what_is_not_there_are_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    target.chmod(0o755)
    (tmp_path / "link").symlink_to(target)
    private.tighten(tmp_path / "link")
    private.tighten(tmp_path / "missing")
    assert target.stat().st_mode & 0o777 == 0o755


def test_a_file_that_is_there_keeps_its_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    path.chmod(0o666)
    assert private.file(path).read_text() == "content"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_lock_that_this_process_holds_stays(tmp_path: Path) -> None:
    """SQLite's locks are of this kind, and a process may have several connections to one database."""
    path = private.file(tmp_path / "edgerad.db")
    look = f"import fcntl; fcntl.lockf(open({str(path)!r}, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with path.open("r+") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        private.file(path)
        _make_private(path)
        refused = subprocess.run([sys.executable, "-c", look], capture_output=True, check=False)
        assert b"BlockingIOError" in refused.stderr
    subprocess.run([sys.executable, "-c", look], check=True)


def test_a_database_that_lives_in_memory_makes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite://", "sqlite:///:memory:"):
        database = Database(url)
        with database.read() as session:
            assert session.connection().exec_driver_sql("SELECT 1").scalar() == 1
        database.close()
    assert list(tmp_path.iterdir()) == []
