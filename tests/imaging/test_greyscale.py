"""The grey-scale pipeline: tables, rescale, windows, polarity and padding, each with its peculiar forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.sequence import Sequence

from imaging.dicom import dicom_image
from imaging.display import picture
from imaging.greyscale import Rendering, Window
from imaging.limits import Limits
from imaging.refusal import Unreadable
from tests.imaging.files import as_written, chest, dataset, put, table, written

WHOLE = Limits(reduce_to=None)
PLAIN = chest()
CURVE = np.rint((np.arange(4096) / 4095) ** 0.6 * 65535).astype(np.uint16)


def rendering(data: bytes) -> Rendering:
    """Read a grey image at full resolution."""
    found = dicom_image(data, WHOLE).rendering
    assert found is not None
    return found


def unit(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Scale to 0..1."""
    plain = values.astype(np.float64)
    return np.asarray((plain - plain.min()) / (plain.max() - plain.min()))


def alike(model: npt.NDArray[Any], shown: npt.NDArray[Any]) -> float:
    """Return the correlation where the page does not clip: a window may stretch, never turn around or bend."""
    inside = (shown > 0.01) & (shown < 0.99)
    assert inside.mean() > 0.5
    return float(np.corrcoef(model[inside], shown[inside])[0, 1])


def refusal(data: bytes) -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        dicom_image(data, WHOLE)
    assert caught.value.header["PatientID"], "whose image it is stays known"
    return caught.value


def of(keyword: str, value: Any) -> dict[str, Any]:
    return {keyword: value}


def packed(entries: npt.NDArray[np.uint8]) -> bytes:
    return entries.tobytes() + b"\0" * (entries.size % 2)


EIGHT = (CURVE >> 8).astype(np.uint8)
FORMS = {
    "16 bits, US": (16, CURVE, "US", CURVE.tolist()),
    "16 bits, SS": (16, CURVE, "SS", CURVE.astype(np.int16).tolist()),
    "16 bits, OW": (16, CURVE, "OW", CURVE.tobytes()),
    "16 bits, UN": (16, CURVE, "UN", CURVE.tobytes()),
    "16 bits, OB": (16, CURVE, "OB", CURVE.tobytes()),
    "12 bits": (12, CURVE >> 4, "OW", (CURVE >> 4).tobytes()),
    "10 bits": (10, CURVE >> 6, "US", (CURVE >> 6).tolist()),
    "8 bits in bytes": (8, EIGHT, "OW", packed(EIGHT)),
    "8 bits in bytes, US": (8, EIGHT, "US", EIGHT.view(np.uint16).tolist()),
    "8 bits in words": (8, EIGHT, "OW", EIGHT.astype("<u2").tobytes()),
    "8 bits in words, US": (8, EIGHT, "US", EIGHT.tolist()),
    "longer than its descriptor": (16, CURVE, "OW", CURVE.tobytes() + b"\7\7"),
}


@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize("form", list(FORMS))
def test_a_table_is_applied_in_every_form(sequence: str, form: str) -> None:
    bits, entries, vr, data = FORMS[form]
    shown = rendering(written(dataset(**of(sequence, table([4096, 0, bits], data, vr)))))
    np.testing.assert_array_equal(shown.displayed, entries[PLAIN])


@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
def test_a_descriptor_of_0_stands_for_65536_entries(sequence: str) -> None:
    words = chest(16)
    entries = np.arange(65536, dtype=np.uint16)[::-1]
    made = dataset(words, 16, **of(sequence, table([0, 0, 16], entries.tobytes(), "OW")))
    np.testing.assert_array_equal(rendering(written(made)).displayed, 65535 - words)


@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize(("vr", "first"), [("SS", -2048), ("US", 63488)])
def test_the_first_mapped_value_of_signed_values(sequence: str, vr: str, first: int) -> None:
    made = dataset(PLAIN.astype(np.int16) - 2048)
    setattr(made, sequence, table([4096, first, 16], CURVE.tobytes(), "OW", vr))
    np.testing.assert_array_equal(rendering(written(made)).displayed, CURVE[PLAIN])


def test_the_first_mapped_value_after_a_rescale_to_negative_values() -> None:
    made = dataset(RescaleSlope="1", RescaleIntercept="-1024")
    made.VOILUTSequence = table([4096, 64512, 16], CURVE.tobytes(), "OW")  # -1024, written as US
    np.testing.assert_array_equal(rendering(written(made)).displayed, CURVE[PLAIN])


def test_values_outside_a_table_map_to_its_ends() -> None:
    low, high = (int(value) for value in np.percentile(PLAIN, (20, 90)))
    made = dataset(VOILUTSequence=table([high - low, low, 16], CURVE[low:high].tobytes(), "OW"))
    np.testing.assert_array_equal(rendering(written(made)).displayed, CURVE[np.clip(PLAIN, low, high - 1)])


@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize(
    ("descriptor", "data"),
    [
        ([4096, 0, 16], CURVE[:4000].tobytes()),
        ([4096, 0, 8], EIGHT[:4000].tobytes()),
        ([4096, 0, 12], packed(EIGHT)),
        ([4096, 0, 17], CURVE.tobytes()),
        ([4096, 0, 0], CURVE.tobytes()),
        ([4096, 0], CURVE.tobytes()),
        ([4096, 0, 16], None),
        (None, CURVE.tobytes()),
    ],
)
def test_a_table_that_cannot_be_applied_is_named(sequence: str, descriptor: Any, data: Any) -> None:
    found = refusal(written(dataset(**of(sequence, table(descriptor, data, "OW")))))
    assert found.reason == "bad-table"
    assert sequence in found.detail


@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
def test_an_empty_sequence_counts_as_absent(keyword: str) -> None:
    np.testing.assert_array_equal(rendering(written(dataset(**of(keyword, Sequence())))).displayed, PLAIN)


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("RescaleSlope", "DS", None), ("RescaleIntercept", "DS", ""), ("WindowCenter", "DS", ""),
        ("WindowWidth", "DS", None), ("VOILUTFunction", "CS", ""), ("PresentationLUTShape", "CS", ""),
        ("PixelPaddingValue", "US", None), ("RescaleSlope", "FD", 1.0), ("RescaleSlope", "LO", " 1 "),
        ("RescaleSlope", "DS", ["1", "1"]), ("PhotometricInterpretation", "CS", "monochrome2 "),
        ("PhotometricInterpretation", "LO", "MONOCHROME2"), ("SamplesPerPixel", "US", None),
        ("NumberOfFrames", "IS", ""), ("PresentationLUTShape", "CS", "identity"), ("RescaleIntercept", "IS", "0"),
    ],
)  # fmt: skip
def test_what_is_empty_or_of_another_vr_changes_nothing(keyword: str, vr: str, value: Any) -> None:
    np.testing.assert_array_equal(rendering(written(put(dataset(), keyword, vr, value))).displayed, PLAIN)


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("RescaleSlope", "DS", "0"), ("RescaleSlope", "LO", "one"), ("RescaleSlope", "DS", ["1", "2"]),
        ("RescaleIntercept", "LO", "none"), ("RescaleSlope", "FD", float("nan")), ("RescaleSlope", "FD", float("inf")),
        ("PresentationLUTShape", "CS", "ROUND"), ("VOILUTFunction", "CS", "CUBIC"), ("WindowWidth", "DS", "0"),
        ("WindowWidth", "DS", "-5"), ("WindowCenter", "LO", "middle"), ("WindowWidth", "DS", ""),
        ("PhotometricInterpretation", "CS", ""), ("NumberOfFrames", "LO", "some"),
    ],
)  # fmt: skip
def test_what_is_present_but_unusable_is_refused_by_name(keyword: str, vr: str, value: Any) -> None:
    made = dataset(WindowCenter="2048", WindowWidth="4096")
    found = refusal(written(put(made, keyword, vr, value)))
    assert (found.reason, keyword in found.detail) == ("bad-attribute", True)


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME2", "", False), ("MONOCHROME2", "IDENTITY", False), ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", "", True), ("MONOCHROME1", "INVERSE", True), ("monochrome1", "inverse", True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("voi", ["none", "window", "table", "reversing table"])
def test_the_page_shows_the_polarity_that_the_model_sees(
    photometric: str, shape: str, inverted: bool, voi: str
) -> None:
    with as_written():
        made = dataset(PhotometricInterpretation=photometric, PresentationLUTShape=shape)
    if voi == "window":
        made.WindowCenter, made.WindowWidth = "2000", "3800"
    elif voi.endswith("table"):
        made.VOILUTSequence = table([4096, 0, 16], (CURVE if voi == "table" else CURVE[::-1].copy()).tobytes(), "OW")
    data = written(made)
    model = unit(rendering(data).displayed)
    page = picture(data)
    shown = page.window((page.low + page.high) / 2, page.high - page.low) / 255
    assert alike(model, shown) > 0.999
    bright = np.corrcoef(model.ravel(), PLAIN.ravel())[0, 1] > 0
    assert bright is np.bool_(inverted is (voi == "reversing table"))


@pytest.mark.parametrize("voi", ["none", "window", "reversing table", "negative slope"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("value", [0, 4095, 30000])
def test_padding_shows_black_and_squeezes_nothing(voi: str, photometric: str, value: int) -> None:
    """Padding (PS3.3 C.7.5.1.1.2) is no signal: the chest keeps the whole range, for the model and on the page."""
    words = np.clip(PLAIN, 1, 4094)
    padded = np.zeros(words.shape, bool)
    padded[:, :36] = padded[:12] = True
    made = dataset(np.where(padded, value, words).astype(np.uint16), 12 if value < 4096 else 16)
    made.PhotometricInterpretation = photometric
    put(made, "PixelPaddingValue", "US", value)
    if voi == "window":
        made.WindowCenter, made.WindowWidth = "2000", "3900"
    elif voi == "reversing table":
        made.VOILUTSequence = table([4096, 0, 16], CURVE[::-1].tobytes(), "OW")
    elif voi == "negative slope":
        made.RescaleSlope, made.RescaleIntercept = "-1", "4095"
    data = written(made)
    model = unit(rendering(data).displayed)
    assert model[padded].max() < 0.02
    assert np.std(model[~padded]) > 0.15
    page = picture(data)
    shown = page.window((page.low + page.high) / 2, page.high - page.low) / 255
    assert shown[padded].max() < 0.02
    assert alike(model, shown) > 0.999


@pytest.mark.parametrize("falling", ["table", "slope"])
def test_padding_follows_no_voi_step_that_is_ignored(falling: str) -> None:
    padded = np.zeros(PLAIN.shape, bool)
    padded[:, :36] = True
    made = dataset(np.where(padded, 0, np.clip(PLAIN, 1, 4095)).astype(np.uint16))
    put(made, "PixelPaddingValue", "US", 0)
    if falling == "table":  # of a few values only: it hides the chest
        made.VOILUTSequence = table([100, 2000, 16], CURVE[:100][::-1].tobytes(), "OW")
    else:
        made.RescaleSlope, made.RescaleIntercept = "-1", "4095"
        made.WindowCenter, made.WindowWidth = "2000", "3"
    found = rendering(written(made))
    assert found.ignored is not None
    assert unit(found.displayed)[padded].max() < 0.02


def test_a_window_that_shows_nothing_is_ignored_and_the_page_says_so() -> None:
    data = written(dataset(WindowCenter="2000", WindowWidth="2"))
    assert rendering(data).ignored == Window(2000, 2)
    np.testing.assert_array_equal(rendering(data).displayed, PLAIN)
    assert "center 2000, width 2" in picture(data).note
    assert picture(written(dataset(WindowCenter="2000", WindowWidth="3800"))).note == ""


def test_the_first_of_several_windows_counts() -> None:
    made = dataset(WindowCenter=["2000", "100"], WindowWidth=["3800", "5"])
    assert rendering(written(made)).voi == Window(2000, 3800)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_are_those_of_the_standard(function: Any) -> None:
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2, computed pixel by pixel."""
    center, width = 1900.0, 3500.0
    x = PLAIN.astype(np.float64)
    if function == "SIGMOID":
        expected = 1 / (1 + np.exp(-4 * (x - center) / width))
    elif function == "LINEAR":
        expected = np.clip((x - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
    else:
        expected = np.clip((x - center) / width + 0.5, 0, 1)
    made = dataset(WindowCenter=str(center), WindowWidth=str(width), VOILUTFunction=function)
    np.testing.assert_allclose(rendering(written(made)).displayed, expected, atol=1e-9)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    slope=st.floats(0.01, 40).flatmap(lambda size: st.sampled_from([size, -size])),
    intercept=st.floats(-5000, 5000),
    inverted=st.booleans(),
)
def test_a_rescale_only_stretches_or_turns(slope: float, intercept: float, inverted: bool) -> None:
    made = dataset(RescaleSlope=f"{slope:.8g}", RescaleIntercept=f"{intercept:.8g}")
    made.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    shown = unit(rendering(written(made)).displayed)
    expected = unit(PLAIN if (slope > 0) is not inverted else -PLAIN.astype(int))
    np.testing.assert_allclose(shown, expected, atol=1e-6)


def test_a_palette_looks_the_same_to_the_model_and_on_the_page() -> None:
    words = chest(8).astype(np.uint8)
    made = dataset(words, 8, PhotometricInterpretation="PALETTE COLOR")
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    ramp = (np.arange(256, dtype=np.uint16)[::-1] * 257).tobytes()
    for colour in ("Red", "Green", "Blue"):
        setattr(made, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(made, f"{colour}PaletteColorLookupTableData", ramp)
    found = dicom_image(written(made), WHOLE).rgb
    assert found is not None
    assert np.corrcoef(found[..., 0].ravel(), words.ravel())[0, 1] < -0.99
    assert np.corrcoef(picture(written(made)).values.ravel(), words.ravel())[0, 1] < -0.99
