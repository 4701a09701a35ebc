"""One file a channel; a channel that is configured is told of every alert until a person acknowledges it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edgerad.settings import NotifySettings
from notify.alerts import Notice
from notify.channels import webhook


class Channel(Protocol):
    """Tells somebody of an alert."""

    name: str

    def send(self, notice: Notice) -> None:
        """Deliver; raises `ChannelError` when it did not get through."""
        ...


CHANNELS: dict[str, Callable[[NotifySettings], Channel | None]] = {"webhook": webhook.from_settings}
"""Makers by name; each returns None when its settings are empty. A new channel is a new file and a line here."""


def configured(settings: NotifySettings) -> list[Channel]:
    """Return the channels whose settings are given."""
    return [channel for make in CHANNELS.values() if (channel := make(settings)) is not None]
