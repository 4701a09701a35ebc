"""Every page draws over a seeded database, and its buttons write what they say."""

import re
from pathlib import Path

import pytest
from sqlalchemy import select, update
from streamlit.testing.v1 import AppTest

from edgerad import decisions, ledger
from edgerad.audit import verify
from edgerad.database import Database
from edgerad.records import Alert, Assessment, CoreCase, Image, Label, Record, Review, SiteCalibration
from tests.dashboard.conftest import Edge

PAGES = ("worklist", "case", "label", "trends", "operations")


def rows(database: Database, table: type[Record]) -> list[Record]:
    """Return all rows of a table."""
    with database.read() as session:
        return list(session.scalars(select(table)))


def draw(module: str, image_id: str = "", person: str = "Dr. Test") -> AppTest:
    """Draw one page by itself, as the app does, with a name in the sidebar."""
    test = AppTest.from_string(f"import dashboard.{module} as page\npage.main()\n", default_timeout=60)
    test.session_state["person"] = person
    if image_id:
        test.session_state["image_id"] = image_id
    test.run()
    assert not test.exception
    return test


def text(test: AppTest) -> str:
    """Return all that a page says."""
    said = [str(element.value) for element in (*test.markdown, *test.caption, *test.info, *test.warning, *test.error)]
    return " ".join([*said, *(element.proto.body for element in test.get("html"))])


def press(test: AppTest, label: str) -> AppTest:
    """Press the one button of that name."""
    (button,) = [button for button in test.button if button.label == label]
    button.click().run()
    assert not test.exception
    return test


def test_the_worklist_shows_the_open_alert_first_with_the_origin_of_its_risk(edge: Edge) -> None:
    page = draw("worklist")
    said = text(page)
    assert said.index("94%") < min(said.index("50%"), said.index("3%<"))
    assert "Doe, Jane" in said
    assert "4711 · 7 y" in said
    assert "DX PA · 2026-03-01 14:15" in said
    assert said.count("mmmmmmmmmmmm") == said.count("cal-7") == said.count("thr-9") == 3
    assert "truncated" in said
    assert [metric.value for metric in page.metric] == ["1", "3", "0", "1"]


def test_what_is_not_assessable_shows_whose_it_is_why_and_what_to_do(edge: Edge) -> None:
    said = text(draw("worklist"))
    assert "Roe, Ann" in said
    assert "truncated · cut" in said
    assert "Send it again" in said
    case = text(draw("case", edge.images[3].image_id))
    assert "Roe, Ann" in case
    assert "Not scored: truncated \\(cut\\). The data end too early. Send it again" in case
    assert "Read the image as usual." in case


def test_names_from_files_and_comments_are_never_markup(edge: Edge) -> None:
    evil = '<img src=x onerror="alert(1)">'
    with edge.database.write() as session:
        image = session.get(Image, edge.alarming)
        assert image is not None
        image.header = {"PatientName": f"Doe^{evil}", "PatientID": evil, "Modality": evil}
    decisions.review(edge.database, edge.alarming, "negative", "Dr. Test", evil)
    for page in (draw("worklist"), draw("case", edge.alarming)):
        assert "<img" not in text(page)
        assert "&lt;img" in text(page)


def test_acknowledging_writes_once_and_is_audited(edge: Edge) -> None:
    press(draw("worklist"), "Acknowledge")
    (alert,) = rows(edge.database, Alert)
    assert isinstance(alert, Alert)
    assert (alert.state, alert.acknowledged_by) == ("acknowledged", "Dr. Test")
    assert verify(edge.database) == (1, None)
    page = draw("worklist")
    assert not [button for button in page.button if button.label == "Acknowledge"]
    assert page.metric[0].value == "0"


@pytest.mark.parametrize("module", ["worklist", "case"])
def test_without_a_name_nothing_is_decided(edge: Edge, module: str) -> None:
    page = press(draw(module, edge.alarming, person="  "), "Acknowledge")
    assert "Say who you are" in text(page)
    (alert,) = rows(edge.database, Alert)
    assert isinstance(alert, Alert)
    assert alert.state == "open"


def test_the_worklist_can_be_narrowed(edge: Edge) -> None:
    page = draw("worklist")
    page.button_group[0].set_value(["low"]).run()
    assert "3%<" in text(page)
    assert "94%" not in text(page)
    decisions.review(edge.database, edge.images[2].image_id, "negative", "Dr. Test")
    page = draw("worklist")
    page.toggle[0].set_value(True).run()
    assert "94%" in text(page)
    assert "50%" not in text(page), "it was read"


def test_the_case_shows_the_image_and_windows_it(edge: Edge) -> None:
    page = draw("case", edge.alarming)
    said = text(page)
    assert "94%" in said
    assert "model mmmmmmmmmmmm · calibration cal-7 · thresholds thr-9" in said
    assert "cannot be shown" not in said
    assert len(page.get("image")) == 1
    first = page.get("image")[0].proto.imgs[0].url
    page.slider[0].set_value(page.slider[0].max).run()
    assert not page.exception
    assert page.get("image")[0].proto.imgs[0].url != first, "another level, another picture"
    page.slider[2].set_value(2.0).run()
    assert [slider.label for slider in page.slider] == ["Level", "Window", "Zoom", "Across", "Down"]


def test_the_evidence_is_tinted_in_only_when_a_reader_asks_and_never_without_the_caveat(edge: Edge) -> None:
    page = draw("case", edge.alarming)
    grey = page.get("image")[0].proto.imgs[0].url
    assert "not why" not in text(page)
    assert [toggle.label for toggle in page.toggle] == ["Invert", "Evidence"]
    page.toggle[1].set_value(True).run()
    assert not page.exception
    tinted = page.get("image")[0].proto.imgs[0].url
    assert tinted != grey
    assert "where in the image the model found evidence, not why" in text(page)
    (opacity,) = (slider for slider in page.slider if slider.label == "Opacity")
    opacity.set_value(0.9).run()
    assert page.get("image")[0].proto.imgs[0].url not in (grey, tinted)
    page.toggle[1].set_value(False).run()
    assert page.get("image")[0].proto.imgs[0].url == grey


def test_an_assessment_without_a_map_offers_no_evidence(edge: Edge) -> None:
    with edge.database.write() as session:
        session.execute(update(Assessment).values(activation=None))
    assert [toggle.label for toggle in draw("case", edge.alarming).toggle] == ["Invert"]


def test_a_dead_store_or_a_gone_object_is_said(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    with edge.database.write() as session:
        image = session.get(Image, edge.alarming)
        assert image is not None
        image.key = "gone"
    page = draw("case", edge.alarming)
    assert "The image cannot be shown" in text(page)
    assert "94%" in text(page), "all else stays"


def test_readings_confirm_or_overrule_and_are_all_kept(edge: Edge) -> None:
    page = draw("case", edge.alarming)
    page.text_input[0].set_value("old film").run()
    press(page, "Overrule: no pneumonia")
    assert page.text_input[0].value == "", "the comment does not go along with the next reading"
    press(page, "Confirm pneumonia")
    found = [row for row in rows(edge.database, Review) if isinstance(row, Review)]
    assert [(row.verdict, row.source, row.comment) for row in found] == [
        ("negative", "person", "old film"),
        ("positive", "person", ""),
    ]
    said = text(draw("case", edge.alarming))
    assert "read as negative by Dr. Test: old film" in said
    assert "read as positive by Dr. Test" in said


def test_the_core_labels_without_seeing_the_models_opinion(edge: Edge) -> None:
    page = draw("label")
    shown = re.sub(r"<style>.*?</style>", "", text(page), flags=re.DOTALL)
    assert "waits for a label" in shown
    for opinion in ("50", "%", "0.5", "uncertain", "unknown", "random", "risk", "model"):
        assert opinion not in shown
    assert len(page.get("image")) == 1
    press(page, "Yes")
    (label,) = rows(edge.database, Label)
    assert isinstance(label, Label)
    assert (label.case_id, label.label, label.labeller, label.source) == ("case-1", "positive", "Dr. Test", "expert")
    assert "Nothing to label" in text(draw("label"))


def test_a_key_pressed_in_error_is_put_right_by_going_back(edge: Edge) -> None:
    add_case(edge, "case-2", 0.45)
    page = draw("label")
    press(page, "Yes")
    press(page, "No")
    assert "Nothing to label" in text(page)
    press(page, "Back to the case before")
    assert "The newest label counts" in text(page)
    press(page, "Back to the case before")
    assert not [button for button in page.button if button.label.startswith("Back")], "that was the first one"
    press(page, "Cannot tell")
    labels = [(row.case_id, row.label) for row in rows(edge.database, Label) if isinstance(row, Label)]
    assert labels == [("case-1", "positive"), ("case-2", "negative"), ("case-1", "unsure")], "none is overwritten"
    assert "Nothing to label" in text(page)


def test_without_a_name_no_label_is_written(edge: Edge) -> None:
    page = press(draw("label", person=""), "Yes")
    assert "Say who you are" in text(page)
    assert rows(edge.database, Label) == []


def add_case(edge: Edge, case_id: str, probability: float) -> None:
    """Let one more case wait for a label, with the picture of the first."""
    with edge.database.write() as session:
        first = session.get_one(CoreCase, "case-1")
        values = {column.name: getattr(first, column.name) for column in CoreCase.__table__.columns}
        session.add(CoreCase(**{**values, "case_id": case_id, "probability": probability}))


def test_trends_name_simulated_reviews_and_models(edge: Edge) -> None:
    assert "No reviews in this span" in text(draw("trends"))
    decisions.review(edge.database, edge.alarming, "positive", "Dr. Test", source="simulated")
    decisions.review(edge.database, edge.images[0].image_id, "positive", "Dr. Test")
    decisions.review(edge.database, edge.images[2].image_id, "unsure", "Dr. Test")
    page = draw("trends")
    said = text(page)
    assert "1 of these 2 reviews are simulated" in said
    assert "50.0%  (9.5% to 90.5%), 1 of 2" in said
    assert "no cases" in said, "no negative was reviewed, so there is no specificity"
    assert len(page.get("vega_lite_chart")) == 6


def test_operations_tell_what_waits_and_what_serves(edge: Edge) -> None:
    page = draw("operations")
    shown = {metric.label: metric.value for metric in page.metric}
    assert shown == {
        "Ingest lag": "7", "Pending": "0", "Replicas": "2", "Shipping backlog": "1", "Dead letters": "1",
        "Outbox": "3", "Open alerts": "1", "Drift": "–",
    }  # fmt: skip
    assert "50 more images needed" in text(page)
    said = text(page)
    assert "Model mmmmmmmmmmmmmmmm for pneumonia at edge, serving since" in said
    assert "truncated" in said
    assert "ingest-0" in said


def test_operations_tell_drift_and_the_sites_calibrations(edge: Edge) -> None:
    with edge.database.write() as session:
        for number in range(60):
            session.add(
                Image(image_id=f"n{number}", bucket="x", key="k", source="t", state="assessed", header={}),
            )
            session.flush()
            session.add(
                Assessment(
                    assessment_id=f"n{number}", image_id=f"n{number}", finding="pneumonia", probability=0.5, logit=0.0,
                    triage="unknown", model_digest="m" * 64, calibration_version="c", threshold_version="t",
                    runtime="litert", seconds=0.0, novelty=0.97,
                )
            )  # fmt: skip
        session.add(
            SiteCalibration(
                edge_id="edge", finding="pneumonia", model_digest="m" * 64, version="edge/3", a=1.25, b=-0.5,
                readings=140, figures={}, decided_by="person:Dr. P", reason="forced by hand",
            )
        )  # fmt: skip
    page = draw("operations")
    assert {metric.label: metric.value for metric in page.metric}["Drift"] == "0.97"
    said = text(page)
    assert "unlike the training images" in said
    for shown in ("edge/3", "1.25", "-0.50", "140", "person:Dr. P"):
        assert shown in said


def test_operations_tell_that_no_model_or_another_one_serves(edge: Edge) -> None:
    ledger.report(edge.database, "rollout", {"replicas": 1, "model": "a" * 64, "trouble": None})
    page = draw("operations")
    assert (len(page.error), len(page.warning)) == (0, 0)
    ledger.report(edge.database, "rollout", {"replicas": 1, "model": "a" * 64, "trouble": "bundle bbbb is *damaged*"})
    page = draw("operations")
    assert [r"bundle bbbb is \*damaged\*" in warning.value for warning in page.warning] == [True]
    ledger.report(edge.database, "rollout", {"replicas": 0, "model": None, "trouble": "bundle bbbb is missing"})
    page = draw("operations")
    assert ["bundle bbbb is missing" in error.value for error in page.error] == [True]


def test_operations_warn_of_a_shipping_backlog_and_name_what_hinders_it(edge: Edge) -> None:
    assert "Shipping" not in text(draw("operations")).replace("Shipping backlog", "")
    ledger.report(edge.database, "shipper", {"sealed": 3, "over_limit": 0, "trouble": "StoreFull"})
    assert "Shipping waits. Cause: StoreFull." in text(draw("operations"))
    ledger.report(edge.database, "shipper", {"sealed": 3, "over_limit": 1, "trouble": "ClockSkewed"})
    assert "Shipping is behind" in (warning := draw("operations").warning[0].value)
    assert "ClockSkewed" in warning


@pytest.mark.parametrize("module", PAGES)
def test_an_empty_or_missing_database_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    import streamlit as st

    st.cache_resource.clear()
    monkeypatch.setenv("EDGERAD_DATA_DIR", str(tmp_path / "none"))
    assert "edgerad up" in draw(module).error[0].value
    st.cache_resource.clear()
    monkeypatch.setenv("EDGERAD_DATA_DIR", str(tmp_path / "empty"))
    Database(f"sqlite:///{tmp_path / 'empty' / 'edgerad.db'}").upgrade()
    page = draw(module)
    assert not page.error


def test_an_unknown_image_is_said(edge: Edge) -> None:
    assert "no such image" in text(draw("case", "0" * 32))
    assert "Open a case from the worklist" in text(draw("case"))
