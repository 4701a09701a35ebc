"""De-identification in a process of its own, for those who have no Ray: a decoder that crashes ends one file's work."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from ship import heap
from ship.deidentify import Clean, Options, Quarantined, Reason, deidentify
from ship.keys import SiteKey

CRASHES = 2
"""Crashes after which a file is given up: the first may have been the machine's (memory), not the file's."""
STARTS_WITHIN = 300.0
Work = Callable[[bytes, SiteKey, Options, Sequence[str]], Clean | Quarantined]


def work(data: bytes, key: SiteKey, options: Options, hints: Sequence[str]) -> Clean | Quarantined:
    """What is done to one file."""
    return deidentify(data, key, options, hints=hints)


class Apart:
    """Has files de-identified, one at a time, by a child that is started when it is needed, and anew after a crash."""

    def __init__(self, key: SiteKey, options: Options, timeout: float) -> None:
        """Keep what the child is given; `timeout` are the seconds that a file may take."""
        self._key, self._options, self._timeout = key, options, timeout
        self._child: tuple[BaseProcess, Connection] | None = None

    def deidentify(self, data: bytes, hints: Sequence[str]) -> Clean | Quarantined:
        """As `ship.deidentify.deidentify`; quarantined as well when it crashes the child twice, or takes too long."""
        for _ in range(CRASHES):
            self._child = self._child or self._start()
            line = self._child[1]
            try:
                line.send((data, tuple(hints)))
                if not line.poll(self._timeout):
                    self.close()
                    return _given_up(Reason.HUNG, "it took longer than ship.image_timeout")
                answer: Clean | Quarantined = line.recv()
            except (EOFError, OSError):
                self.close()
            else:
                return answer
        return _given_up(Reason.CRASHED, "its process ended twice")

    def close(self) -> None:
        """End the child; the next file starts a new one."""
        if self._child is not None:
            (process, line), self._child = self._child, None
            line.close()
            process.kill()
            process.join()

    def _start(self) -> tuple[BaseProcess, Connection]:
        # A fork would copy whatever threads and locks the caller has.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, work, self._key, self._options), daemon=True)
        process.start()
        theirs.close()
        try:  # what it takes to start is not the file's time
            if ours.poll(STARTS_WITHIN):
                ours.recv()
            else:
                process.kill()
        except (EOFError, OSError):  # it died at once: met when the file is sent
            pass
        return process, ours


def _given_up(reason: Reason, detail: str) -> Quarantined:
    return Quarantined(reason, detail, (), {"verified": False, "reason": reason.value, "detail": detail, "boxes": []})


def _serve(line: Connection, do: Work, key: SiteKey, options: Options) -> None:
    """The child: an answer for each file, until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    os.dup2(2, 1)  # what a library prints must not stand among the parent's lines
    try:
        line.send(None)
        with heap.kept():
            while True:
                data, hints = line.recv()
                line.send(do(data, key, options, hints))
    except (EOFError, OSError):
        return
