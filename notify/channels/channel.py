"""What a channel is."""

from __future__ import annotations

from typing import Protocol

from notify.alerts import Notice


class ChannelError(Exception):
    """A notice did not get through; the text says why, without the URL, which can hold a token."""


class Unreachable(ChannelError):
    """Nobody answered: other notices would not get through either."""


class Channel(Protocol):
    """Tells somebody of an alert."""

    name: str

    def send(self, notice: Notice) -> None:
        """Deliver; raises `ChannelError` when it did not get through."""
        ...
