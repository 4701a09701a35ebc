"""DICOM written by hand (PS3.8 9.3, PS3.7 E.1), for what a well-behaved library does not send."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

CR, VERIFICATION = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.1.1"
EXPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
COMMAND, LAST = 1, 2


def pdu(kind: int, body: bytes = b"", length: int | None = None) -> bytes:
    """Return a PDU; `length` is what it declares."""
    return struct.pack(">BxL", kind, len(body) if length is None else length) + body


def item(kind: int, body: bytes) -> bytes:
    """Return an item of an association request."""
    return struct.pack(">BxH", kind, len(body)) + body


def associate_rq(called: str = "EDGERAD", extra: bytes = b"") -> bytes:
    """Return an A-ASSOCIATE-RQ: context 1 is Computed Radiography, 3 Verification, 5 is deflated Radiography."""
    contexts = b"".join(
        item(0x20, bytes([number, 0, 0, 0]) + item(0x30, abstract.encode()) + item(0x40, syntax.encode()))
        for number, abstract, syntax in ((1, CR, EXPLICIT), (3, VERIFICATION, EXPLICIT), (5, CR, DEFLATED))
    )
    user = item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3"))
    titles = called.ljust(16).encode() + b"BY HAND".ljust(16)
    return pdu(1, struct.pack(">HH", 1, 0) + titles + bytes(32) + item(0x10, b"1.2.840.10008.3.1.1.1") + contexts
               + user + extra)  # fmt: skip


def fragment(data: bytes, control: int, context: int = 1) -> bytes:
    """Return a P-DATA-TF with one fragment."""
    return pdu(4, struct.pack(">LBB", len(data) + 2, context, control) + data)


def command(field: int = 1, message: int = 7, data_set: int = 1, uid: str = "1.2.3.4", sop_class: str = CR) -> bytes:
    """Return a command set, C-STORE-RQ unless `field` says otherwise."""

    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHL", 0, number, len(value)) + value

    rest = b"".join((
        element(0x0002, sop_class.encode()), element(0x0100, struct.pack("<H", field)),
        element(0x0110, struct.pack("<H", message)), element(0x0700, struct.pack("<H", 0)),
        element(0x0800, struct.pack("<H", data_set)), element(0x1000, uid.encode()),
    ))  # fmt: skip
    return element(0x0000, struct.pack("<L", len(rest))) + rest


class Peer:
    """A connection to a receiver."""

    def __init__(self, address: str) -> None:
        """Connect."""
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)

    def send(self, data: bytes) -> None:
        """Send; a peer that has ended already is seen by `receive`."""
        try:
            self.socket.sendall(data)
        except OSError:
            return

    def receive(self) -> bytes:
        """Return the next PDU; empty when the connection was ended."""
        data = b""
        try:
            while len(data) < 6 or len(data) < 6 + struct.unpack(">L", data[2:6])[0]:
                piece = self.socket.recv(1 if len(data) < 6 else 6 + struct.unpack(">L", data[2:6])[0] - len(data))
                if not piece:
                    return b""
                data += piece
        except ConnectionError:
            return b""
        return data

    def associate(self) -> None:
        """Get an association."""
        self.send(associate_rq())
        assert self.receive()[:1] == b"\x02"

    def status(self) -> int | None:
        """Return the status of the next response; None when the association was aborted or ended."""
        data = self.receive()
        if data[:1] != b"\x04":
            return None
        at = data.index(struct.pack("<HHL", 0, 0x0900, 2))
        return int(struct.unpack_from("<H", data, at + 8)[0])


@contextmanager
def peer(address: str, associated: bool = True) -> Iterator[Peer]:
    """Yield a connection, with an association unless told otherwise."""
    found = Peer(address)
    try:
        if associated:
            found.associate()
        yield found
    finally:
        found.socket.close()
