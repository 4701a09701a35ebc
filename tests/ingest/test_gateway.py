"""The gateway: authentication, limits, a 2xx only for what is durable, STOW-RS as PS3.18 has it."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom
import pytest
from fastapi.testclient import TestClient

from edgerad import http_limits, ids
from edgerad.phantom import random_spec, render, to_dicom
from edgerad.sections import GatewaySettings
from edgerad.store import ObjectStore
from ingest.gateway import UNNAMED, Doors, NotDurable, create_app, listen
from ingest.spool import Spool

TOKEN = {"Authorization": "Bearer sesame"}
SAMPLE = (Path(__file__).parent / "samples" / "ceph_put.json").read_bytes()


class Kafka:
    """A Kafka that keeps what is produced, or does not confirm."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes]] = []
        self.down = False

    def produce(self, records: Sequence[tuple[str, bytes]]) -> None:
        if self.down:
            raise NotDurable
        self.records += records


@pytest.fixture
def kafka() -> Kafka:
    """A Kafka."""
    return Kafka()


@pytest.fixture
def doors(bucket: ObjectStore, kafka: Kafka, tmp_path: Path) -> Doors:
    """Doors over an empty bucket."""
    for item in list(bucket.list()):
        bucket.delete(item.key)
    settings = GatewaySettings(sns_topics=("arn:aws:sns:x:1:t",), max_event_bytes=10_000)
    return Doors(settings, "sesame", bucket, Spool(tmp_path / "spool"), lambda: b"edgerad_images 1\n", kafka.produce)


@pytest.fixture
def client(doors: Doors) -> TestClient:
    """A client of the gateway."""
    return TestClient(create_app(doors), base_url="http://127.0.0.1:8042")


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}, {"Authorization": "sesame"}]
)
def test_without_the_token_nothing_is_taken(client: TestClient, kafka: Kafka, headers: dict[str, str]) -> None:
    for path in ("/s3-events", "/dicom-web/studies"):
        assert client.post(path, content=SAMPLE, headers=headers).status_code == 401
    assert kafka.records == []


def test_an_event_is_durable_in_kafka_before_it_is_answered(client: TestClient, kafka: Kafka) -> None:
    assert client.post("/s3-events", content=SAMPLE, headers=TOKEN).status_code == 204
    assert client.post("/s3-events", content=SAMPLE, auth=("edgerad", "sesame")).status_code == 204
    key = json.loads(SAMPLE)["Records"][0]["s3"]["object"]["key"]
    assert kafka.records == [(ids.study_key(key), SAMPLE)] * 2
    kafka.down = True
    answer = client.post("/s3-events", content=SAMPLE, headers=TOKEN)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


def test_several_records_keep_each_study_on_its_partition(client: TestClient, kafka: Kafka) -> None:
    event = json.loads(SAMPLE)
    records = []
    for study in ("a", "b", "a"):
        record = json.loads(json.dumps(event["Records"][0]))
        record["s3"]["object"]["key"] = f"{study}/1.dcm"
        records.append(record)
    client.post("/s3-events", content=json.dumps({"Records": records}), headers=TOKEN)
    assert [key for key, _ in kafka.records] == [ids.study_key(f"{study}/1.dcm") for study in ("a", "b", "a")]
    assert all(len(json.loads(value)["Records"]) == 1 for _, value in kafka.records)


def test_an_entry_without_sense_does_not_hold_up_the_others(client: TestClient, kafka: Kafka) -> None:
    entry = json.loads(SAMPLE)["Records"][0]
    named = ids.study_key(entry["s3"]["object"]["key"])
    strange = {"s3": {"object": {"key": "\ud800"}}}
    body = json.dumps({"Records": [entry, strange, "nothing"]})
    assert client.post("/s3-events", content=body, headers=TOKEN).status_code == 204
    assert [key for key, _ in kafka.records] == [named, UNNAMED, UNNAMED]
    assert [json.loads(value)["Records"] for _, value in kafka.records] == [[entry], [strange], ["nothing"]]


@pytest.mark.parametrize(
    "body",
    [b"", b"not JSON", b"[]", b'{"hello": 1}', b'{"Records": [{"s3": {}}]}', b'{"Records": [null]}', b"[" * 9000],
)
def test_what_is_no_event_is_refused(client: TestClient, kafka: Kafka, body: bytes) -> None:
    assert client.post("/s3-events", content=body, headers=TOKEN).status_code == 400
    assert kafka.records == []


def test_a_large_body_is_refused(client: TestClient) -> None:
    assert client.post("/s3-events", content=b"x" * 10_001, headers=TOKEN).status_code == 413


def test_sns_is_opened_for_known_topics_and_never_confirmed(client: TestClient, kafka: Kafka) -> None:
    envelope = {"Type": "Notification", "TopicArn": "arn:aws:sns:x:1:t", "Message": SAMPLE.decode()}
    assert client.post("/s3-events", json=envelope, headers=TOKEN).status_code == 204
    assert kafka.records[0][1] == SAMPLE
    assert client.post("/s3-events", json={**envelope, "TopicArn": "other"}, headers=TOKEN).status_code == 403
    confirm = {
        "Type": "SubscriptionConfirmation",
        "TopicArn": "arn:aws:sns:x:1:t",
        "SubscribeURL": "http://127.0.0.1:9",
    }
    assert client.post("/s3-events", json=confirm, headers=TOKEN).status_code == 200
    assert len(kafka.records) == 1


def test_without_kafka_the_sweep_is_nudged(doors: Doors) -> None:
    nudges: list[int] = []
    doors.produce = None
    doors.nudge = lambda: nudges.append(1)
    assert (
        TestClient(create_app(doors), base_url="http://localhost")
        .post("/s3-events", content=SAMPLE, headers=TOKEN)
        .status_code
        == 202
    )
    assert nudges == [1]


def multipart(*parts: bytes, boundary: str = "b0und") -> tuple[bytes, dict[str, str]]:
    """Return a multipart/related body and its headers."""
    body = b"".join(
        b"--" + boundary.encode() + b"\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts
    )
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    return body + b"--" + boundary.encode() + b"--\r\n", {**TOKEN, "Content-Type": kind}


def test_stow_stores_each_part_as_it_came(client: TestClient, doors: Doors) -> None:
    files = [to_dicom(render(random_spec((43, number), size=256))) for number in range(2)]
    body, headers = multipart(*files)
    answer = client.post("/dicom-web/studies", content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom+json")
    assert sorted(doors.store.get(item.key) for item in doors.store.list()) == sorted(files)
    uids = {str(pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID) for data in files}
    assert {item["00081155"]["Value"][0] for item in answer.json()["00081199"]["Value"]} == uids


def test_stow_says_which_parts_it_did_not_take(client: TestClient, doors: Doors) -> None:
    good = to_dicom(render(random_spec(44, size=256)))
    body, headers = multipart(good, b"no DICOM at all")
    answer = client.post("/dicom-web/studies", content=body, headers=headers)
    assert answer.status_code == 202
    assert answer.json()["00081198"]["Value"][0]["00081197"]["Value"] == [0xC000]
    assert client.post("/dicom-web/studies/1.2.3", content=multipart(good)[0], headers=headers).status_code == 409


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/dicom", 415),
        ("multipart/related", 415),
        ('multipart/related; type="application/dicom"; boundary=z', 400),
    ],
)
def test_stow_refuses_what_is_no_multipart(client: TestClient, content_type: str, status: int) -> None:
    headers = {**TOKEN, "Content-Type": content_type}
    assert client.post("/dicom-web/studies", content=multipart(b"x")[0], headers=headers).status_code == status


def test_health_readiness_and_metrics(client: TestClient, doors: Doors) -> None:
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200
    assert client.get("/metrics").content == b"edgerad_images 1\n"
    doors.kafka_answers = lambda: False
    assert client.get("/readyz").status_code == 503


def test_a_free_port_stays_the_same_until_another_program_takes_it(tmp_path: Path) -> None:
    kept = tmp_path / "run" / "gateway.port"
    with listen("127.0.0.1", 0, kept) as first:
        port = first.getsockname()[1]
    with listen("127.0.0.1", 0, kept) as again:
        assert again.getsockname()[1] == port
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with listen("127.0.0.1", 0, kept) as moved:
            assert moved.getsockname()[1] != port
            assert kept.read_text(encoding="utf-8") == str(moved.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            listen("127.0.0.1", port, kept)


@pytest.mark.parametrize("token", ["", " ", "\n"])
def test_without_a_token_there_is_no_gateway(doors: Doors, token: str) -> None:
    doors.token = token
    with pytest.raises(ValueError, match="token is empty"):
        create_app(doors)


@pytest.fixture
def address(doors: Doors) -> Iterator[tuple[str, int]]:
    """A gateway on a port, as its actor runs it; it also answers to the name edge.hospital.example."""
    doors.settings = doors.settings.model_copy(update={"allowed_hosts": ("edge.hospital.example",)})
    server = http_limits.server(create_app(doors), lifespan="off")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join()


def status_of(address: tuple[str, int], headers: dict[str, str], method: str = "POST") -> int:
    """Send an event as curl would, with other headers; return the status."""
    connection = http.client.HTTPConnection(*address, timeout=30)
    try:
        connection.request(method, "/s3-events", SAMPLE, {**TOKEN, **headers})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 204),
        ({"Host": "localhost:8042"}, 204),
        ({"Host": "edge.hospital.example"}, 204),
        ({"Host": "edge.hospital.example:8042"}, 204),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "192.0.2.7"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
    ],
)
def test_a_foreign_host_or_origin_is_refused(
    address: tuple[str, int], kafka: Kafka, headers: dict[str, str], status: int
) -> None:
    assert status_of(address, headers) == status
    assert len(kafka.records) == (status == 204)


def test_a_method_that_no_resource_has_is_refused(address: tuple[str, int]) -> None:
    assert status_of(address, {}, "OPTIONS") == 405
