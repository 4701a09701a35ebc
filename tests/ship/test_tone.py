"""How values show: the constant is dark on every display, and the text engines see what any display would show."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.burned_text import letters
from edgerad.phantom import PhantomSpec, render
from imaging.greyscale import Pipeline, Window
from imaging.tables import Table
from ship import pixels as px
from ship import redaction, views
from ship.boxes import Box
from ship.identity import Identity
from ship.tone import PLAIN, Tone, shown_as

BOX = Box(0, 0, 8, 8)
RISING = np.arange(4096, dtype=np.uint16)
NOBODY = Identity()


def pipeline(**steps: object) -> Pipeline:
    return Pipeline(**{"modality": None, "slope": 1.0, "intercept": 0.0, "voi": None, "inverted": False, **steps})  # type: ignore[arg-type]


def values() -> npt.NDArray[np.uint16]:
    """Values from 700 to 3000, text of 4000 in the box."""
    made = np.random.default_rng(1).integers(701, 3000, (64, 64)).astype(np.uint16)
    made[20, 20], made[30, 30] = 700, 3000
    made[BOX.slices] = 4000
    return made


LOW, HIGH = 700, 3000


@pytest.mark.parametrize(
    ("tone", "fill"),
    [
        (PLAIN, LOW),
        (Tone(pipeline(inverted=True)), HIGH),
        (Tone(pipeline(slope=-1.0, intercept=4095.0)), HIGH),
        (Tone(pipeline(slope=-1.0, inverted=True)), LOW),
        (Tone(pipeline(modality=Table(0, RISING[::-1]))), HIGH),
        (Tone(pipeline(voi=Table(0, RISING[::-1]))), HIGH),
        (Tone(pipeline(voi=Table(0, RISING[::-1]), inverted=True)), LOW),
        (Tone(pipeline(modality=Table(0, RISING[::-1]), voi=Table(0, RISING[::-1]))), LOW),
        (Tone(pipeline(voi=Window(3500.0, 10.0), slope=-1.0)), HIGH),
    ],
    ids=["plain", "inverted", "falling", "both", "table", "voi", "voi and inverted", "two tables", "outside a window"],
)
def test_the_constant_is_the_value_of_the_image_that_displays_darkest(tone: Tone, fill: int) -> None:
    filled, constant = px.redact(values(), [BOX], tone)
    assert constant == fill
    assert (filled[BOX.slices] == fill).all()
    assert (filled.min(), filled.max()) == (LOW, HIGH), "a window computed from the values stays"


@pytest.mark.parametrize("padding", [(0, 0), (LOW, LOW + 5), (HIGH, HIGH), (4095, 4095)])
@pytest.mark.parametrize("inverted", [False, True])
def test_the_constant_is_no_padding(padding: tuple[int, int], inverted: bool) -> None:
    made = values()
    made[40:50] = padding[0]
    tone = Tone(pipeline(inverted=inverted), padding)
    _, constant = px.redact(made, [BOX], tone)
    assert not padding[0] <= constant <= padding[1]
    real = made[~px.mask(made, [BOX])]
    real = real[(real < padding[0]) | (real > padding[1])]
    assert constant == (real.max() if inverted else real.min())


def test_where_all_pixels_are_padding_the_constant_is_one_of_them() -> None:
    filled, constant = px.redact(np.full((20, 20), 9, np.int16), [BOX], Tone(pipeline(), (9, 9)))
    assert constant == 9
    assert (filled == 9).all()


def test_values_are_looked_at_once_where_padding_changes_little() -> None:
    made = values()
    for tone in (PLAIN, Tone(pipeline(slope=2.5, intercept=-1024.0)), Tone(pipeline(voi=Table(0, RISING)))):
        assert tone.looks(made) == [None]
    made[:, :6] = 500
    assert Tone(pipeline(), (500, 500)).looks(made) == [None]
    assert Tone(pipeline(), (0, 65535)).looks(made) == [None]


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_far_padding_is_filled_for_the_second_look(kind: type[np.uint16 | np.int16]) -> None:
    far = 65535 if kind is np.uint16 else -32768
    made = values().astype(kind)
    made[:, -6:] = far
    stored, filled = Tone(pipeline(), (far, far)).looks(made)
    assert stored is None
    assert filled is not None
    seen = shown_as(made, filled)
    assert (seen[:, -6:] == LOW).all()
    assert np.array_equal(seen[:, :-6], made[:, :-6])
    assert np.ptp(views.plain_view(made)[:, 10:-6].astype(int)) < 40
    assert np.ptp(views.plain_view(made, filled)[:, 10:-6].astype(int)) > 150


def test_a_modality_table_is_applied_for_the_second_look() -> None:
    made = values()
    steep = Table(0, np.where(np.arange(4096) < 710, np.arange(4096) * 50, 40_000).astype(np.uint16))
    stored, shown = Tone(pipeline(modality=steep)).looks(made)
    assert stored is None
    assert shown is not None
    assert np.array_equal(shown_as(made, shown), steep(made))


def chest() -> npt.NDArray[np.uint16]:
    """A chest of 512 pixels a side with values from 300 to 1800, without any text."""
    spec = PhantomSpec(seed=9, rows=512, cols=512, bits=12, photometric="MONOCHROME2", storage="CR")
    pixels = render(spec).pixels.astype(np.float64)
    return np.asarray(pixels / pixels.max() * 1500 + 300, np.uint16)


def strokes(shape: tuple[int, ...], words: str, row: int, column: int) -> npt.NDArray[np.bool_]:
    """Where the letters of a line are."""
    found = np.zeros(shape, bool)
    line = letters(words, "opencv:sans", 16) > 127
    found[row : row + line.shape[0], column : column + line.shape[1]] = line
    return found


def covered(pixels: px.Pixels, tone: Tone, text: npt.NDArray[np.bool_]) -> float:
    """Return the share of a text that is filled."""
    done = redaction.redact_text(pixels, NOBODY, max_share=1.0, tone=tone)
    return float(px.mask(pixels, done.boxes)[text].mean())


@pytest.mark.parametrize(
    ("far", "contrast", "inverted"), [(65535, 200, False), (65535, -200, True), (-30000, 90, False)]
)
def test_text_goes_though_padding_takes_its_grey_levels(far: int, contrast: int, inverted: bool) -> None:
    """A tenth of the pixels is padding, far away from the values: in 8 bits less than one level of the text is left."""
    made = chest().astype(np.int32)
    text = strokes(made.shape, "Doe Jane 4711", 440, 80)
    made[text] += contrast
    made[:, -52:] = far
    pixels = made.astype(np.int16 if far < 0 else np.uint16)
    assert covered(pixels, PLAIN, text) == 0, "the padding hides it"
    assert covered(pixels, Tone(pipeline(inverted=inverted), (far, far)), text) == 1


def test_text_that_is_written_in_the_value_of_the_padding_goes() -> None:
    """Filled like padding, white letters on black would be black on black, and would leave unseen."""
    made = chest()
    made[420:480, 40:400] = 300
    text = strokes(made.shape, "Doe Jane 4711", 440, 80)
    made[text] = 4095
    made[:, -52:] = 4095
    assert covered(made, Tone(pipeline(), (4095, 4095)), text) == 1


def test_text_goes_that_a_modality_table_hides_or_brings_out() -> None:
    made = chest()
    text = strokes(made.shape, "Doe Jane 4711", 440, 80)
    other = strokes(made.shape, "Smith 1980-02-03", 40, 80)
    made[20:90, 40:400] = 1600
    made[other], made[420:480, 40:400] = 1700, 300
    made[text] = 303
    entries = np.interp(np.arange(4096), [0, 299, 304, 1600, 4095], [0, 0, 60_000, 65_535, 65_535]).astype(np.uint16)
    tone = Tone(pipeline(modality=Table(0, entries)))
    assert np.ptp(entries[[1600, 1700]]) == 0
    assert covered(made, tone, text) == 1
    assert covered(made, tone, other) == 1
    assert covered(made, PLAIN, text) < 1
