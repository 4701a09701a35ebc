"""Labelled cases: loading, splitting by patient, weights, and batches that a seed repeats."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from serve.preprocess import GRID
from train.augment import AugmentConfig
from train.dataset import (
    LESION_SIDE,
    CaseBatches,
    Cases,
    balanced_weights,
    grid_of,
    join,
    kermany_patient,
    load_labelled_folder,
    make_cases,
    shard,
    split_by_group,
)
from train.phantoms import TEST_SEED, TRAIN_SEED, phantom_cases, phantom_specs


def drawn(count: int, source: str = "a", seed: int = 0) -> Cases:
    """Cases of noise, labels in turn, two images a patient."""
    rng = np.random.default_rng(seed)
    grids = rng.integers(0, 255, (count, GRID, GRID)).astype(np.uint8)
    groups = tuple(f"{source}-patient-{index // 2}" for index in range(count))
    return Cases(grids, np.arange(count).astype(np.int8) % 2, groups, (source,) * count)


def write_folder(folder: Path) -> None:
    """Write two images of each label, of one patient each, and a stray folder."""
    for label, level in (("NORMAL", 60), ("PNEUMONIA", 160)):
        (folder / label / "more").mkdir(parents=True)
        for number in range(2):
            image = np.tile(np.linspace(level - 50, level + 50, 300), (240, 1)).astype(np.uint8)
            image[100:140, 100:140] = 20 + number * 100
            cv2.imwrite(str(folder / label / f"person{level}_virus_{number}.png"), image)


def test_a_folder_is_loaded_in_the_order_of_names_with_its_labels_and_patients(tmp_path: Path) -> None:
    write_folder(tmp_path)
    cases = load_labelled_folder(tmp_path, "hospital", patient=kermany_patient)
    assert cases.labels.tolist() == [0, 0, 1, 1]
    assert cases.groups == ("person60", "person60", "person160", "person160")
    assert cases.sources == ("hospital",) * 4
    assert cases.grids.shape == (4, GRID, GRID)
    assert load_labelled_folder(tmp_path, "hospital").groups[0] == "person60_virus_0.png"


def test_an_empty_folder_says_which_subfolders_it_needs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="NORMAL and PNEUMONIA"):
        load_labelled_folder(tmp_path, "hospital")


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("person12_bacteria_3.jpeg", "person12"),
        ("person12_virus_48.jpeg", "person12"),
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("NORMAL2-IM-1419-0001-0002.jpeg", "IM-1419"),
        ("something.png", "something.png"),
    ],
)
def test_the_patient_is_read_from_the_names_of_kermanys_files(name: str, patient: str) -> None:
    assert kermany_patient(name) == patient


def test_no_patient_is_on_both_sides_of_a_split_and_more_data_moves_nobody() -> None:
    some, more = drawn(60), join([drawn(60), drawn(40, "b", 1)])
    rest, held = split_by_group(some, 0.3, 7)
    assert len(rest) + len(held) == 60
    assert 6 <= len(held) <= 30
    assert not set(rest.groups) & set(held.groups)
    _, later = split_by_group(more, 0.3, 7)
    assert set(held.groups) == {group for group in later.groups if group.startswith("a")}
    assert set(split_by_group(some, 0.3, 8)[1].groups) != set(held.groups)


def test_cases_of_unequal_lengths_are_refused() -> None:
    cases = drawn(4)
    with pytest.raises(ValueError, match="one label, group and source"):
        Cases(cases.grids, cases.labels[:3], cases.groups, cases.sources)
    with pytest.raises(ValueError, match="one label, group and source"):
        replace(cases, lesions=np.zeros((3, LESION_SIDE, LESION_SIDE), np.uint8))
    with pytest.raises(ValueError, match="at least one labelled image"):
        make_cases([])


def test_taking_and_joining_keep_what_belongs_together() -> None:
    marked = replace(drawn(4), lesions=np.full((4, LESION_SIDE, LESION_SIDE), 255, np.uint8))
    both = join([drawn(2, "b"), marked]).take([5, 0])
    assert both.sources == ("a", "b")
    assert both.lesions is not None
    assert both.lesions.mean(axis=(1, 2)).tolist() == [255, 0], "nobody knows of a lesion in what has no masks"
    assert np.array_equal(both.grids[0], marked.grids[3])
    masked = marked.take(marked.labels == 1)
    assert masked.labels.tolist() == [1, 1]
    assert masked.lesions is not None
    assert len(masked.lesions) == 2
    assert join([drawn(2), drawn(2)]).lesions is None


def test_shards_share_all_cases_out_and_no_case_twice() -> None:
    cases = drawn(11)
    parts = [shard(cases, index, 3) for index in range(3)]
    assert sorted(part.grids[i].tobytes() for part in parts for i in range(len(part))) == sorted(
        grid.tobytes() for grid in cases.grids
    )
    assert [len(part) for part in parts] == [4, 4, 3]


def test_the_digest_of_a_set_knows_every_pixel_and_no_order() -> None:
    cases = drawn(4)
    digest = cases.manifest_digest()
    assert cases.take([2, 0, 3, 1]).manifest_digest() == digest
    changed = cases.grids.copy()
    changed[0, 0, 0] ^= 1
    assert replace(cases, grids=changed).manifest_digest() != digest
    assert replace(cases, labels=1 - cases.labels).manifest_digest() != digest


def test_weights_balance_labels_within_a_source_and_sources_by_their_images() -> None:
    cases = join([drawn(10, "a").take([0, 1, 3, 5, 7, 9]), drawn(4, "b")])
    weights = balanced_weights(cases)
    source = np.array(cases.sources)
    for name, share in (("a", 0.6), ("b", 0.4)):
        sums = [weights[(source == name) & (cases.labels == label)].sum() for label in (0, 1)]
        assert sums[0] == pytest.approx(sums[1])
        assert sum(sums) == pytest.approx(share * len(cases))
    alone = balanced_weights(drawn(4).take([0, 2]))
    assert alone.tolist() == pytest.approx([1, 1]), "a source with one label alone still counts"


def test_sixteen_bit_pixels_and_their_upper_byte_give_nearly_one_grid() -> None:
    fine = (np.random.default_rng(1).random((300, 400)) ** 2 * 65535).astype(np.uint16)
    assert np.abs(grid_of(fine).astype(int) - grid_of((fine >> 8).astype(np.uint8))).max() <= 3


def test_batches_are_those_of_their_seed_and_epoch() -> None:
    cases = drawn(20)
    source = CaseBatches(cases, 8, 3, input_size=64)
    first, again, later = list(source(0, 3)), list(source(0, 3)), list(source(1, 3))
    assert [batch.images.shape for batch in first] == [(8, 64, 64, 1)] * 3
    assert all(np.array_equal(a.images, b.images) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].images, later[0].images)
    assert first[0].lesions.shape == (8, 2, 2)
    assert not first[0].lesions.any()


def test_an_epoch_shows_every_case_once_before_any_twice() -> None:
    cases = drawn(12)
    weights = np.arange(12).astype(np.float32)
    config = AugmentConfig(frame_only=0.0)
    seen = np.concatenate([batch.weights for batch in CaseBatches(cases, 4, 0, weights=weights, config=config)(0, 6)])
    assert sorted(seen[:12].tolist()) == sorted(seen[12:].tolist()) == weights.tolist()


def test_a_frame_alone_has_the_target_that_says_nothing() -> None:
    cases = drawn(8)
    (batch,) = CaseBatches(cases, 8, 0, config=AugmentConfig(frame_only=1.0))(0, 1)
    assert batch.labels.tolist() == [0.5] * 8
    (batch,) = CaseBatches(cases, 8, 0, config=AugmentConfig(frame_only=0.0))(0, 1)
    assert sorted(batch.labels.tolist()) == [0, 0, 0, 0, 1, 1, 1, 1]


def test_the_other_of_a_pair_is_the_same_image_changed_in_another_way_and_never_a_frame() -> None:
    cases = drawn(8)
    (batch,) = CaseBatches(cases, 8, 0, config=AugmentConfig(frame_only=1.0), input_size=64, pairs=True)(0, 1)
    assert batch.others is not None
    spread = [views[:, 24:40, 24:40].std(axis=(1, 2)) for views in (batch.images, batch.others)]
    assert spread[0].max() < 8 < spread[1].min(), "nothing but noise inside a frame"
    (batch,) = CaseBatches(cases, 8, 0, config=AugmentConfig(frame_only=0.0), input_size=64, pairs=True)(0, 1)
    assert batch.others is not None
    assert batch.others.shape == batch.images.shape
    assert not any(np.array_equal(one, other) for one, other in zip(batch.images, batch.others, strict=True))
    (batch,) = CaseBatches(cases, 8, 0, input_size=64)(0, 1)
    assert batch.others is None


def test_phantoms_know_where_their_lesion_lies() -> None:
    cases = phantom_cases(phantom_specs(6, TEST_SEED, sizes=(256,)))
    assert cases.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert cases.lesions is not None
    assert cases.lesions.shape == (6, LESION_SIDE, LESION_SIDE)
    assert [bool(lesion.any()) for lesion in cases.lesions] == [False, True] * 3
    (batch,) = CaseBatches(cases, 6, 0, config=AugmentConfig(frame_only=0.0))(0, 1)
    assert batch.lesions.sum(axis=(1, 2)) == pytest.approx(batch.labels, abs=1e-5)


def test_phantom_specs_repeat_and_differ_between_seeds() -> None:
    assert phantom_specs(5, TEST_SEED) == phantom_specs(5, TEST_SEED)
    assert not set(map(str, phantom_specs(5, TEST_SEED))) & set(map(str, phantom_specs(5, TRAIN_SEED)))
    scanners = {spec.scanner for spec in phantom_specs(20, 1, scanners=("standard", "portable"))}
    assert scanners == {"standard", "portable"}
