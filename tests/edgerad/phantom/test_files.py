"""Sets of phantoms on disk with their table of truth, and files that must be refused: each is what it says."""

import csv
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
import simplejpeg
from numpy.typing import NDArray
from pydicom import uid
from pydicom.errors import InvalidDicomError
from typer.testing import CliRunner

from edgerad.cli import app
from edgerad.phantom import BadInput, bad_inputs, write_set
from edgerad.phantom.files import LABELS


def content(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_seed_writes_the_same_files(tmp_path: Path) -> None:
    records = [write_set(tmp_path / name, 4, seed, size=224) for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    assert records[0] == records[1]
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert content(tmp_path / "a") != content(tmp_path / "c")


def test_the_table_says_what_is_in_each_file(tmp_path: Path) -> None:
    records = write_set(tmp_path, 10, 1, positive_share=0.6, dicom_share=0.3, burned_in_share=0.4, size=224)
    with (tmp_path / LABELS).open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == [record.file for record in records]
    assert sum(row["label"] == "PNEUMONIA" for row in rows) == 6
    assert sum(row["format"] == "DICOM" for row in rows) == 3
    assert sum(bool(row["text"]) for row in rows) == 4
    for row in rows:
        assert row["file"].startswith(f"{row['label']}/")
        assert (row["label"] == "NORMAL") == (row["finding"] == "normal") == (row["severity"] == "0.0")
        data = (tmp_path / row["file"]).read_bytes()
        if row["format"] == "DICOM":
            dataset = pydicom.dcmread(io.BytesIO(data))
            assert (dataset.Rows, dataset.Columns) == (int(row["rows"]), int(row["cols"]))
            assert (dataset.Modality, dataset.PhotometricInterpretation) == (row["storage"], row["photometric"])
            if row["text"]:
                assert json.loads(row["text"])[1]["text"] == f"id:{dataset.PatientID}"
        else:
            assert simplejpeg.decode_jpeg_header(data)[:2] == (int(row["rows"]), int(row["cols"]))
        if row["lesion"]:
            box = json.loads(row["lesion"])
            assert 0 <= box["x"] < box["x"] + box["width"] <= int(row["cols"])


@pytest.mark.parametrize("field", ["positive_share", "dicom_share", "burned_in_share"])
def test_a_share_out_of_range_is_named_before_anything_is_written(tmp_path: Path, field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is 1.5; it must be between 0 and 1"):
        write_set(tmp_path / "set", 3, **{field: 1.5})  # type: ignore[arg-type]
    assert not (tmp_path / "set").exists()


def test_the_command_writes_a_set_and_says_what_is_in_it(tmp_path: Path) -> None:
    arguments = ["phantom", str(tmp_path), "--count", "3", "--seed", "2", "--size", "224", "--flat", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == sorted(name for name in content(tmp_path) if name != LABELS)
    wrong = CliRunner().invoke(app, ["phantom", str(tmp_path / "x"), "--scanner", "none"])
    assert wrong.exit_code == 2
    assert not (tmp_path / "x").exists()


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, BadInput]]:
    """The files that must be refused."""
    folder = tmp_path_factory.mktemp("bad")
    return folder, {item.file: item for item in bad_inputs(folder, seed=1)}


def grey(path: Path) -> NDArray[np.uint8]:
    """Return a JPEG's pixels."""
    return np.asarray(simplejpeg.decode_jpeg(path.read_bytes(), "GRAY")[:, :, 0], np.uint8)


def test_each_bad_input_is_named_once_and_there(bad: tuple[Path, dict[str, BadInput]]) -> None:
    folder, files = bad
    assert set(content(folder)) == set(files)
    assert {item.file for item in files.values() if not item.decodable} == {
        "truncated.dcm", "truncated-header.dcm", "empty.dcm", "empty.jpeg", "text.dcm", "text.jpeg", "truncated.jpeg",
    }  # fmt: skip


def test_what_is_cut_off_lacks_its_end(bad: tuple[Path, dict[str, BadInput]]) -> None:
    folder, _ = bad
    cut = pydicom.dcmread(folder / "truncated.dcm")
    assert len(cut.PixelData) < cut.Rows * cut.Columns * 2
    with pytest.raises(ValueError, match="pixel data"):
        _ = cut.pixel_array
    header = pydicom.dcmread(folder / "truncated-header.dcm")
    assert "PixelData" not in header
    assert b"\xff\xd9" not in (folder / "truncated.jpeg").read_bytes()[-2:]
    with pytest.raises(ValueError, match="Premature end"):
        simplejpeg.decode_jpeg((folder / "truncated.jpeg").read_bytes(), "GRAY", strict=True)


def test_what_has_no_image_has_none(bad: tuple[Path, dict[str, BadInput]]) -> None:
    folder, _ = bad
    for suffix in ("dcm", "jpeg"):
        assert (folder / f"empty.{suffix}").read_bytes() == b""
        assert (folder / f"text.{suffix}").read_bytes().startswith(b"Chest PA")
    with pytest.raises(InvalidDicomError):
        pydicom.dcmread(folder / "text.dcm")


def test_the_ct_is_a_ct(bad: tuple[Path, dict[str, BadInput]]) -> None:
    dataset = pydicom.dcmread(bad[0] / "ct.dcm")
    assert dataset.SOPClassUID == dataset.file_meta.MediaStorageSOPClassUID == uid.CTImageStorage
    assert dataset.Modality == "CT"
    values = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    assert values.min() == -1000, "air, in Hounsfield units"
    assert 300 < values.max() < 1000, "bone"
    needed = "ImageType PatientPosition FrameOfReferenceUID PixelSpacing SliceThickness ImagePositionPatient"
    assert [word for word in needed.split() if not dataset.get(word)] == []


def test_the_huge_one_is_huge_and_its_file_small(bad: tuple[Path, dict[str, BadInput]]) -> None:
    data = (bad[0] / "huge.jpeg").read_bytes()
    rows, cols, *_ = simplejpeg.decode_jpeg_header(data)
    assert rows * cols == 100_000_000
    assert len(data) < 2 * 2**20


def test_what_has_no_body_in_it(bad: tuple[Path, dict[str, BadInput]]) -> None:
    folder, _ = bad
    assert np.ptp(pydicom.dcmread(folder / "blank.dcm").pixel_array) == 0
    assert np.ptp(grey(folder / "blank.jpeg")) <= 1
    assert grey(folder / "black.jpeg").max() == 0
    noise = grey(folder / "noise.jpeg").astype(np.float64)
    assert noise.std() > 40
    shifted = np.corrcoef(noise[:, :-8].ravel(), noise[:, 8:].ravel())[0, 1]
    assert abs(shifted) < 0.05, "neighbours know nothing of each other"


def test_the_photo_has_colours_and_the_hand_fingers(bad: tuple[Path, dict[str, BadInput]]) -> None:
    folder, _ = bad
    photo = simplejpeg.decode_jpeg((folder / "photo.jpeg").read_bytes(), "RGB").astype(int)
    assert np.abs(photo[:, :, 0] - photo[:, :, 2]).mean() > 50
    hand = cv2.GaussianBlur(grey(folder / "hand.jpeg"), (0, 0), 2) > 90
    crossings = [int(np.sum(np.diff(row.astype(int)) == 1)) for row in hand]
    assert max(crossings) >= 4, "a line across the fingers meets four bones or more"
