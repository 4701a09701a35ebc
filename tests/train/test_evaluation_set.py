"""Frozen sets: once there they never change, hold nothing but pixels, and say so when somebody touched them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgerad.phantom import random_spec, render, to_dicom
from edgerad.store import StoreUnavailable
from train.evaluation_set import SetError, freeze, load, read

PREFIX, OTHER = "datasets/evaluation/", "datasets/rehearsal/"


def picture(number: int, size: int = 64) -> np.ndarray[Any, Any]:
    return np.random.default_rng(number).integers(0, 256, (size, size), np.uint8)


def write(folder: Path, label: str, number: int, pixels: Any = None) -> Path:
    path = folder / label / f"Jane-Roe-{number}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture(number) if pixels is None else pixels)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two radiographs of each label."""
    for number in range(4):
        write(tmp_path / "set", "PNEUMONIA" if number % 2 else "NORMAL", number)
    return tmp_path / "set"


def test_what_was_frozen_is_read_back_with_its_labels(store: Any, folder: Path) -> None:
    frozen = freeze(store, PREFIX, folder)
    assert read(store, PREFIX) == frozen
    assert (len(frozen.items), frozen.positives, frozen.version) == (4, 2, frozen.digest[:12])
    found = {pixels.tobytes(): item.label for item, pixels in load(store, frozen)}
    assert found == {picture(number).tobytes(): number % 2 for number in range(4)}
    assert read(store, OTHER) is None


def test_no_file_name_and_no_header_reaches_the_store(store: Any, tmp_path: Path) -> None:
    for number, label in enumerate(("NORMAL", "PNEUMONIA")):
        path = tmp_path / label / "ROE^JANE.dcm"
        path.parent.mkdir()
        path.write_bytes(to_dicom(render(random_spec(number, size=256))))
    freeze(store, PREFIX, tmp_path)
    everything = b"".join(key.encode() + data for key, (data, _) in store.objects.items())
    assert b"ROE" not in everything
    assert b"DICM" not in everything
    assert len(store.objects) == 3


def test_the_same_files_again_change_nothing(store: Any, folder: Path) -> None:
    first = freeze(store, PREFIX, folder)
    before, store.writes = dict(store.objects), 0
    assert freeze(store, PREFIX, folder) == first
    assert (store.writes, store.objects) == (0, before)


def test_a_set_that_is_there_stays_whatever_comes(store: Any, folder: Path) -> None:
    first = freeze(store, PREFIX, folder)
    before = dict(store.objects)
    write(folder, "NORMAL", 9)
    with pytest.raises(SetError, match=f"version {first.version}, 4 cases.*stays as it is"):
        freeze(store, PREFIX, folder)
    assert store.objects == before
    assert freeze(store, "datasets/evaluation-2/", folder).digest != first.digest


def test_one_relabelled_radiograph_makes_another_set(store: Any, folder: Path) -> None:
    freeze(store, PREFIX, folder)
    path = next((folder / "NORMAL").iterdir())
    path.rename(folder / "PNEUMONIA" / path.name)
    with pytest.raises(SetError, match="another set"):
        freeze(store, PREFIX, folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["items"][0].update(label=1 - document["items"][0]["label"]),
        lambda document: document["items"].pop(),
        lambda document: document.update(digest="0" * 64),
    ],
    ids=["relabelled", "fewer", "digest"],
)
def test_a_manifest_that_was_changed_is_refused(store: Any, folder: Path, change: Any) -> None:
    freeze(store, PREFIX, folder)
    document = json.loads(store.get(PREFIX + "manifest.json"))
    change(document)
    store.put(PREFIX + "manifest.json", json.dumps(document).encode())
    with pytest.raises(SetError, match="was changed after it was frozen"):
        read(store, PREFIX)
    store.put(PREFIX + "manifest.json", b"{")
    with pytest.raises(SetError, match="unreadable"):
        read(store, PREFIX)


def test_an_object_that_was_changed_or_lost_is_refused(store: Any, folder: Path) -> None:
    frozen = freeze(store, PREFIX, folder)
    key = frozen.items[1].key
    store.put(key, bytes(cv2.imencode(".png", picture(77))[1]))
    with pytest.raises(SetError, match="an object was changed"):
        list(load(store, frozen))
    store.delete(key)
    with pytest.raises(SetError, match="an object is missing"):
        list(load(store, frozen))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", range(5))
def test_a_half_frozen_set_is_none_and_is_completed(store: Any, folder: Path, step: int, after: bool) -> None:
    store.fail(step, after)
    with pytest.raises(StoreUnavailable):
        freeze(store, PREFIX, folder)
    store.fail(None)
    assert (read(store, PREFIX) is not None) == (step == 4 and after)
    assert len(list(load(store, freeze(store, PREFIX, folder)))) == 4


def test_a_radiograph_of_the_other_set_is_refused(store: Any, folder: Path, tmp_path: Path) -> None:
    freeze(store, OTHER, folder)
    mixed = tmp_path / "mixed"
    write(mixed, "NORMAL", 20)
    write(mixed, "PNEUMONIA", 1)
    with pytest.raises(SetError, match="1 of these radiographs are in the set at datasets/rehearsal/ too"):
        freeze(store, PREFIX, mixed, apart_from=OTHER)
    assert read(store, PREFIX) is None
    write(mixed, "PNEUMONIA", 1, picture(21))
    assert freeze(store, PREFIX, mixed, apart_from=OTHER).positives == 1


def test_a_folder_that_makes_no_set_is_refused_without_naming_a_file(store: Any, folder: Path, tmp_path: Path) -> None:
    (folder / "NORMAL" / "Jane-Roe.txt").write_text("Jane Roe")
    with pytest.raises(SetError, match=r"1 of 5 files can't be judged \(.*: 1\)") as refusal:
        freeze(store, PREFIX, folder)
    assert "Roe" not in str(refusal.value)
    write(tmp_path / "both", "NORMAL", 1)
    write(tmp_path / "both", "PNEUMONIA", 1)
    with pytest.raises(SetError, match="both labels; take it out"):
        freeze(store, PREFIX, tmp_path / "both")
    write(tmp_path / "one", "NORMAL", 1)
    with pytest.raises(SetError, match="radiographs of both labels"):
        freeze(store, PREFIX, tmp_path / "one")
    (tmp_path / "none").mkdir()
    with pytest.raises(SetError, match="no files in folders named NORMAL and PNEUMONIA"):
        freeze(store, PREFIX, tmp_path / "none")
    assert store.objects == {}


def test_a_radiograph_twice_counts_once_and_its_folder_names_its_source(store: Any, tmp_path: Path) -> None:
    write(tmp_path / "Device_A", "NORMAL", 1)
    write(tmp_path / "Device_A", "PNEUMONIA", 2)
    write(tmp_path / "device_b", "NORMAL", 3)
    write(tmp_path / "device_b", "NORMAL", 4, picture(3))
    frozen = freeze(store, PREFIX, tmp_path)
    assert sorted(item.source for item in frozen.items) == ["device_a", "device_a", "device_b"]
