"""A site's calibration: from its readings, judged on what it was not fitted to, versioned, reversible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from edgerad.audit import verify
from edgerad.database import Database
from edgerad.records import Assessment, Audit, Image, Review
from serve import site
from serve.calibrate import Calibration, calibration_error, sigmoid
from serve.site import NotPossible, Readings, Site

HERE = Site("st-mary", "pneumonia", "m" * 64)
BUNDLED = Calibration("identity/1")


def drawn(count: int, a: float = 1.0, b: float = 0.0, seed: int = 0) -> Readings:
    """Readings of a site where the truth follows sigmoid(a * logit + b)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.3, 2.5, count)
    return Readings(logits, (rng.random(count) < sigmoid(a * logits + b)).astype(float))


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """An empty database."""
    made = Database(f"sqlite:///{tmp_path / 'edgerad.db'}")
    made.upgrade()
    return made


def read(database: Database, number: int, verdicts: list[tuple[str, str]], model: str = "m" * 64) -> None:
    """Write an assessed image, logit = its number, and its reviews (verdict, source) in order."""
    with database.write() as session:
        if session.get(Image, f"i{number}") is None:
            session.add(Image(image_id=f"i{number}", bucket="x", key="k", source="t", state="assessed", header={}))
            session.flush()
        assessment = f"a{number}{model[:1]}"
        session.add(
            Assessment(
                assessment_id=assessment, image_id=f"i{number}", finding="pneumonia", probability=0.9,
                logit=float(number), triage="unknown", model_digest=model, calibration_version="site/7",
                threshold_version="t", runtime="litert", seconds=0.0,
            )
        )  # fmt: skip
        session.flush()
        for verdict, source in verdicts:
            session.add(
                Review(image_id=f"i{number}", assessment_id=assessment, verdict=verdict, reviewer="P", source=source)
            )
            session.flush()


def test_the_newest_reading_of_each_image_of_this_model_counts(database: Database) -> None:
    read(database, 1, [("positive", "person"), ("negative", "person")])
    read(database, 2, [("negative", "person"), ("positive", "person")])
    read(database, 3, [("unsure", "person")])
    read(database, 4, [("positive", "person"), ("unsure", "person")])
    read(database, 5, [("positive", "person")], model="n" * 64)
    read(database, 6, [("positive", "simulated")])
    read(database, 7, [])
    found = site.readings(database, HERE)
    assert found.logits.tolist() == [1.0, 2.0], "the network's own numbers, whatever calibration was in service"
    assert found.labels.tolist() == [0.0, 1.0]
    assert site.readings(database, HERE, simulated=True).logits.tolist() == [1.0, 2.0, 6.0]


def test_a_refit_is_called_better_where_the_site_differs() -> None:
    proposal = site.propose(drawn(200, a=1.0, b=-1.8), BUNDLED, BUNDLED, 100)
    assert proposal.figures.is_better
    assert proposal.calibration.b == pytest.approx(-1.8, abs=0.6)
    assert proposal.figures.loss_refit < proposal.figures.loss_now
    assert proposal.figures.error_refit < proposal.figures.error_now
    assert proposal.figures.readings == 200


def test_a_refit_is_seldom_called_better_where_there_is_nothing_to_gain() -> None:
    """Judged on the cases it was fitted to, it would look better nearly always."""
    called = [site.propose(drawn(120, seed=seed), BUNDLED, BUNDLED, 100).figures.is_better for seed in range(40)]
    assert sum(called) <= 3


def test_the_figures_come_from_readings_that_were_not_fitted_to() -> None:
    few = drawn(100, seed=4)
    proposal = site.propose(few, BUNDLED, BUNDLED, 100)
    z = proposal.calibration.a * few.logits + proposal.calibration.b
    inside = float(np.mean(np.logaddexp(0, z) - few.labels * z))
    assert proposal.figures.loss_refit > inside


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (drawn(99), "99 readings; at least 100"),
        (Readings(np.arange(100.0), np.ones(100)), "both labels"),
        (Readings(np.arange(100.0), (np.arange(100) < 50).astype(float)), "contradict"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_words(given: Readings, says: str) -> None:
    with pytest.raises(NotPossible, match=says):
        site.propose(given, BUNDLED, BUNDLED, 100)


def test_versions_go_up_and_each_can_come_back(database: Database) -> None:
    assert site.current(database, HERE) is None
    first = site.put_into_service(database, HERE, site.propose(drawn(150, b=-1), BUNDLED, BUNDLED, 100), "edgerad", "x")
    second = site.put_into_service(database, HERE, site.propose(drawn(150, b=1), first, BUNDLED, 100), "edgerad", "x")
    assert [first.version, second.version] == ["st-mary/1", "st-mary/2"]
    assert site.current(database, HERE) == second
    assert site.revert(database, HERE, "st-mary/1", "person:P", "why") == first
    assert site.current(database, HERE) == first
    site.revert(database, HERE, None, "person:P", "why")
    assert site.current(database, HERE) is None
    third = site.put_into_service(database, HERE, site.propose(drawn(150), BUNDLED, BUNDLED, 100), "edgerad", "x")
    assert third.version == "st-mary/3", "a version is never given twice"
    assert [row.version for row in site.history(database, HERE)] == [
        "st-mary/3",
        "bundle",
        "st-mary/1",
        "st-mary/2",
        "st-mary/1",
    ]
    assert site.history(database, HERE)[-1].figures["readings"] == 150
    with pytest.raises(NotPossible, match="no calibration st-mary/9"):
        site.revert(database, HERE, "st-mary/9", "person:P", "why")


def test_another_model_or_edge_has_its_own(database: Database) -> None:
    proposal = site.propose(drawn(150), BUNDLED, BUNDLED, 100)
    site.put_into_service(database, HERE, proposal, "edgerad", "x")
    for other in (Site("st-john", "pneumonia", "m" * 64), Site("st-mary", "pneumonia", "n" * 64)):
        assert site.current(database, other) is None
        with pytest.raises(NotPossible):
            site.revert(database, other, "st-mary/1", "person:P", "why")


def test_every_change_is_audited(database: Database) -> None:
    proposal = site.propose(drawn(150), BUNDLED, BUNDLED, 100)
    site.put_into_service(database, HERE, proposal, "edgerad", "better")
    site.revert(database, HERE, None, "person:P", "looked wrong")
    with database.read() as session:
        rows = list(session.scalars(select(Audit)))
    assert [(row.actor, row.detail["version"]) for row in rows] == [("edgerad", "st-mary/1"), ("person:P", "bundle")]
    assert verify(database) == (2, None)


def test_the_calibration_error_is_what_it_says() -> None:
    assert calibration_error([0.05, 0.05, 0.95, 0.95], [0, 0, 1, 1]) == pytest.approx(0.05)
    assert calibration_error([0.9] * 10, [1] * 5 + [0] * 5) == pytest.approx(0.4)
    assert calibration_error([1.0, 0.0], [1, 0]) == 0
    assert calibration_error([], []) == 0
