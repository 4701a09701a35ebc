"""A de-identification process for tests: what it does to an image stands in the image's key."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from ship.orders import Kept, Order, Outcome
from ship.parcel import Workplace, seal
from ship.worker import run


def once(path: Path) -> bool:
    """Return whether this is the first time, over all processes."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def work(order: Order, place: Workplace) -> Outcome:
    """Seal, or crash, hang, raise, or kill the actor that watches."""
    folder, name = Path(os.environ["POISON_FOLDER"]), order.key.rpartition("/")[2].partition(".")[0]
    with (folder / f"{name}.log").open("a") as log:
        log.write(f"{os.getpid()}\n")
    match name:
        case "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "crashes-once" if once(folder / "crashed"):
            os.kill(os.getpid(), signal.SIGKILL)
        case "hangs":
            threading.Event().wait()
        case "raises":
            raise ValueError("Okafor^Anna, born 1953-02-01")
        case "kills-its-actor" if once(folder / "killed"):
            os.kill(os.getppid(), signal.SIGKILL)
            threading.Event().wait()  # the end of the actor ends this process
        case "prints":
            print("not an outcome", flush=True)  # noqa: T201
        case "quick":
            return Kept(order.shipment_id, "quick", retry=False)
    return seal(order, place)


if __name__ == "__main__":
    run(work)
