"""Names and notes are shown as they are: no picture, link, formula or format comes of them, and nobody is called."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from edgerad import decisions, ledger
from edgerad.records import (
    Alert,
    Assessment,
    CoreCase,
    DeadLetter,
    DeidRecord,
    Image,
    Model,
    Rollout,
    Shipment,
    SiteCalibration,
    TrainingRun,
    now,
)
from tests.conftest import CHROMIUM_FLAGS
from tests.dashboard.conftest import Edge
from tests.dashboard.test_quarantine import waits

HOSTILE = (
    "![zq](http://img.example/zq.png) [zq](http://link.example/) :red[zq] :small[zq] $zq$ <b>zq</b> **zq** _zq_ `zq` "
    "www.zq.example http://zq.example zq@zq.example :smile: :material/zq: :streamlit: a -> b -- c <-> d ~~zq~~ "
    "<!-- zq --> &amp; \\*zq # 1. zq"
)
"""Lower case and without ^ and =, which mean something in a patient's name; `zq` is nowhere else on the pages."""
SHORT = "**zq** [zq](http://e.example) :red[zq] www.zq.example"
"""The same for fields of 64 characters."""
TINY = "*zq* :red[zq] `zq` www.zq.example"
TEXTS = """() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  for (let node = walker.nextNode(); node; node = walker.nextNode())
    if (/zq|smile|streamlit:/.test(node.data) && node.parentElement.tagName !== "STYLE") found.push(node.data);
  return found;
}"""
ELEMENTS = """() => [...document.querySelectorAll("img, a, [class*=katex], [data-testid=stIconMaterial]")]
  .filter(element => !element.closest(".st-key-viewer, [data-testid=stSidebarNav], [data-testid=stHeader], button"))
  .map(element => element.outerHTML.slice(0, 200))
  .filter(code => !/^<a [^>]*href="#/.test(code))"""
"""What has no business on a page outside of the viewer, the navigation and the headings' own anchors."""


def poison(edge: Edge) -> None:
    """Put hostile text wherever a sender, a person or another machine can put text."""
    header = {
        "PatientName": f"Doe^{HOSTILE}", "PatientID": HOSTILE, "PatientSex": HOSTILE, "Modality": HOSTILE,
        "ViewPosition": HOSTILE, "StudyDate": HOSTILE, "AccessionNumber": HOSTILE,
    }  # fmt: skip
    decisions.review(edge.database, edge.alarming, "negative", SHORT, HOSTILE)
    waits(edge, "not-verified", [[10, 12, 90, 30]])
    ledger.report(edge.database, "shipper", {"trouble": HOSTILE})
    with edge.database.write() as session:
        session.execute(update(Image).values(header=header))
        session.execute(update(Image).where(Image.state == "quarantined").values(reason=SHORT))
        session.execute(update(DeadLetter).values(detail=HOSTILE[:500], reason=SHORT))
        session.execute(update(Assessment).values(finding=SHORT))
        session.execute(update(CoreCase).values(finding=SHORT, edge_id=TINY[:32]))
        record = DeidRecord(
            deid_record_id="r2",
            image_id=edge.images[2].image_id,
            verified=False,
            detail={"detail": HOSTILE, "boxes": []},
        )
        session.add(record)
        session.flush()
        session.execute(update(Shipment).values(deid_record_id="r2", reason=SHORT))
        session.add(Rollout(edge_id=TINY[:32], finding=SHORT, model_digest="a", state="serving", reason=HOSTILE))
        session.add(Model(model_digest="a", finding=SHORT, state="rejected", uri="u", reason=HOSTILE))
        session.add(
            SiteCalibration(
                edge_id="e", finding="f", model_digest="a", version=SHORT, readings=1, decided_by=SHORT, reason=HOSTILE
            )
        )
        session.add(
            TrainingRun(
                training_run_id="t", finding="f", state="failed", parent_digest="p", cases=1, last_label_id=1,
                owner="o", error=HOSTILE, finished_at=now() + timedelta(seconds=3),
            )
        )  # fmt: skip


def shown_plainly(page: Any, *cut: str) -> int:
    """Check that every text with hostile parts holds them whole and unchanged, or as `cut`; return how many."""
    texts = [re.sub(r"\s+", " ", text.replace("\u2060", "")) for text in page.evaluate(TEXTS)]
    whole = (HOSTILE, HOSTILE[:500], SHORT, TINY[:32], *cut)
    for text in texts:
        assert any(part in text for part in whole), text
    assert page.evaluate(ELEMENTS) == []
    return len(texts)


@pytest.mark.real
def test_no_page_makes_anything_of_names_and_notes_and_none_calls_outside(
    edge: Edge, address: str, chromium: str, tmp_path: Path
) -> None:
    from playwright.sync_api import expect, sync_playwright

    poison(edge)
    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda stream: asked.append(stream.url))
        blocked: list[str] = []
        page.on("console", lambda message: blocked.append(message.text) if "Security Policy" in message.text else None)

        def visit(path: str, drawn: str) -> None:
            page.goto(address + path)
            expect(page.locator(drawn).first).to_be_visible(timeout=90_000)
            expect(page.get_by_text("Not a medical device.")).to_be_visible(timeout=60_000)
            name = page.get_by_label("Your name")
            name.fill(SHORT)
            name.press("Enter")
            page.wait_for_timeout(1500)
            page.screenshot(path=str(tmp_path / f"{path.strip('/').partition('?')[0] or 'worklist'}.png"))

        visit("/", ".st-key-refused")
        assert shown_plainly(page) >= 12
        page.locator(f".st-key-row-open-{edge.alarming}").get_by_role("button", name="Acknowledge").click()
        done = page.locator(f".st-key-row-done-{edge.alarming}")
        expect(done).to_contain_text("zq", timeout=30_000)
        done.get_by_role("button", name="Undo").click()
        shown_plainly(page)
        case = f"/case?image={edge.alarming}"
        visit(case, ".st-key-viewer img")
        assert shown_plainly(page) >= 8
        page.get_by_role("button", name="Unsure").click()
        expect(page.get_by_text("read as unsure")).to_be_visible(timeout=30_000)
        shown_plainly(page)
        page.get_by_role("button", name="Undo the acknowledgement").click()
        page.get_by_label("Reason for undoing it").fill(HOSTILE)
        page.get_by_role("button", name="Open the alert again").click()
        expect(page.get_by_text("acknowledgement withdrawn by")).to_be_visible(timeout=30_000)
        expect(page.get_by_text("Nobody has acknowledged it.")).to_be_visible()
        shown_plainly(page)
        visit(f"/case?image={edge.images[3].image_id}", ".er-history")
        assert shown_plainly(page) >= 5
        visit("/label", ".st-key-viewer img")
        assert shown_plainly(page) >= 1
        visit("/trends", "[data-testid=stVegaLiteChart]")
        shown_plainly(page)
        visit("/quarantine", ".st-key-viewer img")
        assert shown_plainly(page) >= 4
        page.get_by_role("combobox").last.click()
        page.wait_for_timeout(1000)
        shown_plainly(page)
        visit("/operations", ".er-table")
        assert shown_plainly(page, f"trouble {HOSTILE[:12]}") >= 6
        browser.close()
    own = (address, address.replace("http", "ws", 1), "data:", "blob:")
    assert len(asked) > 50
    assert [url for url in asked if not url.startswith(own)] == []
    assert blocked == [], "the rules of launch.py forbid nothing that the pages need"
    with edge.database.read() as session:
        assert session.scalars(select(Alert.state)).one() == "open"
