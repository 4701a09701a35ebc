"""An image that crashes, hangs or raises costs itself and no other."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgerad.sections import ShipSettings
from edgerad.settings import load_settings
from ship.orders import Kept, Order
from ship.worker import Worker

SCRIPT = str(Path(__file__).parent / "poisoned_worker.py")
FOR_EVER = 600.0


def order(name: str) -> Order:
    return Order(
        f"s-{name}", "i", f"a/{name}.dcm", None, "pneumonia", 0.5, "unknown", "a" * 64, "c/1", "t/1", "unknown"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes say what they did."""
    return tmp_path_factory.mktemp("poison")


@pytest.fixture(scope="module")
def start(folder: Path) -> Iterator[Callable[..., Worker]]:
    """Starts a worker whose images are poisoned by their keys."""
    made: list[Worker] = []
    keys = {"access_key": {"value": "ak"}, "secret_key": {"value": "sk"}}
    core = {"parcel_public_key": base64.b64encode(bytes(range(32))).decode()}
    settings = load_settings(data_dir=folder, store={"endpoint_url": "http://127.0.0.1:9", **keys}, core=core)
    environment = {**settings.environment(), "POISON_FOLDER": str(folder)}

    def worker(command: tuple[str, ...]) -> Worker:
        made.append(Worker(environment, FOR_EVER, command))
        return made[-1]

    yield worker
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def worker(start: Callable[..., Worker]) -> Worker:
    """One worker for all tests: what one image does to it must not be felt by the next."""
    return start((sys.executable, SCRIPT))


def processes(folder: Path, name: str) -> list[str]:
    return (folder / f"{name}.log").read_text().split()


def quick(worker: Worker) -> bool:
    return worker.seal(order("quick")) == Kept("s-quick", "quick", retry=False)


def test_it_yields_the_processors_to_whoever_scores(worker: Worker, folder: Path) -> None:
    assert quick(worker)
    pid = int(processes(folder, "quick")[-1])
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(os.nice(0) + ShipSettings().niceness, 19)
    assert os.getsid(pid) == pid


def test_an_image_that_crashes_the_process_is_given_up_after_two_and_the_next_goes_on(
    worker: Worker, folder: Path
) -> None:
    assert quick(worker)
    assert worker.seal(order("crashes")) == Kept("s-crashes", "engine-crashed", retry=False)
    assert len(set(processes(folder, "crashes"))) == 2
    assert quick(worker)


def test_a_crash_that_is_not_the_images_fault_costs_nothing(worker: Worker, folder: Path) -> None:
    outcome = worker.seal(order("crashes-once"))
    assert isinstance(outcome, Kept)
    assert outcome.reason == "store-unavailable", "the second process did the work"
    assert len(set(processes(folder, "crashes-once"))) == 2


def test_an_image_that_hangs_is_given_up_and_its_process_ended(
    worker: Worker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert quick(worker)
    pid = int(processes(folder, "quick")[-1])
    with monkeypatch.context() as patched:
        patched.setattr(worker, "_timeout", 0.1)
        assert worker.seal(order("hangs")) == Kept("s-hangs", "engine-hung", retry=False)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_image_that_raises_is_kept_without_what_the_exception_says(worker: Worker) -> None:
    outcome = worker.seal(order("raises"))
    assert outcome == Kept("s-raises", "internal-error", retry=False)
    assert "Okafor" not in repr(outcome)
    assert quick(worker)


def test_what_a_library_prints_is_no_outcome(worker: Worker) -> None:
    outcome = worker.seal(order("prints"))
    assert isinstance(outcome, Kept)
    assert outcome.reason == "store-unavailable"


@pytest.mark.parametrize("command", [("false",), (sys.executable, "-c", "print('hello', flush=True); input()")])
def test_a_process_that_does_not_start_is_no_images_fault(
    start: Callable[..., Worker], command: tuple[str, ...]
) -> None:
    assert start(command).seal(order("quick")) == Kept("s-quick", "worker-not-started", retry=True)
