"""When and how fast parcels may be uploaded."""

from __future__ import annotations

import datetime as dt
import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgerad.store import ObjectStore

PIECE = 16 * 1024
"""Bytes handed on at a time: small enough for an even flow on a thin line."""


@dataclass(frozen=True)
class Window:
    """A part of the day, which may reach over midnight; without `start` the whole of it."""

    start: dt.time | None = None
    end: dt.time | None = None

    @classmethod
    def parse(cls, text: str) -> Window:
        """Return the window of a setting: HH:MM-HH:MM, or empty for the whole day."""
        if not text:
            return cls()
        start, _, end = text.partition("-")
        return cls(dt.time.fromisoformat(start), dt.time.fromisoformat(end))

    def is_open(self, at: dt.time) -> bool:
        """Return whether that time of day lies in it, the end excluded; equal ends are the whole day."""
        if self.start is None or self.end is None or self.start == self.end:
            return True
        if self.start < self.end:
            return self.start <= at < self.end
        return at >= self.start or at < self.end


class Pace:
    """So many bytes a second over all uploads together; 0 is no limit."""

    def __init__(
        self,
        bytes_per_second: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Keep the limit; `clock` and `sleep` are seconds."""
        self._rate, self._clock, self._sleep = bytes_per_second, clock, sleep
        self._free = 0.0
        self._lock = threading.Lock()

    def spend(self, count: int) -> None:
        """Wait until `count` more bytes may go."""
        with self._lock:
            at = self._clock()
            start = max(at, self._free)
            self._free = start + count / self._rate
        if start > at:
            self._sleep(start - at)

    def body(self, data: bytes) -> Any:
        """Return the body of a request with that content: as it is, or one that is read no faster than it may go."""
        return Paced(data, self) if self._rate else data

    def attach(self, store: ObjectStore) -> None:
        """Let a store's client tell bodies when they are read to be sent, and not to be signed."""
        if self._rate:
            events = store.client.meta.events
            events.register_first("request-created.s3", _signing, unique_id="edgerad-pace-signing")
            events.register_last("request-created.s3", _sending, unique_id="edgerad-pace-sending")


class Paced(io.BytesIO):
    """A request's body that waits for its turn, piece by piece, while it is being sent."""

    def __init__(self, data: bytes, pace: Pace) -> None:
        """Keep the content; it is not being sent yet."""
        super().__init__(data)
        self._pace = pace
        self.sending = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes: all that was asked for to sign them, a piece at most to send them."""
        if not self.sending:
            return super().read(size)
        data = super().read(PIECE if size is None or size < 0 else min(size, PIECE))
        if data:
            self._pace.spend(len(data))
        return data


def _signing(request: Any, **_: object) -> None:
    if isinstance(request.body, Paced):
        request.body.sending = False


def _sending(request: Any, **_: object) -> None:
    if isinstance(request.body, Paced):
        request.body.sending = True
