"""The embedded S3 server as boto3 users and bad clients meet it: conditions, listings, signatures, clocks, crashes."""

import hashlib
import http.client
import io
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from edgerad.s3server import S3Server
from edgerad.s3server.disk import Disk

ACCESS, SECRET = "access", "secret/with+odd"
CLIENTS: list[Any] = []
KEYS = ["a b.dcm", "a+b%2B.dcm", "ä/漢字/😀.dcm", "x/../y", "./x", "//", "tab\there", "k" * 1024, "é" * 512]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running server."""
    with S3Server(tmp_path_factory.mktemp("s3"), ACCESS, SECRET) as found:
        yield found


def client_of(server: S3Server | str, secret: str = SECRET, access: str = ACCESS, **config: Any) -> Any:
    """Return boto3's client as users make it: its own defaults, checksums included. It is closed after the test."""
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=server if isinstance(server, str) else server.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, **config),
    )
    CLIENTS.append(client)
    return client


@pytest.fixture(autouse=True)
def _close_clients() -> Iterator[None]:
    """Close what a test opened."""
    yield
    while CLIENTS:
        CLIENTS.pop().close()


@pytest.fixture
def s3(server: S3Server) -> Any:
    """A client, with an empty bucket `box`."""
    client = client_of(server)
    client.create_bucket(Bucket="box")
    yield client
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="box"):
        for item in page.get("Contents", ()):
            client.delete_object(Bucket="box", Key=item["Key"])
    client.delete_bucket(Bucket="box")


def code(error: Any) -> tuple[int, str]:
    """Return status and code of a refusal."""
    response = error.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def send(server: S3Server, method: str, path: str, body: bytes = b"", **changes: Any) -> tuple[int, bytes]:
    """Send one signed request over a bare connection; `changes`: at (time of signature), spoil (headers after it)."""
    request = AWSRequest(method, f"{server.endpoint_url}{path}", data=body)
    at = changes.get("at", datetime.now(UTC))
    request.context["timestamp"] = at.strftime("%Y%m%dT%H%M%SZ")
    request.headers["X-Amz-Date"] = request.context["timestamp"]
    request.headers["X-Amz-Content-SHA256"] = hashlib.sha256(body).hexdigest()
    signer = S3SigV4Auth(Credentials(ACCESS, SECRET), "s3", "us-east-1")
    text = signer.string_to_sign(request, signer.canonical_request(request))
    signature = signer.signature(text, request)
    signer._inject_signature_to_request(request, signature)  # type: ignore[attr-defined]
    headers = {**dict(request.headers.items()), "Host": f"127.0.0.1:{server.port}", **changes.get("spoil", {})}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("key", KEYS)
def test_odd_keys_work_in_every_operation(s3: Any, key: str) -> None:
    s3.put_object(Bucket="box", Key=key, Body=b"1")
    assert s3.get_object(Bucket="box", Key=key)["Body"].read() == b"1"
    assert [item["Key"] for item in s3.list_objects_v2(Bucket="box")["Contents"]] == [key]
    assert [item["Key"] for item in s3.list_objects(Bucket="box", Prefix=key)["Contents"]] == [key]
    s3.copy_object(Bucket="box", Key="copy", CopySource={"Bucket": "box", "Key": key})
    gone = s3.delete_objects(Bucket="box", Delete={"Objects": [{"Key": key}, {"Key": "copy"}]})
    assert {item["Key"] for item in gone["Deleted"]} == {key, "copy"}
    assert "Contents" not in s3.list_objects_v2(Bucket="box")


def test_a_key_of_more_than_1024_bytes_is_refused(s3: Any) -> None:
    for key in ("k" * 1025, "é" * 513):
        with pytest.raises(ClientError) as caught:
            s3.put_object(Bucket="box", Key=key, Body=b"")
        assert code(caught) == (400, "KeyTooLongError")


def test_a_key_never_becomes_a_path(s3: Any, server: S3Server, tmp_path: Path) -> None:
    s3.put_object(Bucket="box", Key="../../../../../../tmp/edgerad-escape", Body=b"1")
    assert not Path("/tmp/edgerad-escape").exists()  # noqa: S108 - that nothing is there
    for path in ("/box/../../etc/passwd", "/..%2f..%2fetc/passwd", "/box%00/x"):
        assert send(server, "GET", path)[0] in {400, 403, 404}


def test_prefixes_delimiters_and_pages_go_together(s3: Any) -> None:
    keys = [f"{study}/{series}/{image}.dcm" for study in "abc" for series in "12" for image in range(3)] + ["d", "e+f"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: s3.put_object(Bucket="box", Key=key, Body=b""), keys))
    for page in (1, 2, 3, 7, 1000):
        paginate = s3.get_paginator("list_objects_v2").paginate
        found = [
            item["Key"]
            for answer in paginate(Bucket="box", PaginationConfig={"PageSize": page})
            for item in answer.get("Contents", ())
        ]
        assert found == sorted(keys)
        answers = list(paginate(Bucket="box", Prefix="b/", Delimiter="/", PaginationConfig={"PageSize": page}))
        assert [item["Prefix"] for answer in answers for item in answer.get("CommonPrefixes", ())] == ["b/1/", "b/2/"]
        assert not any(answer.get("Contents") for answer in answers)
        old = s3.get_paginator("list_objects").paginate(
            Bucket="box", Delimiter="/", PaginationConfig={"PageSize": page}
        )
        pages = list(old)
        assert [item["Prefix"] for answer in pages for item in answer.get("CommonPrefixes", ())] == ["a/", "b/", "c/"]
        assert [item["Key"] for answer in pages for item in answer.get("Contents", ())] == ["d", "e+f"]
    assert s3.list_objects_v2(Bucket="box", MaxKeys=0)["KeyCount"] == 0
    assert [item["Key"] for item in s3.list_objects_v2(Bucket="box", StartAfter="c/2/2.dcm")["Contents"]] == [
        "d",
        "e+f",
    ]
    with pytest.raises(ClientError) as caught:
        s3.list_objects_v2(Bucket="box", ContinuationToken="%%%")
    assert code(caught) == (400, "InvalidArgument")


def test_conditions_of_reading(s3: Any) -> None:
    etag = s3.put_object(Bucket="box", Key="k", Body=b"0123456789")["ETag"]
    assert s3.get_object(Bucket="box", Key="k", IfMatch=etag)["Body"].read() == b"0123456789"
    for call in (s3.get_object, s3.head_object):
        with pytest.raises(ClientError) as caught:
            call(Bucket="box", Key="k", IfMatch='"other"')
        assert code(caught)[0] == 412
        with pytest.raises(ClientError) as caught:
            call(Bucket="box", Key="k", IfNoneMatch=etag)
        assert code(caught)[0] == 304
    assert s3.get_object(Bucket="box", Key="k", IfNoneMatch='"other"')["Body"].read() == b"0123456789"


def test_conditions_of_writing(s3: Any) -> None:
    first = s3.put_object(Bucket="box", Key="k", Body=b"1", IfNoneMatch="*")["ETag"]
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket="box", Key="k", Body=b"2", IfNoneMatch="*")
    assert code(caught) == (412, "PreconditionFailed")
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket="box", Key="k", Body=b"3", IfMatch='"other"')
    assert code(caught) == (412, "PreconditionFailed")
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket="box", Key="none", Body=b"4", IfMatch=first)
    assert code(caught) == (404, "NoSuchKey")
    assert s3.get_object(Bucket="box", Key="k")["Body"].read() == b"1"
    s3.put_object(Bucket="box", Key="k", Body=b"5", IfMatch=first)
    assert s3.get_object(Bucket="box", Key="k")["Body"].read() == b"5"


def test_of_many_that_write_a_new_object_at_once_one_wins(s3: Any) -> None:
    barrier = threading.Barrier(8)

    def write(number: int) -> int | None:
        barrier.wait(30)
        try:
            s3.put_object(Bucket="box", Key="lease", Body=bytes([number]) * 200_000, IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] != "PreconditionFailed":
                raise
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(write, range(8)) if number is not None]
    assert len(winners) == 1
    assert s3.get_object(Bucket="box", Key="lease")["Body"].read() == bytes(winners) * 200_000


def test_of_many_that_write_one_object_the_last_is_whole(s3: Any) -> None:
    bodies = [bytes([number]) * 300_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda body: s3.put_object(Bucket="box", Key="k", Body=body), bodies * 3))
    answer = s3.get_object(Bucket="box", Key="k")
    content = answer["Body"].read()
    assert content in bodies
    assert answer["ETag"].strip('"') == hashlib.md5(content).hexdigest()  # noqa: S324 - S3's ETag


def test_ranges_out_of_the_object(s3: Any) -> None:
    s3.put_object(Bucket="box", Key="k", Body=b"0123456789")
    answer = s3.get_object(Bucket="box", Key="k", Range="bytes=2-4")
    assert (answer["ResponseMetadata"]["HTTPStatusCode"], answer["ContentRange"]) == (206, "bytes 2-4/10")
    assert answer["ContentLength"] == 3
    assert answer["Body"].read() == b"234"
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket="box", Key="k", Range="bytes=10-12")
    assert code(caught) == (416, "InvalidRange")
    assert s3.get_object(Bucket="box", Key="k", Range="bytes=-100")["Body"].read() == b"0123456789"
    s3.put_object(Bucket="box", Key="none", Body=b"")
    assert s3.get_object(Bucket="box", Key="none")["Body"].read() == b""


def test_parts_in_any_order_and_sent_twice(s3: Any) -> None:
    upload = s3.create_multipart_upload(Bucket="box", Key="k", ContentType="application/dicom", Metadata={"a": "b"})
    where = {"Bucket": "box", "Key": "k", "UploadId": upload["UploadId"]}
    tags = {}
    for number, body in ((3, b"three"), (1, b"once"), (2, b"two"), (1, b"one")):
        tags[number] = s3.upload_part(**where, PartNumber=number, Body=body)["ETag"]
    assert [part["PartNumber"] for part in s3.list_parts(**where)["Parts"]] == [1, 2, 3]
    assert "Contents" not in s3.list_objects_v2(Bucket="box"), "it is no object yet"
    parts = [{"PartNumber": number, "ETag": tags[number]} for number in (1, 2, 3)]
    for wrong, reason in (
        (parts[::-1], "InvalidPartOrder"),
        ([{"PartNumber": 1, "ETag": '"0"'}], "InvalidPart"),
        ([{"PartNumber": 9, "ETag": tags[1]}], "InvalidPart"),
    ):
        with pytest.raises(ClientError) as caught:
            s3.complete_multipart_upload(**where, MultipartUpload={"Parts": wrong})
        assert code(caught) == (400, reason)
    done = s3.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    answer = s3.get_object(Bucket="box", Key="k")
    assert answer["Body"].read() == b"onetwothree"
    assert (answer["ContentType"], answer["Metadata"], answer["ETag"]) == (
        "application/dicom",
        {"a": "b"},
        done["ETag"],
    )
    with pytest.raises(ClientError) as caught:
        s3.upload_part(**where, PartNumber=4, Body=b"late")
    assert code(caught) == (404, "NoSuchUpload")


def test_boto3s_own_transfers_with_its_default_checksums(s3: Any, tmp_path: Path) -> None:
    content = os.urandom(20 * 2**20 + 3)
    (tmp_path / "big").write_bytes(content)
    s3.upload_file(str(tmp_path / "big"), "box", "big")  # 8 MiB parts in threads
    s3.download_file("box", "big", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == content
    s3.put_object(Bucket="box", Key="sum", Body=b"content", ChecksumAlgorithm="SHA256")
    s3.put_object(Bucket="box", Key="md5", Body=b"content", ContentMD5="mgNkuembtIDdJeHwKEyFVQ==")
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket="box", Key="md5", Body=b"c0ntent", ContentMD5="mgNkuembtIDdJeHwKEyFVQ==")
    assert code(caught) == (400, "BadDigest")
    assert s3.get_object(Bucket="box", Key="md5")["Body"].read() == b"content"


def test_a_wrong_secret_key_or_an_unknown_one_is_refused(server: S3Server, s3: Any) -> None:
    wrong = client_of(server, "wrong")
    for call in (wrong.list_buckets, lambda: wrong.put_object(Bucket="box", Key="k", Body=b"1")):
        with pytest.raises(ClientError) as caught:
            call()
        assert code(caught) == (403, "SignatureDoesNotMatch")
    stranger = client_of(server, access="who")
    with pytest.raises(ClientError) as caught:
        stranger.list_buckets()
    assert code(caught) == (403, "InvalidAccessKeyId")
    assert "Contents" not in s3.list_objects_v2(Bucket="box")


def test_what_is_signed_cannot_be_changed(server: S3Server, s3: Any) -> None:
    assert send(server, "PUT", "/box/k", b"content")[0] == 200
    spoilt: list[dict[str, str]] = [
        {"X-Amz-Content-SHA256": hashlib.sha256(b"other").hexdigest()},
        {"X-Amz-Date": (datetime.now(UTC) - timedelta(seconds=60)).strftime("%Y%m%dT%H%M%SZ")},
        {"Host": "elsewhere"},
        {"Authorization": ""},
        {"Authorization": "AWS4-HMAC-SHA256 nonsense"},
    ]
    for headers in spoilt:
        status, said = send(server, "PUT", "/box/k", b"changed", spoil=headers)
        assert status == 403, said
        assert SECRET.encode() not in said
    status, said = send(server, "PUT", "/box/k", b"changed", spoil={"Content-MD5": "mgNkuembtIDdJeHwKEyFVQ=="})
    assert (status, b"BadDigest" in said) == (400, True)
    assert s3.get_object(Bucket="box", Key="k")["Body"].read() == b"content"


def test_a_body_that_is_not_the_signed_one_is_refused(
    server: S3Server, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert send(server, "PUT", "/box/k", b"signed")[0] == 200
    real = http.client.HTTPConnection.request

    def forge(self: Any, method: str, url: str, body: bytes, headers: dict[str, str]) -> None:
        real(self, method, url, b"forged", headers)  # the header still has the digest of the signed one

    with monkeypatch.context() as patched:
        patched.setattr(http.client.HTTPConnection, "request", forge)
        status, said = send(server, "PUT", "/box/k", b"signed")
    assert (status, b"XAmzContentSHA256Mismatch" in said) == (400, True)
    assert s3.get_object(Bucket="box", Key="k")["Body"].read() == b"signed"


@pytest.mark.parametrize("minutes", [-16, 16])
def test_a_clock_that_is_wrong_is_told(server: S3Server, s3: Any, minutes: int) -> None:
    status, said = send(server, "GET", "/box", at=datetime.now(UTC) + timedelta(minutes=minutes))
    assert (status, b"RequestTimeTooSkewed" in said) == (403, True)
    assert send(server, "GET", "/box", at=datetime.now(UTC) + timedelta(minutes=minutes * 14 / 16))[0] == 200


def test_what_it_does_not_have_is_said_and_nothing_breaks(s3: Any) -> None:
    s3.put_object(Bucket="box", Key="k", Body=b"1")
    calls: list[Callable[[], Any]] = [
        lambda: s3.put_object_tagging(Bucket="box", Key="k", Tagging={"TagSet": []}),
        lambda: s3.put_bucket_versioning(Bucket="box", VersioningConfiguration={"Status": "Enabled"}),
        lambda: s3.get_bucket_acl(Bucket="box"),
    ]
    for call in calls:
        with pytest.raises(ClientError) as caught:
            call()
        assert code(caught)[0] in {405, 501}
    with pytest.raises(ClientError) as caught:
        s3.delete_bucket(Bucket="box")
    assert code(caught) == (409, "BucketNotEmpty")
    for name in ("none", "UPPER_case"):
        with pytest.raises(ClientError) as caught:
            s3.get_object(Bucket=name, Key="k")
        assert code(caught)[0] in {400, 404}


def test_documents_are_bounded_and_define_nothing(server: S3Server, s3: Any) -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]><Delete><Object><Key>&a;</Key></Object></Delete>'
    for body in (bomb, b"<Delete><Object>", b"x" * (3 * 2**20)):
        status, said = send(server, "POST", "/box?delete=", body)
        assert (status, b"MalformedXML" in said) == (400, True)
    assert send(server, "GET", "/box")[0] == 200


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
