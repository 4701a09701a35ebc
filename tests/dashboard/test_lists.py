"""Every list is read to its end, says where one is in it, and keeps that place."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from streamlit.testing.v1 import AppTest

from dashboard import parts
from edgerad import decisions, ledger
from edgerad.ledger import NewImage, ShipPolicy
from edgerad.records import Alert, AlertEvent, CoreCase, Rollout, Shipment, TrainingRun, now
from edgerad.scoring import Outcome, Refused, Scored
from tests.conftest import CHROMIUM_FLAGS
from tests.dashboard.conftest import HEADER, Edge
from tests.dashboard.test_pages import add_case, draw, press, text
from tests.dashboard.test_quarantine import waits


def refuse(edge: Edge, count: int) -> list[str]:
    """Refuse images one after the other; return the names as the page shows them, the newest first."""
    images = [NewImage("xray", f"bad-{n}", f"{n:032x}", None, 1, None, "kafka") for n in range(count)]
    ledger.register(edge.database, images)
    for number, image in enumerate(images):
        header = {"PatientName": f"Roe^No{number}", "StudyDate": "20260301", "Modality": "DX"}
        refused: list[Outcome] = [Refused(image.image_id, "corrupt", "broken", header=header)]
        ledger.record(edge.database, refused, {}, ShipPolicy(False, 0.0), "t")
    return [f"Roe, No{number}" for number in reversed(range(count))]


def score(edge: Edge, count: int, triage: str = "low") -> None:
    """Score images, of which the shipment waits in quarantine where the triage is unknown."""
    images = [NewImage("xray", f"{triage}-{n}", f"{triage}{n:026x}", None, 1, None, "kafka") for n in range(count)]
    ledger.register(edge.database, images)
    outcomes: list[Outcome] = [
        Scored(i.image_id, "pneumonia", 0.5, 0.0, triage, "m" * 64, "c", "t", "litert", 0.1, HEADER)  # type: ignore[arg-type]
        for i in images
    ]
    ledger.record(edge.database, outcomes, {}, ShipPolicy(True, 0.0), "t")


def opened(test: AppTest, prefix: str) -> list[str]:
    """Return the keys of the buttons that open what is listed."""
    return [button.key for button in test.button if button.key and button.key.startswith(prefix)]


def turn(test: AppTest, name: str, way: str) -> AppTest:
    """Press Previous or Next of a list."""
    test.button(key=f"{name}-{way}").click().run()
    assert not test.exception
    return test


@pytest.mark.real
def test_a_hundred_and_more_refused_images_are_reached_by_hand(
    edge: Edge, address: str, chromium: str, tmp_path: Path
) -> None:
    from playwright.sync_api import expect, sync_playwright

    names = [*refuse(edge, 130), "Roe, Ann"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(address)
        rows, pager = page.locator(".st-key-refused"), page.locator(".st-key-pager-refused")
        seen = []
        for first in range(1, 132, 25):
            last = min(first + 24, 131)
            expect(pager).to_contain_text(f"{first} to {last} of 131", timeout=60_000)
            expect(rows.locator(".er-name")).to_have_count(last - first + 1)
            expect(rows.locator(".er-name").first).to_have_text(names[first - 1])
            seen += rows.locator(".er-name").all_inner_texts()
            assert rows.get_by_text("DX · 2026-03-01").count() >= last - first, "the study is named as well"
            if last < 131:
                pager.get_by_role("button", name="Next").click()
        assert seen == names
        expect(pager.get_by_role("button", name="Next")).to_be_disabled()
        page.screenshot(path=str(tmp_path / "refused.png"))
        pager.get_by_role("button", name="Previous").click()
        expect(pager).to_contain_text("101 to 125 of 131", timeout=30_000)
        rows.get_by_role("button", name="Open").first.click()
        expect(page.get_by_text("Not scored: corrupt (broken).")).to_be_visible(timeout=30_000)
        expect(page.get_by_text(names[100])).to_be_visible()
        page.get_by_role("link", name="Worklist").click()
        expect(pager).to_contain_text("101 to 125 of 131", timeout=30_000)
        expect(page.get_by_test_id("stException")).to_have_count(0)
        browser.close()


def test_the_worklist_is_turned_page_by_page_and_starts_anew_when_it_is_narrowed(edge: Edge) -> None:
    score(edge, 57)
    page = draw("worklist")
    pages = [opened(page, "open-")[: parts.PAGE]]
    assert "1 to 25 of 60" in text(page)
    assert page.button(key="worklist-previous").disabled
    for said in ("26 to 50 of 60", "51 to 60 of 60"):
        turn(page, "worklist", "next")
        assert said in text(page)
        pages.append(opened(page, "open-")[:-1])  # the last is the refused one
    assert page.button(key="worklist-next").disabled
    assert len({key for part in pages for key in part}) == 60
    turn(page, "worklist", "previous")
    assert "26 to 50 of 60" in text(page)
    page.button_group[0].set_value(["low"]).run()
    assert "1 to 25 of 58" in text(page)


def test_a_list_that_became_shorter_shows_its_last_page(edge: Edge) -> None:
    page = draw("worklist")
    page.session_state["start-worklist"] = 75
    page.run()
    assert "94%" in text(page)


def test_more_than_a_page_in_quarantine_can_all_be_chosen(edge: Edge) -> None:
    waits(edge, "not-verified")
    score(edge, 30, "unknown")
    with edge.database.write() as session:
        for number, row in enumerate(session.scalars(select(Shipment).order_by(Shipment.shipment_id))):
            row.state, row.reason = "quarantined", "not-verified"
            row.closed_at = now() - timedelta(minutes=number)
    page = draw("quarantine")
    assert page.selectbox[0].label == "31 waiting, the oldest first"
    assert "1 to 25 of 31" in text(page)
    first = set(page.selectbox[0].options)
    turn(page, "quarantine", "next")
    assert "26 to 31 of 31" in text(page)
    assert len(first | set(page.selectbox[0].options)) == 31
    press(page, "Keep here for good")
    assert "26 to 30 of 30" in text(page), "the next one follows on the same page"


def test_tables_of_operations_are_read_to_their_end(edge: Edge) -> None:
    with edge.database.write() as session:
        for number in range(23):
            session.add(Rollout(edge_id="edge", finding="pneumonia", model_digest=f"{number:064}", state="refused"))
            session.add(
                TrainingRun(
                    training_run_id=f"run-{number}", finding="pneumonia", state="failed", parent_digest="p",
                    cases=number, last_label_id=1, owner="o", started_at=now() - timedelta(days=number),
                )
            )  # fmt: skip
    page = draw("operations")
    assert "1 to 10 of 24" in text(page)
    turn(page, "rollout", "next")
    turn(page, "rollout", "next")
    assert "21 to 24 of 24" in text(page)
    assert "1 to 10 of 23" in text(page), "each table has its own place"
    turn(page, "training_run", "next")
    assert "11 to 20 of 23" in text(page)
    assert "21 to 24 of 24" in text(page)


def test_the_queue_of_cases_to_label_can_be_looked_through(edge: Edge) -> None:
    add_case(edge, "case-2", 0.45)
    add_case(edge, "case-3", 0.4)
    page = draw("label")
    assert "1 to 1 of 3" in text(page)
    turn(page, "label", "next")
    turn(page, "label", "next")
    assert opened(page, "case-3-")
    press(page, "Yes")
    assert opened(page, "case-2-"), "the last one was labelled, so the one before is shown"
    turn(page, "label", "previous")
    assert opened(page, "case-1-")
    with edge.database.read() as session:
        assert len(list(session.scalars(select(CoreCase)))) == 3


def test_a_long_history_is_read_to_its_end(edge: Edge) -> None:
    with edge.database.write() as session:
        alert = session.scalars(select(Alert)).one()
        for number in range(60):
            session.add(
                AlertEvent(
                    alert_id=alert.alert_id, kind="failed", channel="webhook", detail=f"status {number}",
                    at=now() + timedelta(seconds=number),
                )
            )  # fmt: skip
    page, name = draw("case", edge.alarming), f"history-{edge.alarming}"
    seen = re.findall(r"status \d+", text(page))
    for _ in range(2):
        seen += re.findall(r"status \d+", text(turn(page, name, "next")))
    assert seen == [f"status {number}" for number in reversed(range(60))]
    assert "alert opened" in text(page)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("Doe^Jane", "Doe, Jane"),
        ("Doe^Jane^M^Dr^Jr", "Doe, Jane M Dr Jr"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou"),
        ("=山田^太郎", "山田, 太郎"),
        ("=山田^太郎=やまだ^たろう", "山田, 太郎"),
        ("=^=やまだ^たろう", "やまだ, たろう"),
        ("^^^= ^ =やまだ", "やまだ"),
        ("==^たろう", "たろう"),
        ("^Jane", "Jane"),
        (" Doe ^ Jane ", "Doe, Jane"),
        ("^^^^", ""),
        ("==", ""),
        ("", ""),
    ],
)
def test_the_first_group_of_a_name_that_holds_one_is_shown(value: str, shown: str) -> None:
    assert parts.name(value) == shown
    assert parts.who({"PatientName": value}, "0123456789")[0] == (shown or "Image 01234567")


@pytest.mark.parametrize(
    ("level", "said"),
    [
        (0, "open for 5 min"),
        (1, "open for 5 min, escalated once"),
        (2, "open for 5 min, escalated twice"),
        (7, "open for 5 min, escalated 7 times"),
    ],
)
def test_an_alert_says_how_long_it_is_open(level: int, said: str) -> None:
    assert parts.open_for(now() - timedelta(minutes=5, seconds=2), level) == said


def test_an_acknowledgement_is_undone_on_the_case_page_with_a_reason(edge: Edge) -> None:
    page = press(draw("case", edge.alarming), "Acknowledge")
    assert page.success[0].value.startswith("Alert acknowledged by Dr\\. Test, ")
    press(page, "Open the alert again")
    assert "Say why you withdraw" in text(page)
    (reason,) = [field for field in page.text_input if field.label == "Reason for undoing it"]
    reason.set_value("Doe, Jane: wrong patient").run()
    press(page, "Open the alert again")
    said = text(page)
    assert "Nobody has acknowledged it." in said
    assert "acknowledged by Dr. Test" in said
    assert "acknowledgement withdrawn by Dr. Test: Doe, Jane: wrong patient" in said
    with edge.database.read() as session:
        assert session.scalars(select(Alert.state)).one() == "open"


def test_the_worklist_offers_to_undo_to_whoever_acknowledged(edge: Edge) -> None:
    page = press(draw("worklist"), "Acknowledge")
    assert len(opened(page, "withdraw-")) == 1
    assert opened(draw("worklist", person="Dr. Other"), "withdraw-") == []
    page.text_input[0].set_value("wrong row").run()
    press(page, "Open the alert again")
    assert page.metric[0].value == "1"


def test_who_undoes_what_somebody_else_changed_is_told_and_changes_nothing(edge: Edge) -> None:
    page = press(draw("case", edge.alarming), "Acknowledge")
    with edge.database.read() as session:
        alert = session.scalars(select(Alert)).one()
    decisions.withdraw_acknowledgement(edge.database, alert.alert_id, "Dr. Other", "not mine")
    decisions.acknowledge(edge.database, alert.alert_id, "Dr. Third")
    (reason,) = [field for field in page.text_input if field.label == "Reason for undoing it"]
    reason.set_value("wrong")
    press(page, "Open the alert again")
    with edge.database.read() as session:
        assert session.scalars(select(Alert.acknowledged_by)).one() == "Dr. Third"
