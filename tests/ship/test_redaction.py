"""Redaction: what is found goes, markers stay, and an engine that fails has proven nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest

from edgerad.phantom import PhantomSpec, TextStyle, render, to_dicom, to_jpeg
from ship import ocr, redaction, text
from ship import pixels as px
from ship.boxes import Box
from ship.deidentify import Clean, Options, Quarantined, Reason, deidentify
from ship.identity import Identity
from ship.keys import SiteKey
from ship.ocr import Line

KEY, LIMITS = SiteKey(bytes(range(32))), Options().limits
SPEC = PhantomSpec(seed=5, rows=448, cols=512, marker="L", text=TextStyle(corner="bottom left", height=0.022), zoom=0.9)


def line(words: str, box: Box, engine: str = "v6") -> Line:
    return Line(box, words, 0.95, engine)


def covered(part: object, boxes: tuple[Box, ...]) -> bool:
    """Whether the phantom's box lies in the union of the filled ones."""
    area = np.zeros((SPEC.rows, SPEC.cols), bool)
    for box in boxes:
        area[box.slices] = True
    x, y, w, h = part.x, part.y, part.width, part.height  # type: ignore[attr-defined]
    return bool(area[y : y + h, x : x + w].all())


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_every_burned_in_line_of_a_phantom_goes_and_its_marker_stays(photometric: str) -> None:
    spec = replace(SPEC, photometric=photometric, bits=12 if photometric == "MONOCHROME2" else 16)  # type: ignore[arg-type]
    phantom = render(spec)
    source = to_dicom(phantom, "jpeg2000")
    result = deidentify(source, KEY)
    assert isinstance(result, Clean), result.record
    boxes = tuple(Box(*edges) for edges in result.record["boxes"])
    assert all(covered(part, boxes) for part in phantom.text)
    assert phantom.marker is not None
    marker = Box(
        phantom.marker.x,
        phantom.marker.y,
        phantom.marker.x + phantom.marker.width,
        phantom.marker.y + phantom.marker.height,
    )
    assert not any(marker.overlaps(box) for box in boxes)
    assert result.record["text_engines"] == redaction.versions()


def test_a_picture_comes_back_as_pixels_without_the_text() -> None:
    phantom = render(SPEC)
    data = to_jpeg(phantom, color=True)
    result = deidentify(data, KEY, hints=("ward/Doe^Jane.jpg",))
    assert isinstance(result, Clean), result.record
    boxes = tuple(Box(*edges) for edges in result.record["boxes"])
    assert all(covered(part, boxes) for part in phantom.text)
    before, after = px.decode_picture(data, LIMITS), px.decode_picture(result.data, LIMITS)
    assert px.proven(before, after, boxes)
    assert {name for name, _ in px.png_chunks(result.data)} == {b"IHDR", b"IDAT", b"IEND"}


def test_colour_text_on_a_colour_picture_goes() -> None:
    grey = (render(replace(SPEC, text=None)).pixels >> 4).astype(np.uint8)
    colour = np.stack([grey] * 3, axis=2)
    cv2.putText(colour, "Jane Doe 4711", (20, 420), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (250, 220, 40), 2, cv2.LINE_AA)
    strokes = (colour[..., 0].astype(int) - colour[..., 2]) > 60
    result = deidentify(px.encode_png(colour), KEY)
    assert isinstance(result, Clean), result.record
    after = px.decode_picture(result.data, LIMITS)
    assert strokes.sum() > 500
    assert (after[strokes] == result.record["fill"]).all()


def broken(*_: object, **__: object) -> list[Line]:
    raise RuntimeError("PhantomPatient")


@pytest.mark.parametrize("part", ["ocr.engines", "ocr.read_lines", "text.to_redact", "views.even_view"])
def test_an_engine_that_fails_sends_the_image_to_quarantine(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"ship.{part}", broken)
    result = deidentify(to_dicom(render(replace(SPEC, text=None))), KEY)
    assert isinstance(result, Quarantined)
    assert result.reason == Reason.TEXT_ENGINE
    assert "PhantomPatient" not in str(result.record)


def test_text_over_more_of_the_image_than_allowed_is_left_to_people() -> None:
    result = deidentify(to_dicom(render(SPEC)), KEY, Options(max_redacted=0.01))
    assert isinstance(result, Quarantined)
    assert result.reason == Reason.TOO_MUCH_TEXT
    assert result.boxes


def readings(monkeypatch: pytest.MonkeyPatch, *rounds: list[Line], name: str = "Wassermann") -> redaction.Redaction:
    """Redact a blank image whose readings are given: those of the first look, then of each look after a fill."""
    queue = [rounds[0], [], [], *rounds[1:]]
    monkeypatch.setattr(ocr, "read_lines", lambda *_, region=None, **__: queue.pop(0) if queue and not region else [])
    blank = np.zeros((400, 400), np.uint8)
    return redaction.redact_text(blank, Identity(words=frozenset((name,))), max_share=0.5)


def test_what_is_read_after_the_fill_is_filled_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Box(100, 100, 180, 120), Box(100, 200, 180, 220)
    done = readings(monkeypatch, [line("Doe Jane", first)], [line("1980-02-03", second)], [])
    assert done.rounds == 2
    assert done.boxes == tuple(text.area(line("", box), (400, 400)) for box in (first, second))


def test_a_token_is_no_misread_marker_once_the_rest_of_its_line_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    rest, above, first = Box(150, 200, 280, 220), Box(50, 160, 280, 180), Box(120, 200, 136, 220)
    later = [line("1980-02-03", above), line("L", first), Line(first, "I", 0.7, "v4")]
    alone, together = readings(monkeypatch, later, []), readings(monkeypatch, [line("Smith", rest)], later, [])
    gone = text.area(later[2], (400, 400))
    assert gone not in alone.boxes
    assert gone in together.boxes


@pytest.mark.parametrize(
    ("score", "name", "stays"),
    [(0.99, "Wassermann", True), (0.7, "Wassermann", False), (0.99, "Frontal", False)],
    ids=["sure", "unsure", "name"],
)
def test_a_sure_marker_in_a_gap_stays_through_all_rounds(
    score: float, name: str, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = Line(Box(120, 130, 190, 150), "FRONTAL", score, "v6")
    block = [line("1980-02-03", Box(50, top, 280, top + 20)) for top in (100, 160)]
    done = readings(monkeypatch, [*block, marker], block, [], name=name)
    assert done.rounds == 2
    assert stays is not any(box.overlaps(marker.box) for box in done.boxes)


def test_oblique_text_that_is_read_only_after_the_fill_is_left_to_people(monkeypatch: pytest.MonkeyPatch) -> None:
    oblique = Line(Box(100, 200, 300, 280), "1980-02-03", 0.95, "v4", 20.0, 20.0)
    with pytest.raises(redaction.Doubtful) as caught:
        readings(monkeypatch, [line("Doe Jane", Box(100, 100, 180, 120))], [oblique], [])
    assert caught.value.why == "oblique-text"
    assert text.area(oblique, (400, 400)) in caught.value.boxes


def test_what_is_detected_inside_a_filled_box_is_its_own_outline(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    place = Box(100, 100, 180, 120)

    def read(*_: object, skip: object = None, **__: object) -> list[Line]:
        seen.append(bool(callable(skip) and skip(place) and not skip(place.grown(60))))
        return [line("Doe Jane", place)] if len(seen) == 1 else []

    monkeypatch.setattr(ocr, "read_lines", read)
    redaction.redact_text(np.zeros((400, 400), np.uint8), Identity(), max_share=0.5)
    assert seen[-2:] == [True, True]


@dataclass(frozen=True)
class Look:
    """One close look of the engine v6: at which part of the image, how much enlarged, after a quarter turn or not."""

    region: Box
    zoom: float
    turned: bool


def close_looks(monkeypatch: pytest.MonkeyPatch, *whole: list[Line]) -> list[Look]:
    """The close looks that follow when the looks at a whole image of 1000 pixels find these lines, and no others."""
    queue, looks = list(whole), list[Look]()

    def read(
        _: object,
        engine: ocr.Engine,
        *,
        skip: Callable[[Box], bool],
        region: Box | None = None,
        zoom: float = 1.0,
        turned: bool = False,
    ) -> list[Line]:
        if region is None:
            return [found for found in queue.pop(0) if not skip(found.box)]
        looks.append(Look(region, zoom, turned))
        return []

    monkeypatch.setattr(ocr, "read_lines", read)
    redaction.find_lines(np.zeros((1000, 1000), np.uint8), Identity())
    return looks


UPRIGHT = Box(500, 200, 550, 600)


def test_around_large_text_on_which_looks_agree_nothing_is_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    other = line("Doe Jane", UPRIGHT.grown(8))
    assert close_looks(monkeypatch, [line("Doe Jane", UPRIGHT, "v4")], [], [other]) == [
        Look(Box(350, 50, 700, 750).around(other.box.grown(198)).clipped(1000, 1000), 1.0, True)
    ]


def test_what_one_look_alone_found_is_looked_at_enlarged_and_then_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = close_looks(monkeypatch, [], [], [line("Doe Jane", UPRIGHT)])
    assert looks == [
        Look(Box(350, 50, 700, 750), redaction._DOUBTFUL_ZOOM, True),
        Look(Box(475, 25, 575, 775), redaction._LINE_ZOOM, True),
    ]


def test_looks_that_end_a_line_differently_do_not_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    shorter = line("Doe", replace(UPRIGHT, y0=300), "v4")
    looks = close_looks(monkeypatch, [shorter], [], [line("Doe Jane", UPRIGHT)])
    assert [look.zoom for look in looks] == [redaction._DOUBTFUL_ZOOM, redaction._LINE_ZOOM]


def test_upright_and_lying_text_are_looked_at_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [line("Doe Jane", UPRIGHT), line("1980-02-03", Box(560, 300, 960, 350))]
    looks = close_looks(monkeypatch, both, both, [])
    assert [look.turned for look in looks] == [False, True]


def test_text_that_is_read_after_every_round_is_left_to_people(monkeypatch: pytest.MonkeyPatch) -> None:
    again = [line("Doe Jane", Box(100, 100, 180, 120))]
    with pytest.raises(redaction.Doubtful) as caught:
        readings(monkeypatch, *[again] * (redaction.ROUNDS + 1))
    assert caught.value.why == "still-read"


def test_engines_that_read_a_value_differently_at_one_place_are_left_to_people(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Box(100, 100, 220, 120)
    with pytest.raises(redaction.Doubtful) as caught:
        readings(monkeypatch, [line("Wassermann", place), line("Portable 3", place, engine="v4")])
    assert caught.value.why == "engines-disagree"
    readings(monkeypatch, [line("Wassermann", place), line("Wassermamn", place, engine="v4")], [])
