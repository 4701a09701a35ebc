"""De-identification in a process of its own, one image at a time: an image that crashes or hangs it harms no other.

Ray restarts a dead actor and repeats its task without end; an image that kills the text engine would do so for ever.
So the actor only watches: `Worker` gives orders to a child as lines of JSON and takes outcomes back the same way.
"""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, BinaryIO

from ship.orders import Kept, Order, Outcome, Sealed

if TYPE_CHECKING:
    from ship.parcel import Workplace

COMMAND = (sys.executable, "-m", "ship.worker")
READY = b"ready\n"
STARTS_WITHIN = 300.0
CRASHES = 2
"""Crashes after which an image is given up: the first may have been the machine's (memory), not the image's."""


class Worker:
    """The watching side: starts the child when it is needed, and a new one after a crash or a hang."""

    def __init__(self, environment: Mapping[str, str], timeout: float, command: Sequence[str] = COMMAND) -> None:
        """Keep how to start it; `environment` are the settings, `timeout` the seconds that an image may take."""
        self._environment, self._timeout, self._command = dict(environment), timeout, tuple(command)
        self._child: subprocess.Popen[bytes] | None = None

    def seal(self, order: Order) -> Outcome:
        """Have one image sealed; never raises for what the image does."""
        for _ in range(CRASHES):
            if self._child is None and not self._start():
                return Kept(order.shipment_id, "worker-not-started", retry=True)
            line, hung = self._ask(json.dumps(asdict(order)).encode() + b"\n")
            if hung:
                return Kept(order.shipment_id, "engine-hung", retry=False)
            if line is not None:
                return outcome_of(json.loads(line))
        return Kept(order.shipment_id, "engine-crashed", retry=False)

    def close(self) -> None:
        """End the child; the next image starts a new one."""
        if self._child is not None:
            child, self._child = self._child, None
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    _close(pipe)

    def _start(self) -> bool:
        self._child = subprocess.Popen(
            self._command,
            env={**os.environ, **self._environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # its priority, where Linux schedules by sessions, is not that of the replicas
        )
        if self._answer(STARTS_WITHIN) != READY:
            self.close()
            return False
        return True

    def _ask(self, line: bytes) -> tuple[bytes | None, bool]:
        """Return the child's answer and whether it hung; None when it died."""
        assert self._child is not None  # noqa: S101 - the caller started it
        assert self._child.stdin is not None  # noqa: S101
        try:
            self._child.stdin.write(line)
            self._child.stdin.flush()
            answer = self._answer(self._timeout)
        except BrokenPipeError:
            answer = b""
        if answer is None or not answer.endswith(b"\n"):
            self.close()
            return None, answer is None
        return answer, False

    def _answer(self, timeout: float) -> bytes | None:
        """Return a line, what came of one before the child died, or None when it took too long."""
        assert self._child is not None  # noqa: S101
        assert self._child.stdout is not None  # noqa: S101
        ready, _, _ = select.select([self._child.stdout], [], [], timeout)
        return self._child.stdout.readline() if ready else None


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except BrokenPipeError:  # what was still to be written has nobody to read it
        return


def content_of(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as JSON's types."""
    return {"kind": type(outcome).__name__, **asdict(outcome)}


def outcome_of(content: dict[str, Any]) -> Outcome:
    """Return an outcome from its JSON."""
    kind = content.pop("kind")
    return Sealed(**content) if kind == "Sealed" else Kept(**content)


def serve(work: Callable[[Order], Outcome], orders: BinaryIO, outcomes: BinaryIO) -> None:
    """The child's side: answer each order with its outcome until the orders end, which ends the process at once.

    Orders are read in a thread, so that the end of the parent is seen even in the middle of an image.
    """
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in orders:
            waiting.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    outcomes.write(READY)
    outcomes.flush()
    while True:
        order = Order(**json.loads(waiting.get()))
        result: Outcome
        try:
            result = work(order)
        except Exception:  # noqa: BLE001 - its text may quote the patient; a repeat would raise it again
            result = Kept(order.shipment_id, "internal-error", retry=False)
        outcomes.write(json.dumps(content_of(result)).encode() + b"\n")
        outcomes.flush()


def run(work: Callable[[Order, Workplace], Outcome] | None = None) -> None:
    """Serve on standard input and output, with the settings of the environment; `work` is ship.parcel.seal."""
    from edgerad.priority import yield_processors
    from edgerad.settings import load_settings
    from edgerad.telemetry import configure_logging
    from ship import heap
    from ship.parcel import seal, workplace

    outcomes = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an outcome
    settings = load_settings()
    configure_logging(settings.telemetry)
    yield_processors(settings.ship.niceness)
    place = workplace(settings)
    with heap.kept():
        serve(lambda order: (work or seal)(order, place), sys.stdin.buffer, outcomes)


if __name__ == "__main__":
    run()
