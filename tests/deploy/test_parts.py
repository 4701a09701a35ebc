"""The real parts: each starts, works, survives a restart and a power cut, and stops."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy import process
from deploy.ceph import Ceph, client, set_notification
from deploy.kafka import Kafka
from deploy.need import PARTS, missing
from deploy.postgres import Postgres
from tests.conftest import ROOT, need

pytestmark = pytest.mark.real


@pytest.fixture
def listener() -> Iterator[tuple[int, list[tuple[str, bytes]]]]:
    """An HTTP server that keeps what is posted to it: its port, and (Authorization, body) of each."""
    got: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.headers.get("Authorization", ""), body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, got
    server.shutdown()
    server.server_close()
    thread.join()


def test_kafka_keeps_records_and_offsets_over_a_power_cut(parts_folder: Path) -> None:
    need("kafka")
    from kafka import KafkaConsumer, KafkaProducer
    from kafka.admin import KafkaAdminClient, NewTopic

    with Kafka(parts_folder / "own-kafka") as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        admin.create_topics([NewTopic("t", 1, 1)])
        admin.close()
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")
        for number in range(10):
            producer.send("t", str(number).encode()).get(20)
        producer.close()

        def consume(count: int) -> list[bytes]:
            consumer = KafkaConsumer(
                "t",
                bootstrap_servers=broker.bootstrap,
                group_id="g",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                consumer_timeout_ms=20_000,
                max_poll_records=count,
            )
            values = [next(consumer).value for _ in range(count)]
            consumer.commit()
            consumer.close()
            return values

        assert consume(4) == [b"0", b"1", b"2", b"3"]
        broker.kill()
        assert not broker.runs()
        broker.start()
        assert consume(6) == [b"4", b"5", b"6", b"7", b"8", b"9"]
    assert not broker.runs()


def test_ceph_pushes_an_event_for_every_put(ceph: Ceph, listener: tuple[int, list[tuple[str, bytes]]]) -> None:
    port, got = listener
    endpoints = ceph.endpoints()
    keys = (endpoints["access_key"], endpoints["secret_key"])
    s3 = client(endpoints["s3"], keys)
    s3.create_bucket(Bucket="events")
    set_notification(endpoints["s3"], keys, "events", f"http://edgerad:token@127.0.0.1:{port}/s3-events")
    names = [f"study a/pät+{number}.dcm" for number in range(20)]
    for name in names:
        s3.put_object(Bucket="events", Key=name, Body=b"x")
    records = [record for _, body in got for record in json.loads(body)["Records"]]
    assert [record["s3"]["object"]["key"] for record in records] == names, "Ceph sends the key as it is"
    assert {authorization for authorization, _ in got} == {"Basic ZWRnZXJhZDp0b2tlbg=="}


def test_postgres_makes_empty_databases(postgres: Postgres) -> None:
    import psycopg

    url = postgres.new_database("own").replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert row == (0,)


def test_a_part_that_does_not_come_up_shows_its_log(tmp_path: Path) -> None:
    process.spawn(tmp_path, "broken", ["sh", "-c", "echo no such luck"])
    with pytest.raises(process.PartError, match="no such luck"):
        process.wait(lambda: False, "the part", tmp_path, "broken", timeout=1)
    process.end(tmp_path, "broken")


def test_what_is_missing_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for part in ("ceph", "dcmtk", "chromium", "kafka"):
        assert part in PARTS
        assert "apt-get install" in (missing(part) or "")


def test_only_own_programs_are_ended(tmp_path: Path) -> None:
    (tmp_path / "other.pid").write_text("not a number")
    process.end(tmp_path, "other")
    assert process.pid_of(tmp_path, "never-started") is None
    assert process.pid_of(tmp_path, "other") is None
    os.kill(os.getpid(), 0)


def test_parts_are_brought_by_a_python_without_any_package() -> None:
    """`make check` brings them while it installs the packages."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import deploy.install"
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True, timeout=60)
