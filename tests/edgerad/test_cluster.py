"""The local Ray cluster: what is told when none comes up, and who ends it."""

import os
import signal
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
