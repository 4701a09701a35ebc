"""What the demo feeds, by which door, and that it finds again what it sent."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgerad import ids
from edgerad.demo.feed import Feeder, label_of, samples
from edgerad.demo.material import Material
from edgerad.demo.run import DemoOptions, settings_for
from edgerad.phantom import random_spec, render, to_dicom, to_jpeg
from edgerad.s3server import S3Server
from edgerad.sections import ReceiverSettings
from edgerad.settings import load_settings
from edgerad.store import ObjectStore, StoreConfig
from ingest.receiver import Receiver

PHANTOM = render(random_spec(5, size=224))
pytestmark = pytest.mark.usefixtures("logs")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """An embedded store."""
    with S3Server(tmp_path_factory.mktemp("s3"), "a", "s") as server:
        found = ObjectStore(StoreConfig(server.endpoint_url, "xray", "a", "s"))
        found.ensure_bucket()
        yield found
        found.client.close()


@pytest.mark.parametrize(
    ("folders", "label"),
    [
        (("NORMAL",), "negative"), (("PNEUMONIA",), "positive"), (("test", "normal", "batch 1"), "negative"),
        (("NORMAL", "PNEUMONIA"), "positive"), (("x", "1"), "positive"), (("x",), None), ((), None),
    ],
)  # fmt: skip
def test_folders_label_what_is_in_them(folders: tuple[str, ...], label: str | None) -> None:
    assert label_of(folders) == label


def test_files_are_found_to_any_depth_in_order_without_tables_and_hidden_ones(tmp_path: Path) -> None:
    for name in ("PNEUMONIA/b.dcm", "NORMAL/deep/a.jpeg", "c", "labels.csv", ".hidden/x.dcm", "NORMAL/.DS_Store"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {str(item.path.relative_to(tmp_path)): item.label for item in samples(tmp_path)}
    assert found == {
        "NORMAL/deep/a.jpeg": "negative", "PNEUMONIA/b.dcm": "positive", "c": None, ".hidden/x.dcm": None,
    }  # fmt: skip
    assert list(found) == sorted(found)
    with pytest.raises(FileNotFoundError, match="is no folder; give one with X-rays"):
        samples(tmp_path / "none")


def test_each_file_is_found_again_by_its_identity_whatever_the_door(tmp_path: Path, store: ObjectStore) -> None:
    dicom = to_dicom(PHANTOM)
    contents = {
        "a doe^jane.dcm": dicom, "b.jpeg": to_jpeg(PHANTOM), "c.dcm": dicom, "d.dcm": dicom[: len(dicom) // 2],
        "e.dcm": b"", "f.dcm": b"no image", "g.dcm": dicom[:400],
    }  # fmt: skip
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    receiver = Receiver(ReceiverSettings(port=0), store)
    receiver.start()
    try:
        feeder = Feeder(store, receiver.address, "EDGERAD")
        fed = {item.sample.path.name: item for item in feeder.feed(samples(tmp_path))}
    finally:
        receiver.stop()
    assert set(fed) == set(contents)
    assert fed["a doe^jane.dcm"].door == "C-STORE"
    assert {fed[name].door for name in ("b.jpeg", "c.dcm", "e.dcm", "f.dcm", "g.dcm")} == {"S3"}
    stored = {ids.image_id("xray", item.key, item.etag): item.key for item in store.list()}
    assert {item.image_id for item in fed.values()} == set(stored)
    assert len(stored) == len(contents), "the same instance sent twice is two objects by two doors"
    assert not any("doe" in key for key in stored.values()), "a file's name can be a patient's"


def test_a_receiver_that_refuses_is_gone_round(tmp_path: Path, store: ObjectStore) -> None:
    (tmp_path / "a.dcm").write_bytes(to_dicom(PHANTOM))
    receiver = Receiver(ReceiverSettings(port=0), store)
    receiver.start()
    try:
        (fed,) = Feeder(store, receiver.address, "ANOTHER").feed(samples(tmp_path))
    finally:
        receiver.stop()
    assert fed.door == "S3"


def test_ones_own_images_come_in_two_waves_and_none_is_left_out(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for number in range(10):
        (own / f"{number}.jpeg").write_bytes(bytes([number]))
    with Material(DemoOptions(images=own, seed=3), tmp_path / "work") as material:
        assert material.total == 10
        material.go_on()
        first = [item.path.name for batch in material.first_wave(4) for item in batch]
        second = [item.path.name for batch in material.second_wave(4) for item in batch]
    assert (len(first), len(second)) == (8, 2)
    assert sorted(first + second) == [f"{number}.jpeg" for number in range(10)]
    assert first != sorted(first), "shuffled, or one label would come first"


def test_a_folder_without_files_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no files"):
        Material(DemoOptions(images=tmp_path), tmp_path / "work")


def test_the_material_ends_with_the_demo_though_nobody_took_it(tmp_path: Path) -> None:
    material = Material(DemoOptions(count=40), tmp_path / "work")
    with material:
        next(material.first_wave(1))
    assert not material._thread.is_alive()


@pytest.mark.parametrize(("folder", "sets"), [("unsorted", 0), ("PNEUMONIA", 2)])
def test_the_core_is_given_sets_from_before_only_where_somebody_will_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, sets: int
) -> None:
    frozen: list[str] = []
    monkeypatch.setattr("edgerad.phantom.write_set", lambda *_, **__: None)
    monkeypatch.setattr("train.evaluation_set.freeze", lambda _, prefix, __: frozen.append(prefix))
    (tmp_path / "own" / folder).mkdir(parents=True)
    (tmp_path / "own" / folder / "1.jpeg").write_bytes(b"1")
    keys = {"access_key": {"value": "a"}, "secret_key": {"value": "s"}}
    settings = load_settings(data_dir=tmp_path, core={"store": {"endpoint_url": "http://127.0.0.1:9", **keys}})
    Material(DemoOptions(images=tmp_path / "own"), tmp_path / "work").stock_core(settings)
    assert len(frozen) == sets


def test_options_put_real_parts_in_the_place_of_embedded_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = settings_for(DemoOptions(), tmp_path)
    assert embedded.kafka.bootstrap_servers is None
    assert embedded.store.endpoint_url is None
    for name in ("STORE", "CORE__STORE"):
        monkeypatch.setenv(f"EDGERAD_{name}__ACCESS_KEY__VALUE", "k")
    real = settings_for(
        DemoOptions(kafka="kafka:9092", s3="http://s3", database="postgresql+psycopg://u:p@db/x"), tmp_path
    )
    assert real.kafka.bootstrap_servers == "kafka:9092"
    assert real.store.endpoint_url == real.core.store.endpoint_url == "http://s3"
    assert real.store.bucket != real.core.store.bucket
    assert real.core.store.access_key.reveal() == "k", "keys come by the environment"
    assert real.database_url == "postgresql+psycopg://u:p@db/x"
    assert load_settings().role == "both"
