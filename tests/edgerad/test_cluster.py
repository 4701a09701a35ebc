"""The local Ray cluster: what ended ones left behind, and what is told when none comes up."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgerad import cluster
from edgerad.preflight import CannotStart
from edgerad.settings import load_settings


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """What `connect` sets for Ray does not reach other tests."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def dead_pid() -> int:
    """Return the pid of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_sessions_of_ended_clusters_are_removed_but_for_the_newest(tmp_path: Path) -> None:
    gone = dead_pid()
    ended = [tmp_path / f"session_2026-01-0{day}_10-00-00_000001_{gone}" for day in (1, 2, 3)]
    alive = tmp_path / f"session_2026-01-01_09-00-00_000001_{os.getpid()}"
    other = tmp_path / "something_else"
    for folder in (*ended, alive, other):
        (folder / "logs").mkdir(parents=True)
    (tmp_path / "session_latest").symlink_to(ended[2])
    cluster.remove_old_sessions(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [alive.name, ended[2].name, other.name, "session_latest"]
    )


def test_a_folder_without_sessions_is_fine(tmp_path: Path) -> None:
    cluster.remove_old_sessions(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_does_not_come_up_is_told_after_three_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    tries: list[str] = []

    def fail(address: str, **_: object) -> None:
        tries.append(address)
        msg = "The current node timed out during startup."
        raise Exception(msg)  # noqa: TRY002 - Ray's own

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    settings = load_settings(None, data_dir=tmp_path)
    for address, said in ((None, "no Ray cluster came up on this machine"), ("10.0.0.1:6379", r"setting ray\.address")):
        tries.clear()
        with pytest.raises(CannotStart, match=said):
            cluster.connect(settings.model_copy(update={"ray": settings.ray.model_copy(update={"address": address})}))
        assert tries == [address or "local"] * 3


def test_who_ends_us_still_ends_us_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def takes_the_signal(**_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray's does, for an abort with a stack trace

    monkeypatch.setattr(ray, "init", takes_the_signal)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    before = signal.getsignal(signal.SIGTERM)

    def ours(number: int, frame: object) -> None: ...

    signal.signal(signal.SIGTERM, ours)
    try:
        cluster.connect(load_settings(None, data_dir=tmp_path, ray={"address": "10.0.0.1:6379"}))
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)
