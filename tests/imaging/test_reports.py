"""The inputs of ../shared/data/reports and hostile: small files after public bug reports, each with what is right."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from imaging.display import NotDisplayable, picture
from imaging.refusal import Unreadable
from serve.score import ImageScore, Scorer, open_scorer

AS_PLAIN = (
    "acr_nema_dates", "high_bit_15_bits_stored_14", "j2k_64_nul_after_eoc", "j2k_precision_12_bits_stored_10",
    "j2k_without_delimiter", "modality_DR_in_DX", "mono2_presentation_inverse", "name_ideographic_only",
    "padding_range_limit_empty", "patient_id_backslash", "rescale_empty",
)  # fmt: skip
AS_ANOTHER = {
    "modality_lut_12_bit": "plain_lut16",
    "voi_lut_8_bit_in_words": "voi_lut_8_bit_packed",
    "padding_us_in_signed": "padding_ok_signed",
    "padding_ss_in_unsigned": "padding_ok_signed",
}
REFUSED = {
    "bits_32": ("unsupported", "BitsAllocated"),
    "bits_stored_10_values_12": ("contradiction", "BitsStored"),
    "j2k_cut_at_70_percent": ("truncated", ""),
    "jpeg_xl_syntax": ("unsupported", "transfer syntax"),
    "private_syntax": ("unsupported", "transfer syntax"),
    "rescale_slope_0": ("bad-attribute", "RescaleSlope"),
}
NEAR = 0.01


@cache
def scorer() -> Scorer:
    return open_scorer(verify=False)


def outcome(shared: Path, name: str) -> ImageScore | Unreadable:
    return scorer().score_bytes([(shared / "data" / "reports" / f"{name}.dcm").read_bytes()])[0]


def probability(shared: Path, name: str) -> float:
    found = outcome(shared, name)
    assert isinstance(found, ImageScore), found
    return found.probability


@pytest.mark.parametrize("name", AS_PLAIN)
def test_it_scores_as_the_plain_file(shared: Path, name: str) -> None:
    assert probability(shared, name) == pytest.approx(probability(shared, "plain"), abs=NEAR)


@pytest.mark.parametrize(("name", "other"), AS_ANOTHER.items())
def test_it_scores_as_the_same_in_another_form(shared: Path, name: str, other: str) -> None:
    assert probability(shared, name) == pytest.approx(probability(shared, other), abs=NEAR)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_and_keeps_its_patient(shared: Path, name: str) -> None:
    found = outcome(shared, name)
    assert isinstance(found, Unreadable)
    reason, named = REFUSED[name]
    assert (found.reason, named in found.detail) == (reason, True)
    assert found.header["PatientName"] == "Testerson^Tessa"
    assert found.header["StudyInstanceUID"]


def test_every_file_has_its_row(shared: Path) -> None:
    known = {*AS_PLAIN, *AS_ANOTHER, *AS_ANOTHER.values(), *REFUSED, "plain"}
    assert {path.stem for path in (shared / "data" / "reports").glob("*.dcm")} == known


def test_hostile_files_are_refused_by_the_model_and_the_page(shared: Path) -> None:
    files = [path for path in sorted((shared / "data" / "hostile").iterdir()) if path.suffix in {".dcm", ".bin"}]
    assert len(files) == 7
    for path in files:
        found = scorer().score_bytes([path.read_bytes()])[0]
        assert isinstance(found, Unreadable), path.name
        with pytest.raises(NotDisplayable):
            picture(path.read_bytes())
