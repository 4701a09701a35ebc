"""The embedded S3 server as boto3's users meet it: keys, conditions, listings, parts, its own transfers."""

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from edgerad.s3server import S3Server
from tests.edgerad.s3server.conftest import code, send

KEYS = ["a b.dcm", "a+b%2B.dcm", "ä/漢字/😀.dcm", "x/../y", "./x", "//", "tab\there", "k" * 1024, "é" * 512]


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
