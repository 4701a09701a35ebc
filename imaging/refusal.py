"""A refusal: why an image cannot be read or judged, by a code of `edgerad.reasons`."""

from __future__ import annotations

from edgerad.reasons import REASONS


class Unreadable(Exception):
    """An image that cannot be read or judged.

    `reason` is a key of REASONS. `detail` says more and never holds patient data. `header` holds the DICOM keywords for
    the worklist, as far as they could be read: patient data, which appear in no text of this exception.
    """

    def __init__(self, reason: str, detail: str, header: dict[str, str] | None = None) -> None:
        if reason not in REASONS:
            raise ValueError(f"{reason!r} is not a reason code; add it to edgerad/reasons.py with advice")
        self.reason, self.detail, self.header = reason, detail, header or {}
        super().__init__(f"{reason}: {detail}")

    def __reduce__(self) -> tuple[type[Unreadable], tuple[str, str, dict[str, str]]]:
        """Pickle by its fields (Ray sends exceptions between processes)."""
        return (Unreadable, (self.reason, self.detail, self.header))
