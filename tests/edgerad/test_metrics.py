"""Metrics: what the database holds, readable by Prometheus, with no patient data in any label."""

from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgerad import decisions, ledger, metrics
from edgerad.database import Database
from edgerad.ledger import Letter, NewImage, ShipPolicy
from edgerad.records import Alert, Assessment, ComponentStatus, Image, now
from edgerad.scoring import Outcome, Refused, Scored, Triage

HEADER = {"PatientName": "ZQX^JANE", "PatientID": "ZQX4711", "InstitutionName": "ZQX Hospital"}
MODEL = "m" * 64


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """An empty database."""
    found = Database(f"sqlite:///{tmp_path / 'edgerad.db'}")
    found.upgrade()
    return found


def samples(database: Database) -> dict[tuple[str, ...], float]:
    """Return every sample as Prometheus reads it: (name, label values …) to value."""
    text = metrics.render(database).decode()
    families = text_string_to_metric_families(text)
    return {(item.name, *item.labels.values()): item.value for family in families for item in family.samples}


def filled(database: Database) -> None:
    """Score three images, one of them high, refuse one, leave one pending."""
    images = [NewImage("zqx-bucket", f"zqx^jane/{n}.dcm", f"{n}" * 32, None, 9, now(), "kafka") for n in range(5)]
    ledger.register(database, images)
    risks: list[tuple[Triage, float]] = [("low", 0.01), ("high", 0.97), ("unknown", 0.5)]
    outcomes: list[Outcome] = [
        Scored(image.image_id, "pneumonia", p, 0.0, triage, MODEL, "c", "t", "litert", 0.01, HEADER)
        for image, (triage, p) in zip(images, risks, strict=False)
    ]
    outcomes.append(Refused(images[3].image_id, "truncated", "zqx cut"))
    letters = {image.image_id: Letter("kafka", f"zqx/0/{n}", '{"key": "zqx"}') for n, image in enumerate(images)}
    ledger.record(database, outcomes, letters, ShipPolicy(True, 0.0), "xray.assessed")
    decisions.review(database, images[1].image_id, "positive", "Dr. Zqx", "zqx comment")
    ledger.report(database, "ingest-0", {"lag": 3, "paused": True, "trouble": "zqx words", "rate": 1.5})


def test_an_empty_edge_has_its_metrics(database: Database) -> None:
    found = samples(database)
    assert found["edgerad_outbox_pending",] == 0
    assert found["edgerad_ship_oldest_seconds",] == 0
    assert not any(name[0] == "edgerad_assessment_latency_seconds" for name in found), (
        "no latency where nothing was done"
    )


def test_counts_are_those_of_the_database(database: Database) -> None:
    filled(database)
    found = samples(database)
    assert {name[1]: value for name, value in found.items() if name[0] == "edgerad_images"} == {
        "assessed": 3, "quarantined": 1, "pending": 1,
    }  # fmt: skip
    assert {name[1]: value for name, value in found.items() if name[0] == "edgerad_assessments"} == {
        "low": 1, "high": 1, "unknown": 1,
    }  # fmt: skip
    assert found["edgerad_alerts", "open"] == 1
    assert found["edgerad_dead_letters", "truncated"] == 1
    assert found["edgerad_shipments", "queued"] == 1
    assert found["edgerad_outbox_pending",] == 3
    assert found["edgerad_component", "ingest-0", "lag"] == 3
    assert found["edgerad_component", "ingest-0", "paused"] == 1
    assert ("edgerad_component", "ingest-0", "trouble") not in found, "words are no figures"


def test_an_acknowledged_alert_is_no_open_one(database: Database) -> None:
    filled(database)
    with database.write() as session:
        alert = session.query(Alert).one().alert_id
    decisions.acknowledge(database, alert, "Dr. Zqx")
    found = samples(database)
    assert found["edgerad_alerts", "acknowledged"] == 1
    assert ("edgerad_alerts", "open") not in found


def test_latency_is_from_arrival_to_assessment_of_the_last_minutes(database: Database) -> None:
    filled(database)
    with database.write() as session:
        arrived = now() - timedelta(minutes=1)
        for number, row in enumerate(session.query(Assessment).all()):
            session.get_one(Image, row.image_id).stored_at = arrived
            row.assessed_at = arrived + timedelta(seconds=10 * number)
    found = samples(database)
    assert found["edgerad_assessment_latency_seconds", "0.5"] == pytest.approx(10)
    assert found["edgerad_assessment_latency_seconds", "0.99"] == pytest.approx(20)
    with database.write() as session:
        for row in session.query(Assessment).all():
            row.assessed_at = now() - timedelta(minutes=16)
    assert not any(name[0] == "edgerad_assessment_latency_seconds" for name in samples(database))


def test_a_dead_component_grows_old(database: Database) -> None:
    filled(database)
    with database.write() as session:
        session.get_one(ComponentStatus, "ingest-0").at = now() - timedelta(hours=1)
    assert samples(database)["edgerad_component_seen_seconds", "ingest-0"] >= 3600


def test_nothing_of_a_patient_is_in_the_metrics(database: Database) -> None:
    filled(database)
    text = metrics.render(database).decode()
    assert "edgerad_images" in text
    assert "zqx" not in text.lower()
