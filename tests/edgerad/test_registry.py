"""The registry: a bundle is there whole or not at all, never changes, and one write says which one is served."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from edgerad import registry
from edgerad.store import ObjectGone, StoreUnavailable
from tests.train.conftest import MemoryStore

FINDING = "pneumonia"
A, B, C = "a" * 64, "b" * 64, "c" * 64
FILES = {"bundle.json": b"{}", "model.tflite": b"network" * 1000, "weights.npz": b"weights"}


@pytest.fixture
def store() -> MemoryStore:
    """An empty store that can be told to fail."""
    return MemoryStore()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle's folder."""
    return write(tmp_path / "bundle", FILES)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_was_published_is_pulled_file_by_file(store: Any, folder: Path, tmp_path: Path) -> None:
    registry.publish(store, FINDING, A, folder)
    assert content(registry.pull(store, FINDING, A, tmp_path / "edge")) == FILES
    assert list(registry.digests(store, FINDING)) == [A]
    assert list(registry.digests(store, "effusion")) == []


def test_publishing_again_writes_nothing(store: Any, folder: Path) -> None:
    registry.publish(store, FINDING, A, folder)
    before, store.writes = dict(store.objects), 0
    registry.publish(store, FINDING, A, folder)
    assert store.writes == 0
    assert store.objects == before


@pytest.mark.parametrize("name", sorted(FILES))
def test_another_content_under_a_published_digest_is_refused(
    store: Any, folder: Path, tmp_path: Path, name: str
) -> None:
    registry.publish(store, FINDING, A, folder)
    before = dict(store.objects)
    other = write(tmp_path / "other", {**FILES, name: b"another"})
    with pytest.raises(registry.RegistryError, match=f"another {name} under {A[:12]}; bundles are immutable"):
        registry.publish(store, FINDING, A, other)
    assert {key: store.objects[key] for key in before} == before


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", range(len(FILES)))
def test_a_half_uploaded_bundle_is_visible_to_nobody_and_completed_later(
    store: Any, folder: Path, tmp_path: Path, step: int, after: bool
) -> None:
    store.fail(step, after)
    with pytest.raises(StoreUnavailable):
        registry.publish(store, FINDING, A, folder)
    committed = step == len(FILES) - 1 and after
    assert registry.is_published(store, FINDING, A) == committed
    assert list(registry.digests(store, FINDING)) == ([A] if committed else [])
    if not committed:
        with pytest.raises(ObjectGone):
            registry.pull(store, FINDING, A, tmp_path / "edge")
        with pytest.raises(registry.RegistryError, match="not in the registry"):
            registry.promote(store, FINDING, A)
    store.fail(None)
    registry.publish(store, FINDING, A, folder)
    assert content(registry.pull(store, FINDING, A, tmp_path / "edge")) == FILES


@pytest.mark.parametrize("name", ["model.bin/x", "..", "weights .npz", ".hidden"])
def test_a_file_with_an_unfit_name_is_not_pulled(store: Any, folder: Path, tmp_path: Path, name: str) -> None:
    registry.publish(store, FINDING, A, folder)
    store.put(f"registry/{FINDING}/{A}/{name}", b"x")
    with pytest.raises(registry.RegistryDamaged, match="unfit name"):
        registry.pull(store, FINDING, A, tmp_path / "edge")
    assert list((tmp_path / "edge").iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda objects, key: objects.update({key: (b"damaged", objects[key][1])}), "model.tflite came damaged"),
        (lambda objects, key: objects.pop(key), "has lost a file"),
    ],
    ids=["damaged", "lost"],
)
def test_a_bundle_that_is_not_what_was_published_leaves_nothing_on_the_edge(
    store: Any, folder: Path, tmp_path: Path, spoil: Any, said: str
) -> None:
    registry.publish(store, FINDING, A, folder)
    key = f"registry/{FINDING}/{A}/model.tflite"
    good = store.objects[key]
    spoil(store.objects, key)
    with pytest.raises(registry.RegistryDamaged, match=said):
        registry.pull(store, FINDING, A, tmp_path / "edge")
    assert list((tmp_path / "edge").iterdir()) == []
    store.objects[key] = good
    assert content(registry.pull(store, FINDING, A, tmp_path / "edge")) == FILES, "put right, it is pulled"


def test_a_download_that_is_cut_leaves_nothing_and_a_second_one_succeeds(
    store: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.publish(store, FINDING, A, folder)
    whole = store.get
    calls = []

    def cut(key: str, *arguments: Any, **named: Any) -> bytes:
        calls.append(key)
        if len(calls) == 2:
            raise StoreUnavailable("cut")
        return bytes(whole(key, *arguments, **named))

    with monkeypatch.context() as patched:
        patched.setattr(store, "get", cut)
        with pytest.raises(StoreUnavailable):
            registry.pull(store, FINDING, A, tmp_path / "edge")
    assert list((tmp_path / "edge").iterdir()) == []
    assert content(registry.pull(store, FINDING, A, tmp_path / "edge")) == FILES


def test_several_that_pull_at_once_get_one_whole_bundle(store: Any, folder: Path, tmp_path: Path) -> None:
    registry.publish(store, FINDING, A, folder)
    together = threading.Barrier(4)
    pulled: list[Path] = []

    def work() -> None:
        together.wait()
        pulled.append(registry.pull(store, FINDING, A, tmp_path / "edge"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pulled == [tmp_path / "edge" / A] * 4
    assert [path.name for path in (tmp_path / "edge").iterdir()] == [A], "nothing is left aside"
    assert content(pulled[0]) == FILES


def test_the_pointer_moves_by_one_write_and_remembers_what_was_before(store: Any, folder: Path) -> None:
    assert registry.current(store, FINDING) is None
    for digest in (A, B):
        registry.publish(store, FINDING, digest, folder)
        store.writes = 0
        registry.promote(store, FINDING, digest)
        assert store.writes == 1
        assert registry.current(store, FINDING) == digest
    held = registry.pointer(store, FINDING)
    assert held is not None
    assert (held.digest, held.previous) == (B, A)
    store.writes = 0
    assert registry.promote(store, FINDING, B) == held
    assert store.writes == 0, "the same again is no move"
    assert registry.current(store, "effusion") is None


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_write_of_the_pointer_that_fails_leaves_the_old_one_or_the_new_one(
    store: Any, folder: Path, after: bool
) -> None:
    for digest in (A, B):
        registry.publish(store, FINDING, digest, folder)
    registry.promote(store, FINDING, A)
    store.fail(0, after)
    with pytest.raises(StoreUnavailable):
        registry.promote(store, FINDING, B)
    assert registry.current(store, FINDING) == (B if after else A)


def test_an_unreadable_pointer_is_said_and_put_right_by_a_promotion(store: Any, folder: Path) -> None:
    registry.publish(store, FINDING, A, folder)
    store.put(f"registry/{FINDING}/current.json", b'{"digest": "x"}')
    with pytest.raises(registry.RegistryDamaged, match="edgerad models promote"):
        registry.current(store, FINDING)
    registry.promote(store, FINDING, A)
    assert registry.current(store, FINDING) == A


@pytest.mark.parametrize("files", [{"model.tflite": b"x"}, {"bundle.json": b"{}", "a b": b"x"}])
def test_a_folder_that_is_no_bundle_is_not_published(store: Any, tmp_path: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(registry.RegistryError, match="cannot be published"):
        registry.publish(store, FINDING, A, write(tmp_path / "other", files))
    assert store.objects == {}


@pytest.mark.parametrize(("finding", "digest"), [("../x", A), ("Pneumonia", A), (FINDING, "../" + A), (FINDING, "a")])
def test_names_that_would_leave_the_registry_are_refused(store: Any, tmp_path: Path, finding: str, digest: str) -> None:
    for call in (
        lambda: registry.pull(store, finding, digest, tmp_path),
        lambda: registry.promote(store, finding, digest),
        lambda: registry.is_published(store, finding, digest),
    ):
        with pytest.raises(registry.RegistryError, match="registry: a"):
            call()
