"""A C-STORE request on its way in: its command set, its data set in the spool, and what is wrong with it."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from ingest.instance import STORAGE_CLASSES, content_hash
from ingest.spool import Spool, Spooled, TooLarge

SUCCESS, OUT_OF_RESOURCES, CLASS_NOT_SUPPORTED, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0x0122, 0xC000
"""Statuses of C-STORE (PS3.4 Table B.2-1, PS3.7 9.1.1.1.9); A700 tells the sender to try again later."""
C_STORE_RQ, NO_DATA_SET = 0x0001, 0x0101
"""Values of CommandField (0000,0100) and CommandDataSetType (0000,0800), PS3.7 E.1."""
SOP_CLASS, COMMAND_FIELD, MESSAGE_ID, DATA_SET_TYPE, SOP_INSTANCE = 0x0002, 0x0100, 0x0110, 0x0800, 0x1000
"""Element numbers of group 0000 (PS3.7 E.1)."""
IMPLEMENTATION_UID = "2.25.190517462884351470919326470155282961733"
MAX_UID = 128
"""Longest UID that goes into a file meta information; the standard's limit of 64 is not kept by every sender."""


class ProtocolFault(Exception):
    """The peer breaks the protocol so that no answer is possible; the association is aborted. `reason` is a code."""

    def __init__(self, reason: str) -> None:
        """Keep the reason; it quotes nothing that came."""
        super().__init__(reason)
        self.reason = reason


def parse_command(data: bytes) -> dict[int, bytes]:
    """Return the elements of a command set by element number (PS3.7 6.3.1: implicit VR little endian, group 0000).

    Raises ProtocolFault. Values are not interpreted: a UID that is too long is no reason to break off.
    """
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise ProtocolFault("command-undecodable")
        group, element, length = struct.unpack_from("<HHL", data, at)
        at += 8
        if group != 0 or at + length > len(data):
            raise ProtocolFault("command-undecodable")
        found[element] = data[at : at + length]
        at += length
    return found


def number(command: dict[int, bytes], element: int) -> int:
    """Return an element of VR US. Raises ProtocolFault when it is missing or no single number."""
    value = command.get(element, b"")
    if len(value) != 2:
        raise ProtocolFault("command-incomplete")
    return int.from_bytes(value, "little")


def uid(command: dict[int, bytes], element: int) -> str:
    """Return an element of VR UI without its padding; empty when it is missing."""
    return command.get(element, b"").decode("ascii", "replace").strip(" \0")


def file_header(sop_class: str, sop_instance: str, transfer_syntax: str) -> bytes:
    """Return what stands before a data set in a DICOM file: preamble and file meta information (PS3.10 7.1)."""
    version = struct.pack("<HH2sHL", 2, 0x0001, b"OB", 0, 2) + b"\0\1"
    elements = version + b"".join(
        _ui(element, value)
        for element, value in (
            (0x0002, sop_class),
            (0x0003, sop_instance),
            (0x0010, transfer_syntax),
            (0x0012, IMPLEMENTATION_UID),
        )
    )
    length = struct.pack("<HH2sHL", 2, 0x0000, b"UL", 4, len(elements))
    return bytes(128) + b"DICM" + length + elements


def _ui(element: int, value: str) -> bytes:
    encoded = value.encode("ascii", "replace")
    encoded = encoded if len(encoded) <= MAX_UID else b""
    encoded += b"\0" * (len(encoded) % 2)
    return struct.pack("<HH2sH", 2, element, b"UI", len(encoded)) + encoded


@dataclass
class Arrival:
    """A C-STORE request under way. `status` is SUCCESS until something goes wrong; `why` says what, as a code."""

    message_id: int
    context_id: int
    sop_class: str
    sop_instance: str
    spooled: Spooled
    status: int = SUCCESS
    why: str = ""
    received: int = field(default=0)
    """Bytes of the data set that came, whether they were kept or not."""

    @classmethod
    def begin(
        cls, command: dict[int, bytes], context_id: int, transfer_syntax: str, spool: Spool, limit: int
    ) -> Arrival:
        """Return the arrival that a C-STORE-RQ announces. Raises ProtocolFault when nobody could be answered."""
        sop_class, sop_instance = uid(command, SOP_CLASS), uid(command, SOP_INSTANCE)
        spooled = Spooled(spool.path(), limit, content_hash(transfer_syntax))
        arrival = cls(number(command, MESSAGE_ID), context_id, sop_class, sop_instance, spooled)
        if sop_class not in STORAGE_CLASSES:
            arrival.fail(CLASS_NOT_SUPPORTED, "storage-class")
        elif number(command, DATA_SET_TYPE) == NO_DATA_SET:
            arrival.fail(CANNOT_UNDERSTAND, "no-data-set")
        else:
            try:
                spooled.begin(file_header(sop_class, sop_instance, transfer_syntax))
            except OSError:
                arrival.fail(OUT_OF_RESOURCES, "spool")
        return arrival

    def take(self, data: bytes | memoryview, last: bool) -> None:
        """Take a fragment of the data set. After a failure the rest is read and dropped, up to twice the limit.

        Raises ProtocolFault when even more comes.
        """
        self.received += len(data)
        if self.status != SUCCESS:
            if self.received > 2 * self.spooled.limit:
                raise ProtocolFault("data-set-without-end")
            return
        try:
            self.spooled.write(data)
            if last:
                self.spooled.close()
        except TooLarge:
            self.fail(CANNOT_UNDERSTAND, "too-large")
        except OSError:
            self.fail(OUT_OF_RESOURCES, "spool")

    def fail(self, status: int, why: str) -> None:
        """Give the request up: its file is removed, and it is answered with the status."""
        self.status, self.why = status, why
        self.spooled.discard()
