"""How far a partition is done: the offset up to which every record is durable, whatever order they end in."""

from __future__ import annotations


class Watermark:
    """Progress of one partition; a slow record in the middle holds the offset, not the records after it.

    Memory grows with the records under way alone. Offsets may have holes (compaction, transaction markers).
    """

    def __init__(self) -> None:
        """Begin with nothing received."""
        self._open: set[int] = set()
        self._next: int | None = None
        self._committed: int | None = None

    @property
    def open(self) -> int:
        """How many received records are not done."""
        return len(self._open)

    def received(self, offset: int) -> None:
        """Note a record that was handed out, perhaps once more."""
        self._open.add(offset)
        self._next = max(self._next or 0, offset + 1)

    def done(self, offset: int) -> None:
        """Note a record whose results are durable; one that was never received here changes nothing."""
        self._open.discard(offset)

    def position(self) -> int | None:
        """Return the offset to go on from after a restart: of the first record not done; None before any record."""
        return min(self._open) if self._open else self._next

    def to_commit(self) -> int | None:
        """Return the position when it differs from what was committed last."""
        position = self.position()
        return None if position == self._committed else position

    def committed(self, offset: int) -> None:
        """Note that the broker has this offset."""
        self._committed = offset
