"""What every part can do: start, stop, restart, die; a context that stops what it started."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy import process


class Part(ABC):
    """A real server on 127.0.0.1 with all its data in one folder."""

    programs: tuple[str, ...] = ()
    """Names of its programs, in the order they are started."""
    stop_signal = signal.SIGTERM
    kill_signal = signal.SIGKILL

    def __init__(self, folder: Path) -> None:
        """Keep the folder; what was chosen in it before is used again."""
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)

    def port(self, name: str = "port") -> int:
        """Return a port of this part, chosen once."""
        kept = process.recall(self.folder)
        if name not in kept:
            taken = {value for key, value in kept.items() if isinstance(value, int)}
            port = next(port for port in iter(process.free_port, None) if port not in taken)
            process.remember(self.folder, **{name: port})
            return port
        return int(str(kept[name]))

    def start(self) -> Self:
        """Start it and wait until it is ready, unless it runs; PartError, with nothing left running, if it fails."""
        if self.runs():
            return self
        self.stop()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    @abstractmethod
    def _start(self) -> None:
        """Start its programs and wait until it is ready."""

    @abstractmethod
    def endpoints(self) -> dict[str, str]:
        """Return how it is reached, as plain data."""

    def stop(self) -> None:
        """End its programs, the last started first."""
        for name in reversed(self.programs):
            process.end(self.folder, name, self.stop_signal)

    def kill(self) -> None:
        """End its programs without a chance to tidy up."""
        for name in reversed(self.programs):
            process.end(self.folder, name, self.kill_signal)

    def restart(self) -> None:
        """Stop it and start it again over the same data and ports."""
        self.stop()
        self.start()

    def runs(self) -> bool:
        """Return whether all its programs run."""
        return all(process.pid_of(self.folder, name) for name in self.programs)

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()
