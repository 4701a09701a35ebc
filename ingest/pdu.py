"""Protocol data units of the DICOM upper layer (PS3.8 9.3), read from a socket with limits on size and time."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

from ingest.arrival import ProtocolFault

ASSOCIATE_RQ, P_DATA_TF = 0x01, 0x04
KNOWN_TYPES = range(0x01, 0x08)
HEADER_BYTES = 6
MAX_ASSOCIATE_BYTES = 256 * 1024
"""Largest A-ASSOCIATE-RQ; 128 presentation contexts with 13 transfer syntaxes each take about 60 KiB."""
MAX_OTHER_BYTES = 1024
"""Largest PDU of another type that a requestor may send; a release request and an abort have 4 bytes."""
MAX_P_DATA_BYTES = 128 * 1024
"""Maximum length of a P-DATA-TF that the receiver negotiates (PS3.8 D.1)."""
DRAIN_SECONDS, DRAIN_BYTES = 1.0, 2**20
ABORT = b"\x07\x00\x00\x00\x00\x04\x00\x00\x02"
"""A-ABORT by the service provider, without its last byte, the reason (PS3.8 9.3.8)."""
UNEXPECTED, INVALID_PARAMETER = 2, 6


class Closed(Exception):
    """The connection ended, or nothing came in time."""


def read_pdu(peer: socket.socket, seconds: float, *, first: bool = False) -> bytes:
    """Return one whole PDU with its header.

    `first` accepts only an A-ASSOCIATE-RQ. Raises Closed when the connection ends or the PDU is not whole after
    `seconds`, and ProtocolFault for a type that is not expected or a length above the limit, before its body is read.
    """
    deadline = time.monotonic() + seconds
    data = bytearray()
    _read(peer, data, HEADER_BYTES, deadline)
    kind, length = struct.unpack(">BxL", data)
    if kind not in KNOWN_TYPES or (first and kind != ASSOCIATE_RQ):
        raise ProtocolFault("pdu-unexpected")
    if length > _limit(kind):
        raise ProtocolFault("pdu-too-large")
    _read(peer, data, HEADER_BYTES + length, deadline)
    return bytes(data)


def refuse(peer: socket.socket, reason: int) -> None:
    """Send an A-ABORT and end the connection; what the peer still sends is read for a moment, so that it sees why."""
    with contextlib.suppress(OSError):
        peer.settimeout(DRAIN_SECONDS)
        peer.sendall(ABORT + bytes([reason]))
        peer.shutdown(socket.SHUT_WR)
        deadline, left = time.monotonic() + DRAIN_SECONDS, DRAIN_BYTES
        while left > 0 and time.monotonic() < deadline and (data := peer.recv(64 * 1024)):
            left -= len(data)


def _limit(kind: int) -> int:
    return {ASSOCIATE_RQ: MAX_ASSOCIATE_BYTES, P_DATA_TF: MAX_P_DATA_BYTES}.get(kind, MAX_OTHER_BYTES)


def _read(peer: socket.socket, data: bytearray, until: int, deadline: float) -> None:
    """Append to `data` until it has `until` bytes."""
    try:
        while len(data) < until:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Closed
            peer.settimeout(left)
            piece = peer.recv(until - len(data))
            if not piece:
                raise Closed
            data += piece
    except OSError:
        raise Closed from None
