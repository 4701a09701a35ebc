"""Burned-in text: what is found goes, markers stay, and an engine that fails has proven nothing."""

from __future__ import annotations

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest

from edgerad.phantom import PhantomSpec, TextStyle, render, to_dicom, to_jpeg
from ship import ocr, redaction, text, views
from ship import pixels as px
from ship.boxes import Box
from ship.deidentify import Clean, Options, Quarantined, Reason, deidentify
from ship.identity import Identity
from ship.keys import SiteKey
from ship.ocr import Line

KEY = SiteKey(bytes(range(32)))
SPEC = PhantomSpec(seed=5, rows=448, cols=512, marker="L", text=TextStyle(corner="bottom left", height=0.022), zoom=0.9)
HERE = Box(0, 0, 50, 20)


def line(words: str, box: Box = HERE, score: float = 0.95, engine: str = "v6") -> Line:
    return Line(box, words, score, engine)


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
    before, after = px.decode_picture(data, 10**6), px.decode_picture(result.data, 10**6)
    assert px.proven(before, after, boxes)
    assert {name for name, _ in px.png_chunks(result.data)} == {b"IHDR", b"IDAT", b"IEND"}


def test_colour_text_on_a_colour_picture_goes() -> None:
    grey = (render(replace(SPEC, text=None)).pixels >> 4).astype(np.uint8)
    colour = np.stack([grey] * 3, axis=2)
    cv2.putText(colour, "Jane Doe 4711", (20, 420), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (250, 220, 40), 2, cv2.LINE_AA)
    strokes = (colour[..., 0].astype(int) - colour[..., 2]) > 60
    result = deidentify(px.encode_png(colour), KEY)
    assert isinstance(result, Clean), result.record
    after = px.decode_picture(result.data, 10**6)
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


def test_models_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = replace(ocr._GENERATIONS[0], detector="no.onnx")
    monkeypatch.setattr(ocr, "_GENERATIONS", (missing,))
    with pytest.raises(FileNotFoundError, match=r"no\.onnx"):
        ocr.engines.__wrapped__(1)


def test_text_over_more_of_the_image_than_allowed_is_left_to_people() -> None:
    result = deidentify(to_dicom(render(SPEC)), KEY, Options(max_redacted=0.01))
    assert isinstance(result, Quarantined)
    assert result.reason == Reason.TOO_MUCH_TEXT
    assert result.boxes


def readings(monkeypatch: pytest.MonkeyPatch, *rounds: list[Line]) -> redaction.Redaction:
    """Redact a blank image whose readings are given: those of the first look, then of each look after a fill."""
    queue = [rounds[0], [], [], *rounds[1:]]
    monkeypatch.setattr(ocr, "read_lines", lambda *_, region=None, **__: queue.pop(0) if queue and not region else [])
    blank = np.zeros((400, 400), np.uint8)
    known = Identity(words=frozenset(("Wassermann",)))
    return redaction.redact_text(blank, known, max_share=0.5)


def test_what_is_read_after_the_fill_is_filled_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Box(100, 100, 180, 120), Box(100, 200, 180, 220)
    done = readings(monkeypatch, [line("Doe Jane", first)], [line("1980-02-03", second)], [])
    assert done.rounds == 2
    assert done.boxes == tuple(text.area(line("", box), (400, 400)) for box in (first, second))


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


SHAPE = (1000, 1000)


def kept(*lines: Line, known: tuple[str, ...] = ()) -> list[str]:
    gone = text.to_redact(lines, SHAPE, is_known=lambda words: words in known)
    return [one.text for one in lines if one not in gone]


@pytest.mark.parametrize(
    "words", ["R", "L", "AP", "PA", "Supine", "SEMI-ERECT", "LEFT", "R ", "AP/PA", "(L)", "AP SUPINE", "R."]
)
def test_markers_stay(words: str) -> None:
    assert kept(line(words)) == [words]


@pytest.mark.parametrize(
    "words", ["Doe", "name:R", "id:1234", "王小明 男", "Ιωάννης", "12.03.1980", "L Smith", "RIGHTON"]
)
def test_text_goes(words: str) -> None:
    assert kept(line(words)) == []


def test_a_line_that_no_engine_can_read_goes_by_its_shape_and_anatomy_taken_for_a_letter_stays() -> None:
    unread = line("—", Box(20, 500, 180, 530), score=0.1)
    upright = line("", Box(500, 20, 530, 180), score=0.0)
    rib, lung = line("一", Box(100, 300, 800, 420), score=0.3), line("S", Box(400, 300, 600, 600), score=0.4)
    assert kept(unread, upright, rib, lung) == [rib.text, lung.text]


def test_a_short_token_goes_only_beside_text_that_goes() -> None:
    name = line("Jane Doe", Box(100, 100, 200, 120))
    beside, far = line("47", Box(210, 100, 230, 120)), line("47", Box(600, 600, 620, 620))
    assert kept(name, beside, far) == [far.text]


def test_a_line_that_holds_a_value_of_the_patient_goes_whatever_its_score_and_size() -> None:
    huge = line("Doe", Box(0, 0, 900, 900), score=0.2)
    assert kept(huge) == ["Doe"]
    assert kept(huge, known=("Doe",)) == []
    assert kept(line("R"), known=("R",)) == []


def test_a_view_is_not_blinded_by_one_hot_pixel() -> None:
    """The usual scaling by minimum and maximum would leave the text one grey level."""
    pixels = np.full((200, 200), 900, np.uint16)
    pixels += np.random.default_rng(0).integers(0, 200, pixels.shape).astype(np.uint16)
    strokes = np.zeros(pixels.shape, np.uint8)
    cv2.putText(strokes, "Jane Doe", (20, 100), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 2)
    pixels[strokes > 0] = 1500
    text_before = views.plain_view(pixels)[pixels == 1500]
    pixels[0, 0] = 65535
    view = views.plain_view(pixels)
    assert text_before.min() == view[pixels == 1500].min() == 255
    assert np.median(view) < 200


def test_a_constant_image_has_views() -> None:
    for value in (0, 7, 65535):
        flat = np.full((40, 60), value, np.uint16)
        assert views.plain_view(flat).shape == views.even_view(flat).shape == (40, 60)


@pytest.mark.parametrize("length", [2049, 3000, 4300, 9000])
def test_tiles_hold_every_line_whole(length: int) -> None:
    tiles = ocr._tiles(length)
    assert tiles[0].start == 0
    assert tiles[-1].stop == length
    assert all(tile.stop - tile.start <= ocr._TILE for tile in tiles)
    assert all(b.start <= a.stop - ocr._OVERLAP for a, b in itertools.pairwise(tiles))


def test_a_region_is_read_as_the_whole_is() -> None:
    page = np.full((600, 900), 40, np.uint8)
    cv2.putText(page, "Jane Doe 4711", (300, 300), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 2, cv2.LINE_AA)
    engine = ocr.engines()[1]
    (whole,) = ocr.read_lines(page, engine)
    (part,) = ocr.read_lines(page, engine, region=Box(240, 220, 640, 360))
    assert whole.text == part.text == "Jane Doe 4711"
    assert whole.box.iou(part.box) > 0.8
