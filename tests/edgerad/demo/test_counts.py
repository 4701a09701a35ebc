"""The account that the demo gives: a lost file, one scored twice and one that nobody sent are each found out."""

from datetime import timedelta
from pathlib import Path

import pytest

from edgerad import ledger
from edgerad.database import Database
from edgerad.demo import counts, persons
from edgerad.demo.feed import Fed, Sample
from edgerad.ledger import Letter, NewImage, ShipPolicy
from edgerad.records import Alert, Assessment, Image, Review, now
from edgerad.scoring import Outcome, Refused, Scored

MODEL = "m" * 64


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """An empty database."""
    found = Database(f"sqlite:///{tmp_path / 'edgerad.db'}")
    found.upgrade()
    return found


def image(number: int) -> NewImage:
    """Return an image to register."""
    return NewImage("xray", f"{number}.dcm", f"{number:032}", None, 9, now(), "sweep")


def fed(number: int, label: str | None = None) -> Fed:
    """Return a file that was sent."""
    return Fed(Sample(Path(f"{number}.dcm"), label), image(number).image_id, "S3")


def score(database: Database, *numbers: int, model: str = MODEL, probability: float = 0.9) -> None:
    """Register and assess images."""
    images = [image(number) for number in numbers]
    ledger.register(database, images)
    outcomes: list[Outcome] = [
        Scored(item.image_id, "pneumonia", probability, 0.0, "high", model, "c", "t", "litert", 0.01, {})
        for item in images
    ]
    ledger.record(database, outcomes, {}, ShipPolicy(False, 0.0), "xray.assessed")


def refuse(database: Database, number: int) -> None:
    """Register an image and quarantine it."""
    ledger.register(database, [image(number)])
    letter = Letter("sweep", "s", "{}")
    refused = Refused(image(number).image_id, "truncated", "cut")
    ledger.record(database, [refused], {image(number).image_id: letter}, ShipPolicy(False, 0.0), "xray.assessed")


def test_every_file_in_one_end_state_is_complete(database: Database) -> None:
    score(database, 1, 2)
    refuse(database, 3)
    found = counts.account(database, [fed(1), fed(2), fed(3)])
    assert found["complete"] is True
    wanted = {"fed": 3, "distinct": 3, "lost": 0, "pending": 0, "scored_twice": 0, "unexpected": 0}
    assert {name: found[name] for name in wanted} == wanted
    assert [line["state"] for line in found["files"]] == ["assessed", "assessed", "quarantined"]
    assert (found["files"][0]["probability"], found["files"][0]["triage"], found["files"][0]["model"]) == (
        0.9, "high", MODEL,
    )  # fmt: skip
    assert found["files"][2]["reason"] == "truncated"
    assert "probability" not in found["files"][2]


def test_a_file_that_nobody_registered_is_lost(database: Database) -> None:
    score(database, 1)
    found = counts.account(database, [fed(1), fed(2)])
    assert (found["complete"], found["lost"]) == (False, 1)
    assert found["files"][1]["state"] == "lost"


def test_a_file_that_waits_is_not_complete(database: Database) -> None:
    ledger.register(database, [image(1)])
    found = counts.account(database, [fed(1)])
    assert (found["complete"], found["pending"]) == (False, 1)


def test_an_image_scored_twice_is_found_out(database: Database) -> None:
    score(database, 1)
    with database.write() as session:
        first = session.query(Assessment).one()
        twice = {column.name: getattr(first, column.name) for column in Assessment.__table__.columns}
        session.add(Assessment(**{**twice, "assessment_id": "0" * 64, "model_digest": "n" * 64}))
    found = counts.account(database, [fed(1)])
    assert (found["complete"], found["scored_twice"]) == (False, 1)


def test_an_image_that_nobody_sent_is_unexpected(database: Database) -> None:
    score(database, 1, 2)
    found = counts.account(database, [fed(1)])
    assert (found["complete"], found["unexpected"]) == (False, 1)


def test_two_files_that_are_one_object_are_one_image(database: Database) -> None:
    score(database, 1)
    found = counts.account(database, [fed(1), fed(1)])
    assert (found["complete"], found["fed"], found["distinct"]) == (True, 2, 1)
    assert found["files"][1]["same_as"] == "1.dcm"
    assert "same_as" not in found["files"][0]


def test_a_look_counts_what_is_there(database: Database) -> None:
    assert counts.look(database) == counts.Counts()
    score(database, 1, 2)
    refuse(database, 3)
    ledger.register(database, [image(4)])
    seen = counts.look(database)
    assert (seen.received, seen.scored, seen.ended, seen.waiting) == (4, 2, 3, 1)
    assert seen.triage == {"high": 2}
    assert seen.alerts == {"open": 2}


def test_the_best_rate_is_of_the_busiest_seconds(database: Database) -> None:
    assert counts.best_rate(database) == 0
    score(database, *range(1, 9))
    start = now() - timedelta(minutes=5)
    after = [0, 100, 101, 102, 103, 104, 130, 200]
    with database.write() as session:
        for seconds, row in zip(after, session.query(Assessment).all(), strict=True):
            row.assessed_at = start + timedelta(seconds=seconds)
    assert counts.best_rate(database) == 0.5
    assert counts.best_rate(database, window=1.0) == 2
    first = counts.first_assessment(database)
    assert first is not None
    assert abs((first - start).total_seconds()) < 0.001


def test_simulated_people_are_named_so_and_act_once(database: Database) -> None:
    score(database, *range(1, 21))
    truth = {image(number).image_id: "positive" for number in range(1, 20)}
    done = persons.review(database, truth, 1.0)
    assert done == 19, "the one whose truth nobody knows is left alone"
    assert persons.review(database, truth, 1.0) == 0
    assert persons.acknowledge(database, 4) == 16
    assert persons.acknowledge(database, 4) == 0
    with database.read() as session:
        assert {(row.source, row.reviewer) for row in session.query(Review)} == {("simulated", persons.RADIOLOGIST)}
        assert session.query(Alert).filter_by(state="open").count() == 4
        assert session.query(Image).count() == 20


def test_a_share_of_the_reviews_is_about_that_share(database: Database) -> None:
    score(database, *range(1, 101))
    truth = {image(number).image_id: "negative" for number in range(1, 101)}
    assert 35 < persons.review(database, truth, 0.6) < 85
