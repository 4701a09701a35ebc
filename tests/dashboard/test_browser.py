"""Paths in a real browser: acknowledge and confirm; label by single keys; draw a box on a quarantined image."""

from pathlib import Path

import pytest
from sqlalchemy import select

from edgerad.records import Alert, Audit, CoreCase, Label, Review, Shipment
from tests.conftest import CHROMIUM_FLAGS
from tests.dashboard.conftest import Edge
from tests.dashboard.test_quarantine import waits


@pytest.mark.real
def test_a_person_acknowledges_opens_and_confirms(edge: Edge, address: str, chromium: str, tmp_path: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(address)
        row = page.locator(f".st-key-row-open-{edge.alarming}")
        expect(row).to_contain_text("94%", timeout=60_000)
        name = page.get_by_label("Your name")
        name.fill("Dr. Browser")
        name.press("Enter")
        row.get_by_role("button", name="Acknowledge").click()
        done = page.locator(f".st-key-row-done-{edge.alarming}")
        expect(done).to_contain_text("acknowledged", timeout=30_000)
        expect(page.get_by_role("button", name="Acknowledge")).to_have_count(0)
        done.get_by_role("button", name="Open").click()
        expect(page.locator(".st-key-viewer img")).to_be_visible(timeout=30_000)
        assert page.url.endswith(f"/case?image={edge.alarming}")
        page.get_by_role("button", name="Confirm pneumonia").click()
        expect(page.get_by_text("read as positive by Dr. Browser")).to_be_visible(timeout=30_000)
        picture = tmp_path / "case.png"
        page.screenshot(path=str(picture))
        expect(page.get_by_test_id("stException")).to_have_count(0)
        size = page.locator(".st-key-viewer img").evaluate("image => [image.naturalWidth, image.naturalHeight]")
        browser.close()
    assert max(size) == 256
    assert picture.stat().st_size > 20_000
    with edge.database.read() as session:
        alert = session.scalars(select(Alert)).one()
        review = session.scalars(select(Review)).one()
    assert (alert.state, alert.acknowledged_by) == ("acknowledged", "Dr. Browser")
    assert (review.image_id, review.verdict, review.reviewer) == (edge.alarming, "positive", "Dr. Browser")


@pytest.mark.real
def test_an_expert_labels_by_keys_and_typing_a_name_labels_nothing(
    edge: Edge, address: str, chromium: str, tmp_path: Path
) -> None:
    from playwright.sync_api import expect, sync_playwright

    with edge.database.write() as session:
        first = session.get_one(CoreCase, "case-1")
        values = {column.name: getattr(first, column.name) for column in CoreCase.__table__.columns}
        session.add(CoreCase(**{**values, "case_id": "case-2", "probability": 0.45}))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"{address}/label")
        expect(page.locator(".st-key-viewer img")).to_be_visible(timeout=60_000)
        expect(page.get_by_text("2 cases wait for a label.")).to_be_visible()
        name = page.get_by_label("Your name")
        name.press_sequentially("Dr. Nunyub")
        name.press("Enter")
        page.screenshot(path=str(tmp_path / "label.png"))
        name.blur()
        page.keyboard.press("y")
        expect(page.get_by_text("1 case waits for a label.")).to_be_visible(timeout=30_000)
        expect(page.locator(".st-key-case-2-unsure")).to_be_visible(timeout=30_000)
        page.keyboard.press("u")
        expect(page.get_by_text("Nothing to label.")).to_be_visible(timeout=30_000)
        expect(page.locator(".st-key-label-back").first).to_be_visible(timeout=30_000)
        page.keyboard.press("b")
        expect(page.get_by_text("You have labelled this case before")).to_be_visible(timeout=30_000)
        expect(page.locator(".st-key-case-2-negative")).to_be_visible(timeout=30_000)
        page.keyboard.press("n")
        expect(page.get_by_text("Nothing to label.")).to_be_visible(timeout=30_000)
        expect(page.get_by_test_id("stException")).to_have_count(0)
        browser.close()
    with edge.database.read() as session:
        found = [(row.case_id, row.label, row.labeller) for row in session.scalars(select(Label))]
    assert found == [
        ("case-1", "positive", "Dr. Nunyub"),
        ("case-2", "unsure", "Dr. Nunyub"),
        ("case-2", "negative", "Dr. Nunyub"),
    ]


@pytest.mark.real
@pytest.mark.parametrize("width", [1400, 800])
def test_nothing_covers_anything_on_a_wide_screen_or_a_narrow_one(
    edge: Edge, address: str, chromium: str, width: int
) -> None:
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": width, "height": 1200})
        page.goto(address)
        row = page.locator(f".st-key-row-open-{edge.alarming}")
        expect(row.get_by_role("button", name="Acknowledge")).to_be_visible(timeout=60_000)
        parts = [row.locator(part) for part in (".er-risk", ".er-tag", ".er-name", ".er-late")]
        parts += [row.get_by_role("button", name=name) for name in ("Acknowledge", "Open")]
        boxes = [box for part in parts if (box := part.bounding_box())]
        browser.close()
    assert len(boxes) == len(parts)
    for number, one in enumerate(boxes):
        assert one["x"] + one["width"] <= width, "it is all on the screen"
        for other in boxes[number + 1 :]:
            apart_x = one["x"] + one["width"] <= other["x"] + 1 or other["x"] + other["width"] <= one["x"] + 1
            apart_y = one["y"] + one["height"] <= other["y"] + 1 or other["y"] + other["height"] <= one["y"] + 1
            assert apart_x or apart_y, (one, other)


@pytest.mark.real
def test_a_quarantined_image_is_looked_at_covered_by_dragging_and_released(
    edge: Edge, address: str, chromium: str, tmp_path: Path
) -> None:
    from playwright.sync_api import expect, sync_playwright

    shipment_id = waits(edge, "not-verified", [[10, 12, 90, 30]])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{address}/quarantine")
        chart = page.locator(".st-key-viewer svg image")
        expect(chart).to_be_visible(timeout=90_000)
        name = page.get_by_label("Your name")
        name.fill("Nurse Browser")
        name.press("Enter")
        place, button = chart.bounding_box(), page.get_by_role("button", name="Release").bounding_box()
        assert place is not None
        assert button is not None
        assert place["x"] + place["width"] < button["x"], "the image covers nothing"
        scale = place["width"] / 256  # the phantom's longer side
        page.wait_for_timeout(1000)
        page.mouse.move(place["x"] + 60 * scale, place["y"] + 100 * scale)
        page.mouse.down()
        page.mouse.move(place["x"] + 90 * scale, place["y"] + 110 * scale, steps=4)
        page.mouse.move(place["x"] + 120 * scale, place["y"] + 130 * scale, steps=4)
        page.mouse.up()
        expect(page.get_by_text("Drawn: columns")).to_be_visible(timeout=30_000)
        page.screenshot(path=str(tmp_path / "drawn.png"))
        page.get_by_role("button", name="Add this box").click()
        expect(page.get_by_text("Added 1: columns")).to_be_visible(timeout=30_000)
        page.screenshot(path=str(tmp_path / "added.png"))
        page.get_by_role("button", name="Release").click()
        expect(page.get_by_text("Nothing is in quarantine")).to_be_visible(timeout=30_000)
        expect(page.get_by_test_id("stException")).to_have_count(0)
        browser.close()
    with edge.database.read() as session:
        shipment = session.get_one(Shipment, shipment_id)
        audits = [(row.actor, row.action) for row in session.scalars(select(Audit))]
    assert shipment.release is not None
    kept, drawn = shipment.release["boxes"]
    assert (shipment.state, kept) == ("queued", [10, 12, 90, 30])
    assert all(abs(one - other) <= 2 for one, other in zip(drawn, (60, 100, 120, 130), strict=True)), drawn
    assert audits == [("person:Nurse Browser", "quarantine-released")]


@pytest.mark.real
def test_of_a_quarantined_image_every_part_can_be_reached_in_a_narrow_window(
    edge: Edge, address: str, chromium: str
) -> None:
    from playwright.sync_api import expect, sync_playwright

    waits(edge, "not-verified", [[10, 12, 90, 30]])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 500, "height": 1000})
        page.goto(f"{address}/quarantine")
        chart, viewer = page.locator(".st-key-viewer svg image"), page.locator(".st-key-viewer")
        expect(chart).to_be_visible(timeout=90_000)
        page.wait_for_timeout(1000)
        frame = viewer.bounding_box()
        assert frame is not None
        assert frame["x"] >= 0
        assert frame["x"] + frame["width"] <= 500
        viewer.evaluate("viewer => viewer.scrollLeft = viewer.scrollWidth")
        place = chart.bounding_box()
        assert place is not None
        assert place["x"] + place["width"] <= frame["x"] + frame["width"]
        scale = place["width"] / 256  # the phantom's longer side
        page.mouse.move(place["x"] + 200 * scale, place["y"] + 100 * scale)
        page.mouse.down()
        page.mouse.move(place["x"] + 220 * scale, place["y"] + 110 * scale, steps=4)
        page.mouse.move(place["x"] + 240 * scale, place["y"] + 130 * scale, steps=4)
        page.mouse.up()
        said = page.get_by_text("Drawn: columns")
        expect(said).to_be_visible(timeout=30_000)
        drawn = [int(word.strip(",")) for word in said.inner_text().split() if word.strip(",").isdigit()]
        browser.close()
    assert all(abs(one - other) <= 2 for one, other in zip(drawn, (200, 240, 100, 130), strict=True)), drawn
