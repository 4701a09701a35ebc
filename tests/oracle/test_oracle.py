"""edgerad's pixels against dcmtk and GDCM, in every combination that `combinations` chooses.

The plan says what is compared and how close it must be; docs/oracle.md is made from it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from imaging.greyscale import Pipeline, Rendering, applied_to, fill_padding, pipeline_of, render
from imaging.limits import DEFAULT_LIMITS
from imaging.part10 import read_dicom
from imaging.refusal import Unreadable
from imaging.stored import stored_pixels
from tests.conftest import ROOT, need
from tests.oracle import readers, table
from tests.oracle.combinations import Combination, chosen, why_not
from tests.oracle.plan import (
    READERS,
    Reader,
    displayed_tolerance,
    rescaled_tolerance,
    stored_tolerance,
    why_not_compared,
)
from tests.oracle.writing import NEAR, Written, bits_of, write

pytestmark = pytest.mark.real

CHOSEN = chosen()
Values = NDArray[np.float64]
STORED: dict[Reader, Callable[[Path], NDArray[np.int32]]] = {
    "dcmtk": readers.dcmtk_stored,
    "GDCM": readers.gdcm_stored,
}
RESCALED: dict[Reader, Callable[[Path], Values]] = {"dcmtk": readers.dcmtk_rescaled, "GDCM": readers.gdcm_rescaled}


class Ours:
    """What edgerad reads out of a file, step by step."""

    def __init__(self, path: Path) -> None:
        file = read_dicom(path.read_bytes())
        cells = stored_pixels(file, DEFAULT_LIMITS).cells
        assert cells is not None
        steps = pipeline_of(file.dataset, signed=cells.signed, little_endian=file.little_endian)
        self.pipeline: Pipeline = applied_to(steps, cells)
        self.stored: NDArray[np.int64] = cells.values.astype(np.int64)
        self.rescaled: Values = self.pipeline.modality_values(cells.values).astype(np.float64)
        self.padding = cells.padding
        self.rendering: Rendering = render(self.pipeline, fill_padding(self.pipeline, cells))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Combination], Written]:
    """Write a combination, once."""
    need("dcmtk")
    folder, done = tmp_path_factory.mktemp("oracle"), dict[str, Written]()

    def of(combination: Combination) -> Written:
        if combination.name not in done:
            done[combination.name] = write(combination, folder)
        return done[combination.name]

    return of


def ids(combination: Combination) -> str:
    """Name a test by its combination."""
    return combination.name


@pytest.mark.parametrize("combination", CHOSEN, ids=ids)
def test_stored_values(combination: Combination, written: Callable[[Combination], Written]) -> None:
    file = written(combination)
    ours = Ours(file.path)
    assert ours.stored.shape == file.values.shape
    for reader in READERS:
        if why_not_compared(combination, "stored", reader) is None:
            assert _apart(ours.stored, STORED[reader](file.path)) <= stored_tolerance(combination), reader
    if not combination.lossy:
        assert _apart(ours.stored, file.values) == 0
    elif combination.syntax == "jpeg-ls-near":
        assert 0 < _apart(ours.stored, file.values) <= NEAR
    else:
        assert 0 < np.abs(ours.stored - file.values).mean() < 0.01 * (1 << combination.stored)


@pytest.mark.parametrize("combination", CHOSEN, ids=ids)
def test_rescaled_values(combination: Combination, written: Callable[[Combination], Written]) -> None:
    file = written(combination)
    ours = Ours(file.path)
    for reader in READERS:
        if why_not_compared(combination, "rescaled", reader) is None:
            assert _apart(ours.rescaled, RESCALED[reader](file.path)) <= rescaled_tolerance(combination), reader


@pytest.mark.parametrize("combination", [one for one in CHOSEN if one.padding != "none"], ids=ids)
def test_padding(combination: Combination, written: Callable[[Combination], Written]) -> None:
    _check_padding(written(combination))


@pytest.mark.parametrize(
    "combination", [one for one in CHOSEN if why_not_compared(one, "displayed", "dcmtk") is None], ids=ids
)
def test_displayed_values(combination: Combination, written: Callable[[Combination], Written]) -> None:
    file = written(combination)
    _check_padding(file)
    ours = Ours(file.path).rendering
    assert ours.ignored is None
    shown = ours.displayed[~file.padded].astype(np.float64)
    theirs = readers.dcmtk_displayed(file.path, combination)[~file.padded]
    # Where zero lies is free: the model and the pages set it by the pixels that are there.
    shown, theirs = shown - shown.min(), theirs - theirs.min()
    if combination.voi == "none":
        shown, theirs = shown / shown.max(), theirs / theirs.max()
    elif combination.voi.startswith("lut"):
        shown = shown / ((1 << bits_of(combination.voi)) - 1)
    assert _apart(shown, theirs) <= displayed_tolerance(combination)


def test_32_bits_are_refused(tmp_path: Path) -> None:
    need("dcmtk")
    from pydicom import dcmread

    plain = Combination("explicit", (16, 12), False, False, "MONOCHROME2", "none", "none", "none", "none")
    dataset = dcmread(write(plain, tmp_path).path)
    dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype("<u4").tobytes()
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 32, 12, 11
    dataset.save_as(tmp_path / "32.dcm")
    with pytest.raises(Unreadable) as refusal:
        Ours(tmp_path / "32.dcm")
    assert refusal.value.reason == "unsupported"


def test_the_choice_holds_every_depth_and_can_be_written() -> None:
    assert [one.name for one in CHOSEN if why_not({name: getattr(one, name) for name in one.__slots__})] == []
    assert len({one.name for one in CHOSEN}) == len(CHOSEN)
    assert [one.name for one in chosen()] == [one.name for one in CHOSEN]


def test_the_page_says_what_is_compared() -> None:
    assert (ROOT / "docs" / "oracle.md").read_text(encoding="utf-8") == table.page()


def _check_padding(file: Written) -> None:
    if file.padded.any():
        padding = file.values[file.padded]
        assert Ours(file.path).padding == (padding.min(), padding.max())


def _apart(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())
