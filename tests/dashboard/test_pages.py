"""Every page draws over a seeded database, and its buttons write what they say."""

from pathlib import Path

import pytest
from sqlalchemy import select
from streamlit.testing.v1 import AppTest

from edgerad import decisions, ledger
from edgerad.audit import verify
from edgerad.database import Database
from edgerad.ledger import Letter, NewImage, ShipPolicy
from edgerad.records import Alert, CoreCase, DeadLetter, Image, Label, Record, Review, Rollout, now
from edgerad.scoring import Outcome, Refused, Scored, Triage

ROOT = Path(__file__).parents[2]
HEADER = {"PatientName": "Doe^Jane", "PatientID": "4711", "PatientBirthDate": "20190301", "StudyDate": "20260301"}


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Three assessed images of which one is an open alert, and one that is not assessable."""
    monkeypatch.setenv("EDGERAD_DATA_DIR", str(tmp_path))
    for section in ("STORE", "CORE__STORE"):
        for name, value in (("ENDPOINT_URL", "http://127.0.0.1:9"), ("CONNECT_TIMEOUT", "0.2")):
            monkeypatch.setenv(f"EDGERAD_{section}__{name}", value)
        for name in ("ACCESS_KEY", "SECRET_KEY"):
            monkeypatch.setenv(f"EDGERAD_{section}__{name}__VALUE", "x")
    import streamlit as st

    st.cache_resource.clear()
    database = Database(f"sqlite:///{tmp_path / 'edgerad.db'}")
    database.upgrade()
    images = [NewImage("xray", f"{n}.dcm", f"{n:032x}", None, 1, now(), "kafka") for n in range(4)]
    ledger.register(database, images)
    classes: list[tuple[Triage, float]] = [("low", 0.03), ("high", 0.94), ("unknown", 0.5)]
    outcomes: list[Outcome] = [
        Scored(image.image_id, "pneumonia", p, 0.0, triage, "m" * 64, "cal-7", "thr-9", "litert", 0.01, HEADER)
        for image, (triage, p) in zip(images, classes, strict=False)
    ]
    outcomes.append(Refused(images[3].image_id, "truncated", "cut"))
    letters = {image.image_id: Letter("kafka", f"t/0/{n}", "{}") for n, image in enumerate(images)}
    ledger.record(database, outcomes, letters, ShipPolicy(True, 0.0), "xray.assessed")
    with database.write() as session:
        session.add(
            Rollout(edge_id="edge", finding="pneumonia", model_digest="m" * 64, state="serving", reason="shipped")
        )
        session.add(
            CoreCase(
                case_id="case-1", edge_id="edge", object_key="cases/1", object_digest="d", media_type="image/png",
                patient="p", finding="pneumonia", probability=0.5, triage="unknown", model_digest="m", why="unknown",
                split="train", manifest={},
            )
        )  # fmt: skip
    return database


def rows(database: Database, table: type[Record]) -> list[Record]:
    """Return all rows of a table."""
    with database.read() as session:
        return list(session.scalars(select(table)))


def draw(module: str, image_id: str = "") -> AppTest:
    """Draw one page by itself, as the app does, with a name in the sidebar."""
    script = f"import dashboard.{module} as page\npage.main()\n"
    test = AppTest.from_string(script, default_timeout=30)
    test.session_state["person"] = "Dr. Test"
    if image_id:
        test.session_state["image_id"] = image_id
    test.run()
    assert not test.exception
    return test


def text(test: AppTest) -> str:
    """Return all that a page says."""
    return " ".join(str(element.value) for element in (*test.markdown, *test.caption, *test.info, *test.warning))


def test_the_worklist_shows_the_open_alert_first_with_the_origin_of_its_risk(database: Database) -> None:
    page = draw("worklist")
    said = text(page)
    assert said.index("94%") < min(said.index("50%"), said.index("3%"))
    assert "Doe Jane" in said
    assert "4711 · 7 y" in said
    for origin in ("mmmmmmmmmmmm", "cal-7", "thr-9"):
        assert origin in said
    assert [metric.value for metric in page.metric] == ["1", "3", "0", "1"]


def test_acknowledging_writes_once_and_is_audited(database: Database) -> None:
    page = draw("worklist")
    (button,) = [button for button in page.button if button.label == "Acknowledge"]
    button.click().run()
    (alert,) = rows(database, Alert)
    assert isinstance(alert, Alert)
    assert (alert.state, alert.acknowledged_by) == ("acknowledged", "Dr. Test")
    assert not decisions.acknowledge(database, alert.alert_id, "Somebody Else")
    assert verify(database) == (1, None)
    assert not [button for button in draw("worklist").button if button.label == "Acknowledge"]


def test_without_a_name_nothing_is_decided(database: Database) -> None:
    test = AppTest.from_string("import dashboard.worklist as page\npage.main()\n", default_timeout=30).run()
    next(button for button in test.button if button.label == "Acknowledge").click().run()
    assert "say who you are" in text(test)
    (alert,) = rows(database, Alert)
    assert isinstance(alert, Alert)
    assert alert.state == "open"


def test_a_reading_is_recorded_and_an_earlier_one_kept(database: Database) -> None:
    (alert,) = rows(database, Alert)
    assert isinstance(alert, Alert)
    page = draw("case", alert.image_id)
    assert "94%" in text(page)
    assert "cannot be shown" in text(page), "the store is dead in this test"
    next(button for button in page.button if button.label == "Not present").click().run()
    next(button for button in draw("case", alert.image_id).button if button.label == "Pneumonia").click().run()
    found = rows(database, Review)
    assert [(row.verdict, row.source) for row in found if isinstance(row, Review)] == [
        ("negative", "person"),
        ("positive", "person"),
    ]


def test_the_core_labels_without_seeing_the_models_opinion(database: Database) -> None:
    page = draw("label")
    assert "50%" not in text(page)
    next(button for button in page.button if button.label == "Yes").click().run()
    (label,) = rows(database, Label)
    assert isinstance(label, Label)
    assert (label.case_id, label.label, label.source) == ("case-1", "positive", "expert")
    assert "Nothing to label" in text(draw("label"))


def test_trends_and_operations_draw(database: Database) -> None:
    (alert,) = rows(database, Alert)
    assert isinstance(alert, Alert)
    decisions.review(database, alert.image_id, "positive", "Dr. Test", source="simulated")
    assert "1 of these reviews are simulated" in text(draw("trends"))
    page = draw("operations")
    shown = {metric.label: metric.value for metric in page.metric}
    assert (shown["Pending"], shown["Dead letters"], shown["Shipping backlog"]) == ("0", "1", "1")
    assert "mmmm" in text(page)
    assert rows(database, DeadLetter)
    assert len(rows(database, Image)) == 4


def test_an_empty_or_missing_database_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import streamlit as st

    st.cache_resource.clear()
    monkeypatch.setenv("EDGERAD_DATA_DIR", str(tmp_path / "none"))
    for module in ("worklist", "case", "label", "trends", "operations"):
        test = AppTest.from_string(f"import dashboard.{module} as page\npage.main()\n", default_timeout=30).run()
        assert not test.exception
        assert "edgerad up" in test.error[0].value
