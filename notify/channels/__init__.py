"""One file a channel; a channel that is configured is told of every alert until a person acknowledges it."""

from __future__ import annotations

from collections.abc import Callable

from edgerad.sections import NotifySettings
from notify.channels import webhook
from notify.channels.channel import Channel, ChannelError, Unreachable

__all__ = ["CHANNELS", "Channel", "ChannelError", "Unreachable", "configured"]

CHANNELS: dict[str, Callable[[NotifySettings], Channel | None]] = {"webhook": webhook.from_settings}
"""Makers by name; each returns None when its settings are empty. A new channel is a new file and a line here."""


def configured(settings: NotifySettings) -> list[Channel]:
    """Return the channels whose settings are given; SettingsError where they are given by halves."""
    return [channel for make in CHANNELS.values() if (channel := make(settings)) is not None]
