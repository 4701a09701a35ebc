"""What every part can do: start, stop, restart, die; a context that stops what it started."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy import process


class Part(ABC):
    """A real server on 127.0.0.1 with all its data in one folder."""

    programs: tuple[str, ...] = ()
    """Names of its programs, in the order they are started."""

    def __init__(self, folder: Path) -> None:
        """Keep the folder; what was chosen in it before is used again."""
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)

    def port(self, name: str = "port") -> int:
        """Return a port of this part, chosen once."""
        kept = process.recall(self.folder)
        if name not in kept:
            process.remember(self.folder, **{name: process.free_port()})
            kept = process.recall(self.folder)
        return int(str(kept[name]))

    @abstractmethod
    def start(self) -> Self:
        """Start it and wait until it is ready; PartError when it does not become so."""

    @abstractmethod
    def endpoints(self) -> dict[str, str]:
        """Return how it is reached, as plain data."""

    def stop(self) -> None:
        """End its programs, the last started first."""
        for name in reversed(self.programs):
            process.end(self.folder, name)

    def kill(self) -> None:
        """End its programs as if the power had gone."""
        for name in reversed(self.programs):
            process.end(self.folder, name, hard=True)

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
