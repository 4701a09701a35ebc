"""What leaves shows what came, whichever header said how, and nothing of the header but what the pixels need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from pydicom import Dataset, uid

from imaging.dicom import dicom_image
from imaging.greyscale import Rendering
from imaging.limits import Limits
from imaging.refusal import Unreadable
from ship import pixels as px
from ship import redaction
from ship.boxes import Box
from ship.deidentify import Clean, Quarantined, deidentify
from ship.keys import SiteKey
from ship.redaction import Redaction
from tests.imaging.files import chest, dataset, put, reread, table, written
from tests.imaging.test_score_or_refusal import damaged
from tests.oracle.combinations import chosen
from tests.oracle.writing import write

KEY, WHOLE = SiteKey(bytes(range(32))), Limits(min_side=1, reduce_to=None)
BOX = Box(20, 60, 90, 80)
CURVE = np.rint((np.arange(4096) / 4095) ** 0.6 * 65535).astype(np.uint16)


@pytest.fixture(autouse=True)
def one_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text engines that find a line in every image."""

    def fill(pixels: px.Pixels, *_: Any, tone: Any, **__: Any) -> Redaction:
        filled, constant = px.redact(pixels, [BOX], tone)
        return Redaction(filled, (BOX,), constant, 1)

    monkeypatch.setattr(redaction, "versions", lambda threads=1: ["none"])
    monkeypatch.setattr(redaction, "redact_text", fill)


def rendering(data: bytes) -> Rendering:
    found = dicom_image(data, WHOLE).rendering
    assert found is not None
    return found


def why_not_read(data: bytes) -> str | None:
    try:
        dicom_image(data, WHOLE)
    except Unreadable as refusal:
        return refusal.detail
    return None


def shows_the_same(data: bytes) -> Dataset:
    """Assert that an image leaves, that it shows the same outside the box, and black in it; return it."""
    result = deidentify(data, KEY)
    assert isinstance(result, Clean), result
    before, after = rendering(data), rendering(result.data)
    outside = np.ones(before.displayed.shape, bool)
    outside[BOX.slices] = False
    assert np.allclose(before.displayed[outside], after.displayed[outside], rtol=1e-9, atol=1e-9)
    assert np.ptp(after.displayed[outside]) > 0
    assert (after.displayed[BOX.slices] == after.displayed.min()).all()
    assert after.inverted == before.inverted
    return reread(result.data)


def values(bits: int = 12) -> px.Pixels:
    """A chest whose ends lie outside the box."""
    made = chest(bits).copy()
    made[0, :2] = made.max(), made.min()
    return made


def padded(value: int, limit: int | None = None, vr: str = "US", words: px.Pixels | None = None) -> Dataset:
    made = values() if words is None else words
    made[:, :24] = np.array(value).astype(np.int64).astype(made.dtype)
    result = put(dataset(made, 16), "PixelPaddingValue", vr, value)
    return result if limit is None else put(result, "PixelPaddingRangeLimit", vr, limit)


def signed() -> px.Pixels:
    return values().astype(np.int16) - np.int16(2048)


def odd(keyword: str, vr: str, value: Any) -> Callable[[], Dataset]:
    return lambda: put(dataset(values()), keyword, vr, value)


VARIANTS: dict[str, Callable[[], Dataset]] = {
    "plain": lambda: dataset(values()),
    "8 bits": lambda: dataset(values(8).astype(np.uint8), 8),
    "signed": lambda: dataset(signed()),
    "left-justified": lambda: dataset(values(14) << 2, 14, HighBit=15),
    "MONOCHROME1": lambda: dataset(values(), PhotometricInterpretation="MONOCHROME1"),
    "monochrome1": odd("PhotometricInterpretation", "CS", "monochrome1"),
    "INVERSE": lambda: dataset(values(), PresentationLUTShape="INVERSE"),
    "both": lambda: dataset(values(), PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"),
    "contradicting": lambda: dataset(
        values(), PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="IDENTITY"
    ),
    "LIN OD": odd("PresentationLUTShape", "CS", "LIN OD"),
    "rescale": lambda: dataset(values(), RescaleSlope="0.4375", RescaleIntercept="-1024.5"),
    "rescale, all digits": lambda: dataset(values(), RescaleSlope="0.12345678901234", RescaleIntercept="-1"),
    "rescale, falling": lambda: dataset(values(), RescaleSlope="-1", RescaleIntercept="4095"),
    "rescale, empty": lambda: dataset(values(), RescaleSlope="", RescaleIntercept=""),
    "rescale, doubled": odd("RescaleSlope", "DS", ["2.5", "2.5"]),
    "rescale, FD": odd("RescaleSlope", "FD", 1 / 3),
    "rescale, LO": odd("RescaleIntercept", "LO", "-1024"),
    "window": lambda: dataset(values(), WindowCenter="2000", WindowWidth="3000"),
    "windows": lambda: dataset(values(), WindowCenter=["2000", "100"], WindowWidth=["3000", "50"]),
    "window, exact": lambda: dataset(values(), WindowCenter="2000", WindowWidth="3000", VOILUTFunction="LINEAR_EXACT"),
    "window, sigmoid": lambda: dataset(values(), WindowCenter="2000", WindowWidth="900", VOILUTFunction="SIGMOID"),
    "window, ignored": lambda: dataset(values(), WindowCenter="40000", WindowWidth="1"),
    "window, FD": lambda: put(odd("WindowCenter", "FD", 2000.25)(), "WindowWidth", "FD", 3000.125),
    "window, IS": lambda: put(odd("WindowCenter", "IS", "2000")(), "WindowWidth", "LO", "3000"),
    "VOI table": lambda: dataset(values(), VOILUTSequence=table([4096, 0, 16], CURVE.tolist())),
    "VOI table and window": lambda: dataset(
        values(), VOILUTSequence=table([4096, 0, 16], CURVE.tolist()), WindowCenter="9", WindowWidth="9"
    ),
    "VOI tables": lambda: dataset(
        values(), VOILUTSequence=[*table([4096, 0, 16], CURVE.tolist()), *table([2, 0, 16], [0, 1])]
    ),
    "VOI table, falling": lambda: dataset(values(), VOILUTSequence=table([4096, 0, 16], CURVE[::-1].tolist())),
    "VOI table, 8 bits packed": lambda: dataset(
        values(), VOILUTSequence=table([4096, 0, 8], (CURVE >> 8).astype(np.uint8).tobytes(), "OW")
    ),
    "VOI table, 8 bits in words": lambda: dataset(values(), VOILUTSequence=table([4096, 0, 8], (CURVE >> 8).tolist())),
    "VOI table, odd": lambda: dataset(
        values(), VOILUTSequence=table([4095, 1, 8], (CURVE[1:] >> 8).astype(np.uint8).tobytes() + b"\0", "OB")
    ),
    "VOI table, UN": lambda: dataset(values(), VOILUTSequence=table([4096, 0, 16], CURVE.tobytes(), "UN")),
    "VOI table, 65536": lambda: dataset(
        values(16), 16, VOILUTSequence=table([0, 0, 16], np.arange(65536)[::-1].astype(np.uint16).tobytes(), "OW")
    ),
    "VOI table, signed": lambda: dataset(signed(), VOILUTSequence=table([4096, 63488, 16], CURVE.tobytes(), "OW")),
    "VOI table, signed, SS": lambda: dataset(
        signed(), VOILUTSequence=table([4096, -2048, 12], (CURVE >> 4).tobytes(), "OW", "SS")
    ),
    "VOI table, signed, long": lambda: dataset(
        signed(), VOILUTSequence=table([40_000, 65536 - 20_000, 16], np.arange(40_000).astype("<u2").tobytes(), "OW")
    ),
    "modality table": lambda: dataset(values(), ModalityLUTSequence=table([4096, 0, 12], (CURVE >> 4).tolist())),
    "modality table, falling": lambda: dataset(
        values(), ModalityLUTSequence=table([4096, 0, 16], CURVE[::-1].tolist()), RescaleSlope="3", RescaleIntercept="1"
    ),
    "modality table, then VOI table": lambda: dataset(
        values(),
        ModalityLUTSequence=table([4096, 0, 12], (CURVE >> 4).tolist()),
        VOILUTSequence=table([4096, 0, 16], CURVE.tolist()),
    ),
    "padding": lambda: padded(0),
    "padding, far": lambda: padded(65535),
    "padding, range": lambda: padded(5000, 6000),
    "padding, range backwards": lambda: padded(6000, 5000),
    "padding, signed": lambda: padded(-2000, vr="SS", words=values().astype(np.int16)),
    "padding, US in signed": lambda: padded(63536, words=values().astype(np.int16)),
    "padding, SS in unsigned": lambda: padded(-2000, vr="SS"),
    "padding, unused": odd("PixelPaddingValue", "US", 65535),
    "padding, limit empty": lambda: put(padded(0), "PixelPaddingRangeLimit", "US", None),
    "padding, MONOCHROME1": lambda: put(padded(65535), "PhotometricInterpretation", "CS", "MONOCHROME1"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_leaves_shows_what_came(variant: str) -> None:
    data = written(VARIANTS[variant]())
    result = shows_the_same(data)
    assert result.HighBit == result.BitsStored - 1
    if "PixelPaddingValue" in result:
        low = -(1 << (result.BitsStored - 1)) if result.PixelRepresentation else 0
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
            assert low <= result.get(keyword, low) < low + (1 << result.BitsStored)


@pytest.mark.real
def test_of_the_files_of_the_oracle_every_third_shows_the_same(dcmtk: None, tmp_path: Path) -> None:
    """Every transfer syntax, depth, sign, polarity, table, window and padding; tests/oracle says what is covered."""
    files = chosen()[::3]
    assert len({one.syntax for one in files}) == 14
    for combination in files:
        shows_the_same(write(combination, tmp_path).path.read_bytes())


def test_the_inputs_of_the_reports_leave_or_are_refused_as_scoring_does(shared: Path) -> None:
    refused = {}
    for path in sorted((shared / "data" / "reports").glob("*.dcm")):
        data = path.read_bytes()
        refusal = why_not_read(data)
        if refusal is None:
            shows_the_same(data)
            continue
        result = deidentify(data, KEY)
        assert isinstance(result, Quarantined)
        assert result.detail == refusal
        refused[path.stem] = result.reason.value
    assert refused == {
        "bits_32": "unsupported",
        "bits_stored_10_values_12": "undecodable",
        "j2k_cut_at_70_percent": "undecodable",
        "jpeg_xl_syntax": "unsupported",
        "private_syntax": "unsupported",
        "rescale_slope_0": "undecodable",
    }


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(damaged())
def test_whatever_is_done_to_a_valid_file_it_leaves_as_it_was_read_or_stays_as_scoring_refuses_it(data: bytes) -> None:
    refusal, result = why_not_read(data), deidentify(data, KEY)
    if refusal is None:
        assert isinstance(result, Clean), result
        outside = ~px.mask(values(), [BOX])
        before, after = rendering(data).displayed, rendering(result.data).displayed
        assert before.shape == after.shape == outside.shape
        assert np.allclose(before[outside], after[outside], rtol=1e-9, atol=1e-9)
    else:
        assert isinstance(result, Quarantined)
        assert result.detail == refusal


def explained() -> Dataset:
    """A file whose explanations, tables and codes hold the name of a person, and more than one private text."""
    made = dataset(values(), WindowCenter="2000", WindowWidth="3000", WindowCenterWidthExplanation="Testerson chest")
    made.ModalityLUTSequence = table([4096, 0, 12], (CURVE >> 4).tobytes() + b"Roe^Richard ", "OW")
    item = made.ModalityLUTSequence[0]
    item.LUTExplanation, item.ModalityLUTType = "for Testerson", "ROE RICHARD"
    item.add_new(0x00091001, "LO", "Roe^Richard")
    made.VOILUTSequence = [*table([4096, 0, 16], CURVE.tolist()), *table([6, 0, 16], b"Roe^Richard ", "OW")]
    made.VOILUTSequence[0].LUTExplanation = "Roe^Richard"
    put(made, "RescaleType", "LO", "Roe Richard")
    return made


def test_no_text_beside_a_table_or_a_window_leaves() -> None:
    data = written(explained())
    assert data.count(b"Roe^Richard") == 4
    result = deidentify(data, KEY)
    assert isinstance(result, Clean), result
    for text in (b"Roe", b"ROE", b"Richard", b"Testerson", b"chest"):
        assert text not in result.data
    made = shows_the_same(data)
    assert [element.keyword for element in made.ModalityLUTSequence[0]] == [
        "LUTDescriptor",
        "ModalityLUTType",
        "LUTData",
    ]
    assert made.ModalityLUTSequence[0].ModalityLUTType == "US"
    assert [element.keyword for element in made.VOILUTSequence[0]] == ["LUTDescriptor", "LUTData"]
    assert len(made.VOILUTSequence) == 1


def test_a_number_that_is_no_measurement_is_not_written_and_named() -> None:
    result = deidentify(written(dataset(values(), WindowCenter="19610203471188", WindowWidth="4e13")), KEY)
    assert isinstance(result, Quarantined)
    assert result.detail.startswith("WindowCenter (0028,1050)")


@pytest.mark.parametrize("name", ["left", "deflated", "codestream"])
def test_another_reader_reads_the_same_values(name: str) -> None:
    """pydicom, which has no part in reading, from the file that leaves."""
    made = {
        "left": lambda: dataset(values() << 4, 12, HighBit=15),
        "deflated": lambda: dataset(values()),
        "codestream": lambda: dataset(values()),
    }[name]()
    if name == "deflated":
        made.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    if name == "codestream":
        made.compress(uid.RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    result = shows_the_same(written(made))
    outside = ~px.mask(values(), [BOX])
    assert np.array_equal(result.pixel_array[outside], values()[outside])
