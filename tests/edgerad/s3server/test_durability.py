"""What the embedded S3 server keeps over crashes and restarts, and in how little memory."""

import hashlib
import http.client
import io
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from edgerad.s3server import S3Server
from edgerad.s3server.disk import Disk
from tests.edgerad.s3server.conftest import ACCESS, SECRET, client_of


def test_a_broken_connection_leaves_no_object_and_no_file(server: S3Server, s3: Any, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    with S3Server(folder, ACCESS, SECRET) as own:
        client = client_of(own)
        client.create_bucket(Bucket="box")
        connection = http.client.HTTPConnection("127.0.0.1", own.port, timeout=60)
        body = b"x" * 3_000_000
        request = AWSRequest("PUT", f"{own.endpoint_url}/box/k", data=body)
        S3SigV4Auth(Credentials(ACCESS, SECRET), "s3", "us-east-1").add_auth(request)
        connection.putrequest("PUT", "/box/k", skip_host=True)
        for name, value in {**dict(request.headers.items()), "Host": f"127.0.0.1:{own.port}"}.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        connection.send(body[:2_000_000])
        connection.close()
        assert "Contents" not in client.list_objects_v2(Bucket="box")
    with S3Server(folder, ACCESS, SECRET):
        assert list((folder / "files").iterdir()) == []


WRITER = """
import sys, threading
from pathlib import Path
from edgerad.s3server.disk import Disk
disk = Disk(Path(sys.argv[1]))
disk.create_bucket("b")
number = 0
while True:
    draft = disk.draft()
    draft.write(str(number).encode() * 1000)
    entry = disk.commit("b", f"k{number % 5}", draft, {})
    print(number, flush=True)
    number += 1
"""


def test_what_was_acknowledged_is_there_after_a_kill_in_mid_write(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 20:
            break
    process.kill()
    rest = process.communicate()[0].split()
    last = int(rest[-1]) if rest else 20
    disk = Disk(tmp_path)
    try:
        for entry in disk.page("b"):
            found = disk.open("b", entry.key)
            assert found is not None
            with found[1] as file:
                content = file.read()
            assert hashlib.md5(content).hexdigest() == entry.etag  # noqa: S324 - S3's ETag
            number = int(content[: len(content) // 1000])
            assert number > last - 5, f"{entry.key} was acknowledged with a newer content"
            assert number <= last + 1
        assert len(disk.page("b")) == len(list((tmp_path / "files").iterdir())) == 5, "nothing is left of what was not"
    finally:
        disk.close()


def test_objects_survive_a_restart_on_another_port(tmp_path: Path) -> None:
    with S3Server(tmp_path, ACCESS, SECRET) as server:
        client_of(server).create_bucket(Bucket="box")
        client_of(server).put_object(Bucket="box", Key="ä", Body=b"1", Metadata={"m": "v"})
        with pytest.raises(RuntimeError, match=r"in use by another edgerad; stop it or set embedded_store\.directory"):
            S3Server(tmp_path, ACCESS, SECRET).start()
        taken = server.port
        with pytest.raises(OSError, match="in use"):
            S3Server(tmp_path / "other", ACCESS, SECRET, port=taken).start()
    with S3Server(tmp_path, ACCESS, SECRET) as server:
        answer = client_of(server).get_object(Bucket="box", Key="ä")
        assert (answer["Body"].read(), answer["Metadata"]) == (b"1", {"m": "v"})


SERVER = """
import resource, sys
from pathlib import Path
from edgerad.s3server import S3Server
with S3Server(Path(sys.argv[1]), sys.argv[2], sys.argv[3]) as server:
    print(server.port, flush=True)
    sys.stdin.readline()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
    sys.stdin.readline()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
"""


class Endless(io.RawIOBase):
    """A file of so many bytes that takes no memory."""

    def __init__(self, size: int) -> None:
        self._size, self._at = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        size = self._size - self._at if size < 0 else min(size, self._size - self._at)
        self._at += size
        return b"x" * size


def test_a_big_object_passes_through_little_memory(tmp_path: Path) -> None:
    size = 256 * 2**20
    command = [sys.executable, "-c", textwrap.dedent(SERVER), str(tmp_path), ACCESS, SECRET]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None

    def ask() -> int:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    try:
        port = int(process.stdout.readline())
        client = client_of(f"http://127.0.0.1:{port}", request_checksum_calculation="when_required")
        client.create_bucket(Bucket="box")
        client.put_object(Bucket="box", Key="small", Body=b"x" * 2**20)
        before = ask()
        client.put_object(Bucket="box", Key="big", Body=Endless(size))
        read = sum(len(piece) for piece in client.get_object(Bucket="box", Key="big")["Body"].iter_chunks(2**20))
        assert read == size
        assert (ask() - before) * 1024 < 48 * 2**20, "one object takes a few pieces of memory, whatever its size"
    finally:
        process.kill()
        process.communicate()
