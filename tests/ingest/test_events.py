"""S3 events as stores send them, and what no store would send: each is read, ignored or named poisoned.

Ceph's samples were recorded from a RADOS gateway (16.2); those of AWS and MinIO follow their documented structure
(Amazon S3 User Guide, "Event message structure" and "EventBridge event message structure"; MinIO, "Bucket
notifications"), those of NooBaa, RustFS and CubeFS the fields that their public source writes. The envelopes of SNS and
SQS follow AWS's documentation.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerad import ids
from ingest.dialects import DIALECTS
from ingest.envelopes import DEPTH
from ingest.events import (
    BINARY,
    Created,
    ParsedEvents,
    PoisonedRecord,
    Removed,
    parse,
    split,
    sweep_record,
    to_bytes,
    to_text,
)

SAMPLES = Path(__file__).parent / "samples"
KEY = "site a/pat 0+ü.dcm"
PUT, PARTS = "398533d48111e9f664b1f64cb10c4b63", "d250e29a9f628272a4704a74dbde3731"
AWS_PUT = Created("xray", KEY, PUT, None, 1000, datetime(2026, 11, 24, 9, 15, 5, 521000, UTC))
AWS_VERSION, CEPH_VERSION = "3HL4kqtJlcpXroDTDmJ.rmSpXd3dIbrH", "9fyt2NMaC5bHHYGRYyR69tklD.kibTx"
AWS_PARTS = Created("xray", "mp.dcm", f"{PARTS}-4", AWS_VERSION, 52428800, AWS_PUT.at)
CEPH_AT = datetime(2026, 11, 25, 15, 55, tzinfo=UTC)
TO_THE_SECOND = AWS_PUT.at.replace(microsecond=0) if AWS_PUT.at else None
BRIDGE_PARTS = replace(AWS_PARTS, at=TO_THE_SECOND)
UNDESCRIBED = replace(AWS_PUT, etag="", size=None)
CONTRACT = {
    "aws_put": ParsedEvents(created=[AWS_PUT]),
    "aws_multipart": ParsedEvents(created=[AWS_PARTS]),
    "aws_several": ParsedEvents([AWS_PUT, AWS_PARTS], [Removed("xray", "old.dcm")], ["other-event"]),
    "aws_delete_marker": ParsedEvents(removed=[Removed("xray", KEY)]),
    "aws_lifecycle": ParsedEvents(removed=[Removed("xray", KEY)]),
    "aws_restore": ParsedEvents(ignored=["other-event"]),
    "aws_test": ParsedEvents(ignored=["test-event"]),
    "aws_sns": ParsedEvents(created=[AWS_PUT]),
    "aws_sns_confirm": ParsedEvents(ignored=["sns-control"]),
    "ceph_put": ParsedEvents([Created("xray", KEY, PUT, None, 1000, CEPH_AT.replace(second=39, microsecond=563885))]),
    "ceph_multipart": ParsedEvents(
        [Created("xray", "mp.dcm", f"{PARTS}-1", None, 100, CEPH_AT.replace(second=41, microsecond=812465))]
    ),
    "ceph_put_versioned": ParsedEvents(
        [
            Created(
                *("xray", KEY, "db2e0733e95218f98f7eafafdfcb681a", CEPH_VERSION, 10),
                CEPH_AT.replace(second=41, microsecond=924100),
            )
        ]
    ),
    "ceph_removed": ParsedEvents(removed=[Removed("xray", KEY)]),
    "ceph_delete_marker": ParsedEvents(removed=[Removed("xray", KEY)]),
    "ceph_folder": ParsedEvents(ignored=["folder"]),
    "minio_put": ParsedEvents([AWS_PUT]),
    "minio_multipart": ParsedEvents(
        [Created("xray", "mp.dcm", f"{PARTS}-4", "b1c2d3e4-f5a6-4b7c-8d9e-0f1a2b3c4d5e", 52428800, AWS_PUT.at)]
    ),
    "minio_removed": ParsedEvents(removed=[Removed("xray", KEY)]),
    "minio_retention": ParsedEvents(ignored=["other-event"]),
    "noobaa_put": ParsedEvents([UNDESCRIBED]),
    "noobaa_host_put": ParsedEvents([UNDESCRIBED]),
    "noobaa_multipart": ParsedEvents([replace(UNDESCRIBED, key="mp.dcm", version_id="nbver-17")]),
    "noobaa_removed": ParsedEvents(removed=[Removed("xray", KEY)]),
    "noobaa_lifecycle": ParsedEvents(removed=[Removed("xray", KEY)]),
    "noobaa_tagging": ParsedEvents(ignored=["other-event"]),
    "noobaa_test": ParsedEvents(ignored=["test-event"]),
    "rustfs_put": ParsedEvents([AWS_PUT]),
    "rustfs_wrapped_put": ParsedEvents([AWS_PUT]),
    "rustfs_removed": ParsedEvents(removed=[Removed("xray", KEY)]),
    "rustfs_accessed": ParsedEvents(ignored=["other-event"]),
    "cubefs_put": ParsedEvents([AWS_PUT]),
    "cubefs_folder": ParsedEvents(ignored=["folder"]),
    "cubefs_removed": ParsedEvents(removed=[Removed("xray", KEY)]),
    "eventbridge_put": ParsedEvents([replace(AWS_PUT, at=TO_THE_SECOND)]),
    "eventbridge_multipart": ParsedEvents([BRIDGE_PARTS]),
    "eventbridge_deleted": ParsedEvents(removed=[Removed("xray", KEY)]),
    "eventbridge_restore": ParsedEvents(ignored=["other-event"]),
    "sqs_lambda": ParsedEvents([AWS_PUT, BRIDGE_PARTS], poisoned=["not-json"]),
    "sqs_received": ParsedEvents([AWS_PUT]),
    "sns_lambda": ParsedEvents([AWS_PUT]),
}


def sample(name: str) -> Any:
    """Return a sample's content."""
    return json.loads((SAMPLES / f"{name}.json").read_bytes())


def with_object(name: str = "ceph_put", **changes: Any) -> bytes:
    """Return a sample as a record with the described object changed."""
    content = sample(name)
    described = content["detail"]["object"] if "detail" in content else content["Records"][0]["s3"]["object"]
    described.update(changes)
    return json.dumps(content).encode()


def with_entry(**changes: Any) -> bytes:
    """Return Ceph's PUT as a record with its entry changed; None removes a field."""
    content = sample("ceph_put")
    entry = content["Records"][0]
    entry.update(changes)
    content["Records"][0] = {name: value for name, value in entry.items() if value is not None}
    return json.dumps(content).encode()


@pytest.mark.parametrize("name", CONTRACT)
def test_each_store_is_understood(name: str) -> None:
    assert parse((SAMPLES / f"{name}.json").read_bytes()) == CONTRACT[name]


def test_every_sample_is_in_the_contract() -> None:
    assert {path.stem for path in SAMPLES.glob("*.json")} == set(CONTRACT)


def test_every_dialect_has_samples() -> None:
    sampled = {name.partition("_")[0] for name in CONTRACT}
    assert {dialect.name for dialect in DIALECTS} - {"sweep"} <= sampled


def test_one_object_has_one_identity_in_every_dialect() -> None:
    stores = ("aws", "ceph", "minio", "rustfs", "rustfs_wrapped", "cubefs", "eventbridge")
    images = [parse((SAMPLES / f"{store}_put.json").read_bytes()).created[0].image("kafka") for store in stores]
    found = parse(sweep_record("xray", KEY, PUT, 1000, None)).created[0].image("sweep")
    assert {image.image_id for image in (*images, found)} == {ids.image_id("xray", KEY, PUT)}


@pytest.mark.parametrize(
    ("store", "written", "key"),
    [
        ("aws", "a+b%2Bc/%25.dcm", "a b+c/%.dcm"),
        ("minio", "a+b%2Bc%2F%25.dcm", "a b+c/%.dcm"),
        ("ceph", "a+b%2Bc/%25.dcm", "a+b%2Bc/%25.dcm"),
        ("noobaa", "a+b%2Bc/%25.dcm", "a+b%2Bc/%25.dcm"),
        ("rustfs", "a+b%2Bc%2F%25.dcm", "a b+c/%.dcm"),
        ("cubefs", "a+b%2Bc%2F%25.dcm", "a b+c/%.dcm"),
        ("eventbridge", "a+b%2Bc/%25.dcm", "a+b%2Bc/%25.dcm"),
    ],
)
def test_keys_are_decoded_as_their_store_encodes_them(store: str, written: str, key: str) -> None:
    assert parse(with_object(f"{store}_put", key=written)).created[0].key == key


def test_a_sweep_record_says_what_the_listing_said() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    for key in (KEY, "a%20b+c", 'quote".dcm'):
        assert parse(sweep_record("xray", key, "e-2", 7, at)).created == [Created("xray", key, "e-2", None, 7, at)]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"", "not-json"),
        (b"\xff\xfe\xfa", "not-json"),
        (b"{'Records': []}", "not-json"),
        (b'{"Records": [', "not-json"),
        (b"[" * 100_000, "not-json"),
        (b'{"Records": [{"s3": ' + b"9" * 5000 + b"}]}", "not-json"),
        (b"[]", "not-an-s3-event"),
        (b'"Records"', "not-an-s3-event"),
        (b"{}", "not-an-s3-event"),
        (b'{"Records": {}}', "not-an-s3-event"),
        (b'{"TopicArn": "t", "Type": "Notification", "Message": 5}', "not-an-s3-event"),
        (b'{"TopicArn": "t", "Type": "Notification", "Message": "{"}', "not-json"),
    ],
)
def test_what_is_no_event_is_poisoned_as_a_whole(record: bytes, reason: str) -> None:
    with pytest.raises(PoisonedRecord) as poisoned:
        parse(record)
    assert (poisoned.value.reason, str(poisoned.value)) == (reason, reason)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b'{"Records": [null]}', "malformed-entry"),
        (b'{"Records": ["ceph:s3"]}', "malformed-entry"),
        (with_entry(s3=None), "malformed-entry"),
        (with_entry(s3="xray"), "malformed-entry"),
        (with_entry(s3={"bucket": {"name": 5}, "object": {"key": "a"}}), "malformed-entry"),
        (with_entry(s3={"bucket": {"name": ""}, "object": {"key": "a"}}), "malformed-entry"),
        (with_entry(s3={"bucket": {"name": "b" * 256}, "object": {"key": "a"}}), "malformed-entry"),
        (with_entry(eventName=None), "malformed-entry"),
        (with_entry(eventName=5), "malformed-entry"),
        (with_entry(eventSource=None), "unknown-event-source"),
        (with_entry(eventSource="other:s3"), "unknown-event-source"),
        (with_entry(eventVersion="3.0"), "unknown-event-version"),
        (with_object(key=17), "malformed-entry"),
        (with_object(key=""), "malformed-entry"),
        (with_object(key="a\0b"), "malformed-entry"),
        (with_object(key="a\ud800b"), "malformed-entry"),
        (with_object("aws_put", key="a%00b"), "malformed-entry"),
        (with_object("aws_put", key="a%FFb"), "malformed-entry"),
        (with_object(key="k" * 1025), "malformed-entry"),
        (with_object(key="ü" * 513), "malformed-entry"),
        (with_object(eTag=17), "malformed-entry"),
        (with_object(eTag="e" * 256), "malformed-entry"),
        (with_object(eTag="a\0"), "malformed-entry"),
        (with_object(versionId=["v"]), "malformed-entry"),
        (with_object(versionId="v" * 256), "malformed-entry"),
        (with_entry(eventSource="sgws:s3", eventVersion="2.3", awsRegion=None), "unknown-event-source"),
        (with_entry(eventSource="other:s3", awsRegion=None), "unknown-event-source"),
        (with_object("noobaa_put", key=""), "malformed-entry"),
        (with_object("rustfs_put", key="a%FFb"), "malformed-entry"),
        (with_object("cubefs_put", key="%00"), "malformed-entry"),
        (with_object("eventbridge_put", key=None), "malformed-entry"),
        (with_object("eventbridge_put", etag=17), "malformed-entry"),
        (json.dumps({**sample("eventbridge_put"), "version": "1"}).encode(), "unknown-event-version"),
        (json.dumps({**sample("eventbridge_put"), "detail": None}).encode(), "malformed-entry"),
        (json.dumps({**sample("eventbridge_put"), "detail": {"object": {"key": "a"}}}).encode(), "malformed-entry"),
    ],
)
def test_an_entry_without_sense_is_poisoned(record: bytes, reason: str) -> None:
    assert parse(record) == ParsedEvents(poisoned=[reason])


def test_a_poisoned_entry_spoils_no_other() -> None:
    content = sample("aws_several")
    content["Records"].insert(1, {"eventSource": "aws:s3", "eventName": "ObjectCreated:Put"})
    parsed = parse(json.dumps(content).encode())
    expected = CONTRACT["aws_several"]
    assert parsed == ParsedEvents(expected.created, expected.removed, expected.ignored, ["malformed-entry"])


def test_a_record_without_entries_is_ignored() -> None:
    assert parse(b'{"Records": []}') == ParsedEvents(ignored=["no-records"])


@pytest.mark.parametrize(
    ("size", "read"), [("1000", 1000), (None, None), (-1, None), ("x", None), (2**63, None), (float("nan"), None)]
)
def test_a_size_is_kept_when_it_is_one(size: object, read: int | None) -> None:
    assert parse(with_object(size=size)).created[0].size == read


@pytest.mark.parametrize(
    ("time", "read"),
    [
        ("2026-11-24T10:15:05+01:00", datetime(2026, 11, 24, 9, 15, 5, tzinfo=UTC)),
        ("2026-11-24T09:15:05", datetime(2026, 11, 24, 9, 15, 5, tzinfo=UTC)),
        ("yesterday", None),
        (5, None),
        ("0001-01-01T00:00:00+14:00", None),
    ],
)
def test_a_time_is_kept_as_utc_when_it_is_one(time: object, read: datetime | None) -> None:
    assert parse(with_entry(eventTime=time)).created[0].at == read


def test_a_missing_etag_is_left_for_the_store_to_tell() -> None:
    assert [parse(with_object(eTag=etag)).created[0].etag for etag in ("", None, '"quoted"')] == ["", "", "quoted"]


@pytest.mark.parametrize("name", ["ceph_put", "minio_put", "noobaa_put"])
def test_the_version_of_an_unversioned_object_is_none(name: str) -> None:
    assert parse(with_object(name, versionId="null")).created[0].version_id is None


def test_a_missing_etag_of_eventbridge_is_left_for_the_store_to_tell() -> None:
    assert [parse(with_object("eventbridge_put", etag=etag)).created[0].etag for etag in (None, "")] == ["", ""]


@pytest.mark.parametrize(("depth", "read"), [(DEPTH - 1, [AWS_PUT]), (DEPTH, None)])
def test_envelopes_are_opened_to_a_fixed_depth(depth: int, read: list[Created] | None) -> None:
    body = (SAMPLES / "aws_put.json").read_text(encoding="utf-8")
    for _ in range(depth):
        body = json.dumps({"Type": "Notification", "TopicArn": "arn", "Message": body})
    if read is None:
        with pytest.raises(PoisonedRecord):
            parse(body.encode())
    else:
        assert parse(body.encode()).created == read


STUDY = ids.study_key(KEY)


@pytest.mark.parametrize(
    ("name", "studies"),
    [
        *((name, [STUDY]) for name in CONTRACT if name.endswith("_put")),
        ("ceph_put_versioned", [STUDY]),
        ("minio_retention", [STUDY]),
        ("eventbridge_deleted", [STUDY]),
        ("sqs_received", [STUDY]),
        ("sns_lambda", [STUDY]),
        ("sqs_lambda", [STUDY, None, ids.study_key("mp.dcm")]),
        ("aws_several", [STUDY, ids.study_key("mp.dcm"), ids.study_key("old.dcm"), STUDY]),
        ("aws_test", [None]),
        ("noobaa_test", [None]),
    ],
)
def test_a_message_is_split_by_the_study_that_each_event_names(name: str, studies: list[str | None]) -> None:
    body = (SAMPLES / f"{name}.json").read_bytes()
    records = split(body)
    assert [study for study, _ in records] == studies
    if len(records) == 1:
        assert records[0][1] == body


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_the_parts_of_a_message_say_what_the_message_says(name: str) -> None:
    together = ParsedEvents()
    for _, record in split((SAMPLES / f"{name}.json").read_bytes()):
        try:
            parsed = parse(record)
        except PoisonedRecord as poisoned:
            parsed = ParsedEvents(poisoned=[poisoned.reason])
        together.created += parsed.created
        together.removed += parsed.removed
        together.ignored += parsed.ignored
        together.poisoned += parsed.poisoned
    assert together == CONTRACT[name]


def test_the_event_of_an_unknown_store_keeps_to_its_study_and_one_without_a_name_is_refused() -> None:
    assert [study for study, _ in split(with_entry(eventSource="other:s3"))] == [STUDY]
    for body in (b'{"Records": [null]}', b'{"Records": [{"s3": {}}]}', b'{"hello": 1}', b"[]", b"{"):
        with pytest.raises(PoisonedRecord):
            split(body)


def _places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(content, dict | list):
        for name in content if isinstance(content, dict) else range(len(content)):
            yield from _places(content[name], (*path, name))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", ["Records", "Messages"])
def test_a_message_without_entries_is_ignored_and_not_lost(name: str) -> None:
    parsed = parse(json.dumps({name: []}).encode())
    assert (parsed.ignored, parsed.created, parsed.poisoned) == (["no-records"], [], [])
    assert split(json.dumps({name: []}).encode())[0][0] is None


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_whatever_stands_anywhere_what_is_read_can_be_stored(data: st.DataObject) -> None:
    content = copy.deepcopy(sample(data.draw(st.sampled_from(sorted(CONTRACT)))))
    path = data.draw(st.sampled_from(list(_places(content))))
    value = data.draw(ANYTHING)
    if path:
        place = content
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
    else:
        content = value
    try:
        parsed = parse(json.dumps(content).encode())
    except PoisonedRecord:
        return
    for event in parsed.created:
        texts = (event.bucket, event.key, event.etag, event.version_id or "")
        assert not any("\0" in text for text in texts)
        assert 0 < len(event.key.encode()) <= 1024
        assert max(len(text.encode()) for text in texts[2:]) <= 255 * 4
        assert event.size is None or 0 <= event.size < 2**63
        assert event.at is None or event.at.tzinfo is UTC
    assert len(parsed.created) + len(parsed.removed) + len(parsed.ignored) + len(parsed.poisoned) > 0


@given(st.binary() | st.text().map(str.encode) | st.text().map(lambda text: (BINARY + text).encode()))
def test_a_record_kept_as_text_comes_back_as_it_was(record: bytes) -> None:
    text = to_text(record)
    assert "\0" not in text
    assert to_bytes(text) == record
    text.encode()


def test_readable_records_are_kept_readable() -> None:
    assert to_text(b'{"key": "\xc3\xbc"}') == '{"key": "ü"}'
    assert to_text(b"\xff") == BINARY + base64.b64encode(b"\xff").decode()
