"""A multipart/related body (RFC 2387, RFC 2046 5.1) into one file a part, with limits; memory stays flat.

The parser is python-multipart's: it takes a body in pieces, in time linear in its length.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from ingest.spool import Spooled, TooLarge

MAX_PREAMBLE, MAX_HEADER, MAX_HEADERS = 16 * 1024, 16 * 1024, 32
"""Largest text before the first part, and largest and most headers of a part."""
PIECE = 2**20
"""Bytes that are gathered for one hop to a thread."""


class MultipartError(Exception):
    """A body that cannot be taken: HTTP status and what to do."""

    def __init__(self, status: int, text: str) -> None:
        """Keep the status."""
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class BodyLimits:
    """Limits on one request: bytes of the body, number of parts, bytes of one part."""

    body_bytes: int
    parts: int
    part_bytes: int


class _Parts:
    """Writes the parts that the parser finds; blocking."""

    def __init__(self, boundary: bytes, limits: BodyLimits, folder: Path) -> None:
        self._limits, self._folder = limits, folder
        self._mark = b"--" + boundary
        self._delimiters = 0
        self._head: bytearray | None = bytearray()
        self._file: Spooled | None = None
        self.paths: list[Path] = []
        self.ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_headers_finished": self._begin,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER,
        )

    def feed(self, data: bytes) -> None:
        """Take a piece of the body. Raises MultipartError."""
        if self._head is not None:
            self._head += data
            start = self._head.find(self._mark)
            if start < 0:
                if len(self._head) > MAX_PREAMBLE:
                    raise MultipartError(400, "the body does not begin with the boundary of its Content-Type")
                return
            data, self._head = bytes(self._head[start:]), None
        # A part holds no line that begins with its boundary (RFC 2046 5.1.1): more of them than parts are an attack on
        # the parser, which looks at each one closely.
        self._delimiters += data.count(self._mark)
        if self._delimiters > self._limits.parts + 1:
            raise self._too_many()
        try:
            self._parser.write(data)
        except FormParserError:
            raise MultipartError(400, "the multipart body is malformed (RFC 2046 5.1)") from None
        except TooLarge:
            raise MultipartError(413, f"a part has more than {self._limits.part_bytes} bytes") from None
        except OSError:
            raise MultipartError(503, "there is no room to take the request; send it again later") from None

    def close(self) -> None:
        if self._file is not None:
            self._file.discard()

    def _too_many(self) -> MultipartError:
        return MultipartError(
            413, f"more than {self._limits.parts} parts; raise gateway.max_stow_parts if that is right"
        )

    def _begin(self) -> None:
        if len(self.paths) >= self._limits.parts:
            raise self._too_many()
        self._file = Spooled(self._folder / f"{len(self.paths)}.dcm", self._limits.part_bytes, hashlib.sha256())
        self._file.begin(b"")
        self.paths.append(self._file.path)

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(memoryview(data)[start:end])

    def _end(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _finish(self) -> None:
        self.ended = True


async def write_parts(stream: AsyncIterator[bytes], boundary: bytes, limits: BodyLimits, folder: Path) -> list[Path]:
    """Write the content of each part to a file of `folder`. Raises MultipartError."""
    try:
        parts = _Parts(boundary, limits, folder)
    except FormParserError:
        raise MultipartError(400, "the boundary is too long (RFC 2046 5.1.1: 70 characters)") from None
    total, piece = 0, bytearray()
    try:
        async for chunk in stream:
            total += len(chunk)
            if total > limits.body_bytes:
                text = f"more than {limits.body_bytes} bytes; raise gateway.max_stow_bytes if that is right"
                raise MultipartError(413, text)
            piece += chunk
            if len(piece) >= PIECE:
                await asyncio.to_thread(parts.feed, bytes(piece))
                piece.clear()
        await asyncio.to_thread(parts.feed, bytes(piece))
    finally:
        await asyncio.to_thread(parts.close)
    if not parts.ended or not parts.paths:
        raise MultipartError(400, "the multipart body ends too early or has no parts")
    return parts.paths
