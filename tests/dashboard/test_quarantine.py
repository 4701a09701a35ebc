"""The quarantine page: boxes are taken away and added, and the decision that is written is what the page showed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select
from streamlit.testing.v1 import AppTest

from dashboard import quarantine as page_module
from edgerad import quarantine
from edgerad.records import Audit, DeidRecord, Shipment, now
from tests.dashboard.conftest import Edge
from tests.dashboard.test_pages import draw, press, text

BOXES = [[10, 12, 90, 30], [100, 150, 180, 170]]


def waits(edge: Edge, reason: str, boxes: list[list[int]] | None = None, image: int = 2) -> str:
    """Put the shipment of an image into quarantine, as the shipper does; return its id."""
    identity = edge.images[image].image_id
    with edge.database.write() as session:
        shipment = session.scalars(select(Shipment).where(Shipment.image_id == identity)).one()
        detail = {"detail": "a sentence of the engine", "boxes": BOXES if boxes is None else boxes}
        record = DeidRecord(deid_record_id="r1", image_id=identity, verified=False, detail=detail)
        session.add(record)
        session.flush()
        shipment.state, shipment.reason, shipment.closed_at = "quarantined", reason, now()
        shipment.deid_record_id = record.deid_record_id
        return shipment.shipment_id


def decided(edge: Edge) -> tuple[Shipment, list[Audit]]:
    with edge.database.read() as session:
        shipment = session.scalars(select(Shipment)).one()
        return shipment, list(session.scalars(select(Audit)))


def labels(test: AppTest) -> set[str]:
    return {button.label for button in test.button}


def test_an_empty_quarantine_says_so(edge: Edge) -> None:
    assert "Nothing is in quarantine" in text(draw("quarantine"))


def test_the_image_its_reason_and_its_boxes_are_shown(edge: Edge) -> None:
    waits(edge, "engines-disagree")
    page = draw("quarantine")
    said = text(page)
    assert "The two text engines read a patient value differently" in said
    assert "a sentence of the engine" in said
    assert "Doe, Jane" in said
    assert [box.label for box in page.checkbox] == [
        "Box 1, found: columns 10 to 90, rows 12 to 30",
        "Box 2, found: columns 100 to 180, rows 150 to 170",
    ]
    assert {"Level", "Window", "Zoom"} <= {slider.label for slider in page.slider}  # the image is there
    assert labels(page) == {"Release", "Keep here for good"}


def test_boxes_are_taken_away_and_added_and_the_release_is_what_was_shown(edge: Edge) -> None:
    waits(edge, "not-verified")
    page = draw("quarantine")
    page.checkbox[1].uncheck().run()
    page.toggle[0].set_value(True).run()
    across, down = (slider for slider in page.slider if slider.label.startswith("From"))
    across.set_value((20, 60)).run()
    down.set_value((100, 120)).run()
    press(page, "Add this box")
    assert "Added 1: columns 20 to 60, rows 100 to 120" in text(page)
    press(page, "Release")
    shipment, audits = decided(edge)
    assert shipment.state == "queued"
    assert shipment.release == {"boxes": [BOXES[0], [20, 100, 60, 120]], "dismissed": [BOXES[1]]}
    assert [(row.actor, row.action) for row in audits] == [("person:Dr. Test", "quarantine-released")]
    assert "Nothing is in quarantine" in text(page)


def test_the_one_that_was_chosen_stays_chosen_as_time_passes(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    waits(edge, "not-verified")
    page = draw("quarantine")
    offered = page.selectbox[0].options
    monkeypatch.setattr("dashboard.parts.now", lambda: now() + timedelta(hours=2))
    page.run()
    assert page.selectbox[0].options == offered, "a title that changes is another choice"


def test_of_two_alike_each_can_be_chosen(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    waits(edge, "not-verified")
    (case,) = quarantine.waiting(edge.database)
    alike = Shipment(shipment_id="f" * 32, reason="not-verified", closed_at=case.shipment.closed_at)
    monkeypatch.setattr(quarantine, "waiting", lambda *_: [case, replace(case, shipment=alike)])
    first, second = draw("quarantine").selectbox[0].options
    assert first != second
    assert second.endswith(" · ffffffff")


def test_an_added_box_can_be_removed_again(edge: Edge) -> None:
    waits(edge, "not-verified", [])
    page = draw("quarantine")
    assert "none yet" in text(page)
    page.toggle[0].set_value(True).run()
    press(page, "Add this box")
    press(page, "Remove")
    assert "none yet" in text(page)
    press(page, "Release")
    assert decided(edge)[0].release == {"boxes": [], "dismissed": []}


def test_refusing_keeps_the_image_here(edge: Edge) -> None:
    waits(edge, "too-much-text")
    press(draw("quarantine"), "Keep here for good")
    shipment, audits = decided(edge)
    assert (shipment.state, shipment.release) == ("withheld", None)
    assert [row.action for row in audits] == ["quarantine-refused"]


def test_what_cannot_be_settled_by_looking_is_tried_again_and_never_released(edge: Edge) -> None:
    waits(edge, "key-missing", [])
    page = draw("quarantine")
    assert labels(page) == {"Try again", "Keep here for good"}
    assert "ship.site_secret" in text(page)
    press(page, "Try again")
    assert decided(edge)[0].state == "queued"


def test_without_a_name_nothing_is_decided(edge: Edge) -> None:
    waits(edge, "not-verified")
    page = press(draw("quarantine", person=""), "Release")
    assert "say who you are" in text(page).lower()
    assert decided(edge)[0].state == "quarantined"
    assert decided(edge)[1] == []


def test_somebody_who_decided_before_is_told_apart(edge: Edge) -> None:
    identity = waits(edge, "not-verified")
    page = draw("quarantine")
    quarantine.refuse(edge.database, identity, "Dr. Other")
    press(page, "Release")
    assert decided(edge)[0].state == "withheld"


def test_an_image_that_is_gone_can_still_be_kept_here(edge: Edge) -> None:
    waits(edge, "object-gone", [])
    with edge.database.write() as session:
        shipment = session.scalars(select(Shipment)).one()
        image = next(image for image in edge.images if image.image_id == shipment.image_id)
    from edgerad.settings import load_settings
    from edgerad.store import ObjectStore, config_from

    ObjectStore(config_from(load_settings().store)).delete(image.key)
    page_module._fetch.clear()
    page = draw("quarantine")
    assert "cannot be shown" in text(page)
    press(page, "Keep here for good")
    assert decided(edge)[0].state == "withheld"


def test_every_reason_of_the_engine_is_explained() -> None:
    reasons = (Path(page_module.__file__).parents[1] / "ship" / "deidentify.py").read_text(encoding="utf-8")
    import re

    known = re.findall(r'^    [A-Z_]+ = "([a-z-]+)"$', reasons, re.MULTILINE)
    assert len(known) >= 12
    assert set(known) <= set(page_module.REASONS)
    assert set(page_module.REASONS) >= quarantine.LOOKED_AT


@pytest.mark.parametrize("zoom", [1.0, 3.0])
def test_boxes_are_drawn_where_they_lie(zoom: float) -> None:
    """A box that fills the part that is shown has its outline at the part's edges."""
    import cv2

    image = np.zeros((300, 300, 3), np.uint8)
    side = round(300 / zoom)
    start = round((300 - side) * 0.5)
    page_module._outline(image, (start, start, start + side, start + side), (255, 176, 0), zoom)
    shown = page_module._part_of((300, 300), zoom, 0.5, 0.5)
    assert shown == (start, start, start + side, start + side)
    encoded = page_module._encoded(image, shown)
    part = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    assert part is not None
    assert part.shape == (side, side, 3)
    for edge in (part[0], part[-1], part[:, 0], part[:, -1]):
        assert (edge == (0, 176, 255)).all()
    assert not part[side // 2, side // 2].any()


@pytest.mark.parametrize(
    ("selection", "box"),
    [
        ({"x0": [10.2, 40.7], "y0": [30.9, 20.1]}, (10, 20, 41, 31)),
        ({"x0": [-3.0, 400.0], "y0": [5.0, 9.5]}, (0, 5, 300, 10)),
        ({"x0": [10.0, 10.0], "y0": [5.0, 9.5]}, None),
        ({"x0": [10.0, 20.0]}, None),
        ({}, None),
    ],
)
def test_what_is_drawn_is_a_box_of_whole_pixels_within_the_image(
    selection: dict[str, list[float]], box: tuple[int, ...] | None
) -> None:
    assert page_module._whole(selection, (0, 0, 300, 200)) == box
