"""Released by hand: exactly the person's boxes are filled, and nothing leaves that nobody looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from edgerad import quarantine
from edgerad.phantom import random_spec, render, to_dicom
from edgerad.records import DeidRecord, Shipment
from ship import pixels as px
from ship import redaction
from ship.boxes import Box
from ship.deidentify import Clean, Options, Quarantined, Reason, deidentify
from ship.identity import Identity
from ship.keys import SiteKey
from ship.ocr import Line
from ship.redaction import Doubtful
from ship.release import Release, fill_by_hand, release_of
from tests.ship.conftest import World, read_pixels

KEY = SiteKey(bytes(range(32)))
PIXELS = np.random.default_rng(3).integers(0, 4096, (120, 160)).astype(np.uint16)
IDENTITY = Identity(words=frozenset({"Okafor"}))
BOX, OTHER = Box(10, 10, 60, 30), Box(80, 60, 140, 80)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Line]:
    """What the engines read when they look again; a test puts lines into it."""
    lines: list[Line] = []
    monkeypatch.setattr(redaction, "versions", lambda threads=1: ["none"])
    monkeypatch.setattr(redaction, "find_lines", lambda pixels, identity, threads=1, tone=None: list(lines))
    return lines


def test_exactly_the_persons_boxes_are_filled(read: list[Line]) -> None:
    done = fill_by_hand(PIXELS, IDENTITY, Release((BOX, Box(150, 110, 400, 300), BOX)))
    assert done.boxes == (BOX, Box(150, 110, 160, 120))
    assert px.proven(PIXELS, done.pixels, done.boxes)
    assert not np.array_equal(PIXELS, done.pixels)


def test_text_that_nobody_covered_or_looked_at_comes_back(read: list[Line]) -> None:
    read.append(Line(OTHER, "SOME TEXT", 0.9, "v6"))
    with pytest.raises(Doubtful) as caught:
        fill_by_hand(PIXELS, IDENTITY, Release((BOX,)))
    assert caught.value.why == "text-left"
    assert BOX in caught.value.boxes
    assert any(OTHER.overlaps(box) for box in caught.value.boxes if box != BOX)


def test_what_the_person_says_holds_no_text_is_left_as_it_is(read: list[Line]) -> None:
    read.append(Line(OTHER, "SOME TEXT", 0.9, "v6"))
    done = fill_by_hand(PIXELS, IDENTITY, Release((BOX,), (OTHER,)))
    assert np.array_equal(done.pixels[OTHER.slices], PIXELS[OTHER.slices])


def test_a_value_of_the_patient_cannot_be_dismissed(read: list[Line]) -> None:
    read.append(Line(OTHER, "0KAF0R", 0.6, "v6"))
    with pytest.raises(Doubtful) as caught:
        fill_by_hand(PIXELS, IDENTITY, Release((BOX,), (OTHER,)))
    assert caught.value.why == "still-read"
    assert "kafor" not in caught.value.detail.lower()


def test_a_release_survives_its_json() -> None:
    assert release_of(None) is None
    content = {"boxes": [[1, 2, 3, 4]], "dismissed": [[5, 6, 7, 8]]}
    assert release_of(content) == Release((Box(1, 2, 3, 4),), (Box(5, 6, 7, 8),))


def test_the_engine_fills_the_boxes_of_a_release_and_verifies_as_ever(
    read: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = to_dicom(render(random_spec(5, size=256)))
    release = Release((BOX,))
    result = deidentify(data, KEY, release=release)
    assert isinstance(result, Clean)
    assert (result.record["by_hand"], result.record["boxes"]) == (True, [BOX.as_list()])
    source, clean = (read_pixels(raw) for raw in (data, result.data))
    assert px.proven(source, clean, [BOX])

    def leaky(pixels: px.Pixels, *args: Any, **more: Any) -> Any:
        filled, fill = pixels.copy(), 0
        return filled, fill  # nothing is filled: the box is not constant

    monkeypatch.setattr(px, "redact", leaky)
    kept = deidentify(data, KEY, release=release)
    assert isinstance(kept, Quarantined)
    assert kept.reason is Reason.NOT_VERIFIED


def test_an_image_goes_from_quarantine_by_a_release_to_the_core(
    world: World, xray: bytes, read: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubtful(*_: Any, **__: Any) -> Any:
        raise Doubtful("engines-disagree", "the engines differ", [BOX])

    monkeypatch.setattr(redaction, "redact_text", doubtful)
    world.arrive(xray)
    world.step()
    (case,) = quarantine.waiting(world.database)
    assert (case.shipment.reason, case.boxes) == ("engines-disagree", (tuple(BOX.as_list()),))
    assert world.line.requests("PUT") == []

    read.append(Line(OTHER, "SOME TEXT", 0.9, "v6"))  # first release: there is more text than the person covered
    quarantine.release(world.database, case.shipment.shipment_id, [(10, 10, 60, 30)], [], "Dr. Ada")
    world.step()
    (case,) = quarantine.waiting(world.database)
    assert case.shipment.reason == "text-left"
    assert len(case.boxes) == 2
    assert world.line.requests("PUT") == []

    read.clear()
    quarantine.release(world.database, case.shipment.shipment_id, list(case.boxes), [], "Dr. Ada")
    world.step()
    assert world.shipment.state == "sent"
    with world.database.read() as session:
        records = list(session.scalars(select(DeidRecord)))
        shipments = list(session.scalars(select(Shipment)))
    assert sorted(record.verified for record in records) == [False, False, True]
    assert len(shipments) == 1


def test_a_person_cannot_release_what_the_header_forbids() -> None:
    data = to_dicom(render(random_spec(5, size=256)))
    assert isinstance(deidentify(data, None, release=Release((BOX,))), Quarantined)
    small = deidentify(data, KEY, Options(max_pixels=10), release=Release((BOX,)))
    assert isinstance(small, Quarantined)
    assert small.reason is Reason.UNSUPPORTED


def test_the_real_engines_find_what_the_person_left_and_pass_what_was_covered() -> None:
    phantom = render(random_spec(8, size=512, burned_in=True))
    pixels = read_pixels(to_dicom(phantom))
    with pytest.raises(Doubtful) as caught:
        fill_by_hand(pixels, Identity(), Release(()))
    assert caught.value.why == "text-left"
    around = caught.value.boxes[0]
    for box in caught.value.boxes[1:]:
        around = around.around(box)
    done = fill_by_hand(pixels, Identity(), Release((around.grown(12),)))
    assert px.proven(pixels, done.pixels, done.boxes)
