"""Replay: a dead letter goes back once, with its record as it came; what cannot go back stays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlalchemy import select
from typer.testing import CliRunner

from edgerad import ids, ledger
from edgerad.commands.replay import replay as replay_command
from edgerad.database import Database
from edgerad.ledger import Letter, NewImage, ShipPolicy
from edgerad.records import Assessment, Audit, DeadLetter, Image
from edgerad.scoring import Refused
from ingest import events, replay
from ingest.sweep import SweepSource

BUCKET = "xray"
BINARY = b"\xff\x00 no JSON"


def record_of(key: str) -> bytes:
    """Return an event as Ceph writes it."""
    described = {"bucket": {"name": BUCKET}, "object": {"key": key, "size": 10, "eTag": "e1"}}
    return json.dumps(
        {"Records": [{"eventSource": "ceph:s3", "eventName": "ObjectCreated:Put", "s3": described}]}
    ).encode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database lies."""
    return tmp_path / "edgerad.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    """Three dead letters: an image by Kafka, a record that made no sense, an image by the sweep."""
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    images = [
        NewImage(BUCKET, key, "e1", None, 10, None, source) for key, source in (("a/1", "kafka"), ("b/2", "sweep"))
    ]
    ledger.register(database, images)
    swept = events.sweep_record(BUCKET, "b/2", "e1", 10, None)
    letters = {
        images[0].image_id: Letter("kafka", "xray.uploaded/0/7", events.to_text(record_of("a/1")), 8),
        images[1].image_id: Letter("sweep", images[1].image_id, events.to_text(swept), 8),
    }
    refused = [Refused(image.image_id, "store-unavailable", "why") for image in images]
    policy = ShipPolicy(enabled=False, random_share=0.0)
    ledger.record(database, list(refused), letters, policy, "xray.assessed", "xray.deadletter")
    with database.write() as session:
        letter = Letter("kafka", "xray.uploaded/0/8", events.to_text(BINARY))
        ledger.write_dead_letter(session, letter, "not-json", "")
    yield database
    database.close()


class Topic:
    """What was put back; raises while `down`."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes, bytes | None]] = []
        self.down = False

    def __call__(self, value: bytes, key: bytes | None) -> None:
        if self.down:
            raise ConnectionError
        self.records.append((value, key))


def states(database: Database) -> dict[str, str]:
    """Return the states of all images by key."""
    with database.read() as session:
        return {row.key: row.state for row in session.scalars(select(Image))}


def test_records_go_back_as_they_came_and_their_images_are_pending(database: Database) -> None:
    topic = Topic()
    letters = replay.waiting(database)
    done = replay.replay(database, letters, topic)
    assert [item.dead_letter_id for item in done] == [letter.dead_letter_id for letter in letters]
    swept = events.sweep_record(BUCKET, "b/2", "e1", 10, None)
    keys = {key: ids.study_key(key).encode() for key in ("a/1", "b/2")}
    assert sorted(topic.records, key=str) == sorted(
        [(record_of("a/1"), keys["a/1"]), (BINARY, None), (swept, keys["b/2"])], key=str
    )
    assert states(database) == {"a/1": "pending", "b/2": "pending"}
    assert replay.waiting(database) == []
    with database.read() as session:
        rows = list(session.scalars(select(Audit)))
    assert {(row.actor, row.action) for row in rows} == {("operator", "dead-letter-replayed")}
    assert {row.subject for row in rows} == {letter.dead_letter_id for letter in letters}


def test_a_replay_of_the_same_letters_again_closes_none_twice(database: Database) -> None:
    letters = replay.waiting(database)
    replay.replay(database, letters, Topic())
    assert replay.replay(database, letters, Topic()) == []
    with database.read() as session:
        assert len(session.scalars(select(Audit)).all()) == 3


def test_what_was_assessed_meanwhile_stays_assessed(database: Database) -> None:
    letters = replay.waiting(database)
    with database.write() as session:
        for row in session.scalars(select(Image)):
            row.state = "assessed"
    replay.replay(database, letters, Topic())
    assert states(database) == {"a/1": "assessed", "b/2": "assessed"}


def test_what_kafka_does_not_take_stays_a_dead_letter(database: Database) -> None:
    topic = Topic()
    topic.down = True
    letters = replay.waiting(database)
    with pytest.raises(ConnectionError):
        replay.replay(database, letters, topic)
    assert len(replay.waiting(database)) == 3
    topic.down = False
    assert len(replay.replay(database, letters, topic)) == 3


def test_without_kafka_the_sweep_takes_the_images_and_the_record_stays(database: Database) -> None:
    done = replay.replay(database, replay.waiting(database), None)
    assert {item.reason for item in done} == {"store-unavailable"}
    assert [letter.reason for letter in replay.waiting(database)] == ["not-json"]

    class Empty:
        bucket = BUCKET

        def list(self, prefix: str = "", start_after: str = "", page: int = 1000) -> Iterator[Any]:
            return iter(())

    async def look() -> set[str]:
        source = SweepSource(Empty(), database, 1.0)
        return {event.key for record in await source.poll(10, 0.0) for event in events.parse(record.body).created}

    assert asyncio.run(look()) == {"a/1", "b/2"}


def test_letters_are_chosen_by_reason_and_by_id(database: Database) -> None:
    letters = replay.waiting(database, ["store-unavailable"])
    assert len(letters) == 2
    one = letters[0].dead_letter_id
    assert [letter.dead_letter_id for letter in replay.waiting(database, (), [one])] == [one]
    assert replay.waiting(database, ["not-json"], [one]) == []


def test_an_image_that_fails_again_is_a_dead_letter_again(database: Database) -> None:
    replay.replay(database, replay.waiting(database, ["store-unavailable"]), Topic())
    with database.read() as session:
        images = list(session.scalars(select(Image)))
    letters = {image.image_id: Letter(image.source, "xray.uploaded/0/9", "again") for image in images}
    refused = [Refused(image.image_id, "truncated", "why") for image in images]
    policy = ShipPolicy(enabled=False, random_share=0.0)
    ledger.record(database, list(refused), letters, policy, "xray.assessed", "xray.deadletter")
    assert sorted(letter.reason for letter in replay.waiting(database)) == ["not-json", "truncated", "truncated"]
    with database.read() as session:
        assert session.scalars(select(Assessment)).all() == []
        assert len(session.scalars(select(DeadLetter)).all()) == 5


@pytest.fixture
def command(database: Database, path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `edgerad replay` on the database."""
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("EDGERAD_DATABASE__URL__VALUE", f"sqlite:///{path}")
    app = typer.Typer()
    app.command()(replay_command)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_the_command_lists_and_changes_nothing(command: Any, database: Database) -> None:
    listed = command("--json")
    assert listed.exit_code == 0
    lines = [json.loads(line) for line in listed.stdout.splitlines()]
    assert sorted((line["reason"], line["attempts"]) for line in lines) == [
        ("not-json", 1),
        ("store-unavailable", 8),
        ("store-unavailable", 8),
    ]
    assert len(replay.waiting(database)) == 3


def test_the_command_says_what_went_back_and_what_stays(command: Any, database: Database) -> None:
    result = command("--all")
    assert result.exit_code == 1
    assert result.stdout.count("replayed") == 2
    assert "1 of 3 stay dead letters" in result.stderr
    assert "kafka.bootstrap_servers" in result.stderr
    assert states(database) == {"a/1": "pending", "b/2": "pending"}
    assert command("--reason", "store-unavailable").exit_code == 0  # none left: nothing to do


def test_the_command_names_an_id_that_does_not_wait(command: Any, database: Database) -> None:
    result = command("--id", "0" * 32)
    assert result.exit_code == 1
    assert "0" * 32 in result.stderr
    assert len(replay.waiting(database)) == 3
