"""Imported by every Ray worker before anything else, and by who starts a cluster: what holds in all of them.

Loopback goes through no proxy (`edgerad.surroundings`), and Ray Serve does without pandas.

Ray Serve imports pandas to write data frames into HTTP answers, which edgerad never gives, and does without where it is
not installed. That is half of the time that importing Ray Serve takes, and a third of the memory (ADR 20). Whoever else
imports pandas in such a process gets it.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from types import FrameType

from edgerad import surroundings

SPARED = ("pandas", "ray.serve._private.utils")
"""A module, and the one of Ray that has no use for it here."""


class _Sparing(MetaPathFinder):
    """Finds nothing, and says so at once to whom the module is spared."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if (fullname, _importer()) == SPARED:
            raise ModuleNotFoundError(f"{fullname} is spared to Ray Serve", name=fullname)


def _importer() -> str:
    """Name of the module that has the import statement under way."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") in (__name__, "importlib._bootstrap"):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__")) if frame is not None else ""


def install() -> None:
    """Let both hold in this process; once is enough."""
    surroundings.prepare()
    if not any(isinstance(finder, _Sparing) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Sparing())


install()  # all that can be configured of Ray is that it imports this module
