"""DICOM associations on top of pynetdicom, with the limits that it does not have.

An address is checked before a byte is read. A connection becomes an association, and takes one of the places, when its
A-ASSOCIATE-RQ has arrived whole. PDUs and data sets are limited while they arrive. Whatever ends an association without
an answer is told to `Policy.note`. pynetdicom does the negotiation, the state machine and C-ECHO.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from edgerad.telemetry import get_logger
from ingest.arrival import (
    C_STORE_RQ,
    COMMAND_FIELD,
    MAX_UID,
    Arrival,
    ProtocolFault,
    number,
    parse_command,
)
from ingest.pdu import INVALID_PARAMETER, UNEXPECTED, Closed, read_pdu, refuse
from ingest.spool import Spool

REQUEST_SECONDS = 10.0
"""Time that a connection has until its A-ASSOCIATE-RQ is whole (the ARTIM timer of PS3.8 9.1.5)."""
MAX_WAITING = 128
"""Connections that may be without an A-ASSOCIATE-RQ at a time; one more ends the oldest of them."""
MAX_COMMAND_BYTES, MAX_OTHER_DATA_BYTES = 16 * 1024, 64 * 1024
"""Largest command set, and largest data set of a request that is not C-STORE: none is expected."""
MAX_QUEUED = 4
"""Requests that may wait for their answer; one is what is negotiated (PS3.7 D.3.3.3)."""
GIVE_WAY_SECONDS = 10.0
"""When all places are taken, an association that has sent nothing for so long is ended for a new one."""
ABORT_SENT_SECONDS = 2.0
"""Longest wait for the upper layer to send its last PDU before the connection is closed."""
ABORTS = frozenset({"AA-1", "AA-8"})
"""Actions of the state machine that send an A-ABORT (PS3.8 table 9-9)."""
COMMAND, LAST = 0x01, 0x02
"""Bits of the message control header (PS3.8 E.2)."""


@dataclass(frozen=True)
class Policy:
    """What the server does with peers; `store` returns the status of a C-STORE, `note` counts and logs an end."""

    may_connect: Callable[[str], bool]
    spool: Spool
    max_object_bytes: int
    store: Callable[[Arrival], int]
    note: Callable[[str, str], None]


class Dimse(DIMSEServiceProvider):  # type: ignore[misc]
    """Puts messages together from fragments: a data set of C-STORE in the spool, never in memory."""

    def __init__(self, assoc: GuardedAssociation) -> None:
        """Begin without a message."""
        super().__init__(assoc)
        self._command = bytearray()
        self._other_bytes = 0
        self._arrival: Arrival | None = None

    def receive_primitive(self, primitive: Any) -> None:
        """Take the fragments of one P-DATA; a fault ends the association."""
        try:
            for context_id, data in primitive.presentation_data_value_list:
                self._fragment(context_id, data)
        except ProtocolFault as fault:
            self.assoc.fault(fault.reason)
            self.dul.event_queue.put("Evt19")  # invalid PDU: A-ABORT (PS3.8 table 9-10)

    def discard(self) -> bool:
        """Remove what has no answer yet from the spool; return whether a transfer was under way."""
        waiting = [message for _, message in list(self.msg_queue.queue) if isinstance(message, Arrival)]
        arrival, self._arrival = self._arrival, None
        for unanswered in [*waiting, *([arrival] if arrival else [])]:
            unanswered.spooled.discard()
        return arrival is not None or bool(waiting)

    def _fragment(self, context_id: int, data: bytes) -> None:
        if not data or context_id not in self.assoc._accepted_cx:
            raise ProtocolFault("context-unknown" if data else "fragment-empty")
        last = bool(data[0] & LAST)
        if data[0] & COMMAND:
            self._command += data[1:]
            if len(self._command) > MAX_COMMAND_BYTES:
                raise ProtocolFault("command-too-large")
            if last:
                command, self._command = bytes(self._command), bytearray()
                self._begin(context_id, command)
        elif self._arrival is None:
            self._other_bytes += len(data)
            if self._other_bytes > MAX_OTHER_DATA_BYTES:
                raise ProtocolFault("data-set-unexpected")
            self._hand_over(context_id, data)
        else:
            if context_id != self._arrival.context_id:
                raise ProtocolFault("context-unexpected")
            self._arrival.take(memoryview(data)[1:], last)
            if last:
                self._queue()

    def _begin(self, context_id: int, data: bytes) -> None:
        command = parse_command(data)
        if self._arrival is not None or self.msg_queue.qsize() >= MAX_QUEUED:
            raise ProtocolFault("request-unexpected")
        if number(command, COMMAND_FIELD) != C_STORE_RQ:
            self._other_bytes = 0
            self._hand_over(context_id, bytes([COMMAND | LAST]) + data)
            return
        policy = self.assoc.policy
        syntax = str(self.assoc._accepted_cx[context_id].transfer_syntax[0])
        self._arrival = Arrival.begin(command, context_id, syntax, policy.spool, policy.max_object_bytes)
        if self._arrival.why == "no-data-set":
            self._queue()

    def _queue(self) -> None:
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            self.msg_queue.put((arrival.context_id, arrival))

    def _hand_over(self, context_id: int, data: bytes) -> None:
        """Give a fragment to pynetdicom, which decodes it; its errors may quote what came."""
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, data))
        try:
            super().receive_primitive(primitive)
        except Exception:  # noqa: BLE001 - whatever it meets, the association ends with a log line
            raise ProtocolFault("command-undecodable") from None


class UpperLayer(DULServiceProvider):  # type: ignore[misc]
    """Reads PDUs with limits; the first one was read by the server already."""

    def __init__(self, assoc: GuardedAssociation, request: bytes) -> None:
        """Keep the A-ASSOCIATE-RQ."""
        super().__init__(assoc)
        self._request: bytes | None = request
        self._deaf = False
        self.heard = time.monotonic()

    def run_reactor(self) -> None:
        """Run the state machine; an exception in it is counted and ends the association."""
        try:
            super().run_reactor()
        except Exception as error:  # noqa: BLE001 - pynetdicom's state machine raises what it meets
            self.assoc.crashed(error)
            self.to_user_queue.put(None)
            if self.socket is not None and self.socket.socket is not None:
                refuse(self.socket.socket, INVALID_PARAMETER)

    def _is_transport_event(self) -> bool:
        if self._request is not None:
            request, self._request = self._request, None
            self._take(request)
            return True
        return bool(super()._is_transport_event())

    def _read_pdu_data(self) -> None:
        peer = self.socket.socket
        if (
            self._deaf
        ):  # after a fault the stream has no sense any more: it is dropped until the peer or a timer ends it
            try:
                if peer.recv(64 * 1024):
                    return
            except OSError:
                pass
            self.event_queue.put("Evt17")
            return
        seconds = self.assoc.network_timeout
        try:
            data = read_pdu(peer, seconds)
        except Closed:
            self.event_queue.put("Evt17")  # transport connection closed
        except ProtocolFault as fault:
            self._break_off(fault.reason)
        else:
            peer.settimeout(seconds)
            self._take(data)

    def _take(self, data: bytes) -> None:
        self.heard = time.monotonic()
        try:
            pdu, event = self._decode_pdu(bytearray(data))
        except Exception:  # noqa: BLE001 - pynetdicom raises what its decoding meets
            self._break_off("pdu-undecodable")
            return
        self._recv_pdu.put(pdu)
        self.event_queue.put(event)

    def _break_off(self, reason: str) -> None:
        self._deaf = True
        self.assoc.fault(reason)
        self.event_queue.put("Evt19")  # unrecognised or invalid PDU


class GuardedAssociation(Association):  # type: ignore[misc]
    """An association that was accepted here."""

    def __init__(self, entity: Any, policy: Policy, peer: socket.socket, request: bytes) -> None:
        """Take pynetdicom's association, with the two layers above in place of its own."""
        super().__init__(entity, MODE_ACCEPTOR)
        self.policy, self._peer = policy, peer
        self._reason = ""
        self._doing = "idle"
        self.dul = UpperLayer(self, request)
        self.dimse = Dimse(self)
        # These three set timers of the upper layer.
        self.acse_timeout = REQUEST_SECONDS
        self.dimse_timeout = entity.dimse_timeout
        self.network_timeout = entity.network_timeout

    def fault(self, reason: str) -> None:
        """Keep why the association will be aborted."""
        self._reason = self._reason or reason

    def crashed(self, error: Exception) -> None:
        """Count an exception in pynetdicom, unless it came of an abort that is counted already."""
        if not self._reason:
            self.fault(f"internal-{type(error).__name__}")
            self.policy.note("aborted", self._reason)

    def is_silent(self) -> bool:
        """Return whether the peer, and not this side, has been silent for GIVE_WAY_SECONDS."""
        ours = self._doing != "idle" or not self.dimse.msg_queue.empty()
        return not ours and time.monotonic() - self.dul.heard > GIVE_WAY_SECONDS

    def moved(self, event: Any) -> None:
        """Follow the state machine: count an abort by this side; wake who waits for a request that is none."""
        if event.action in ABORTS:
            self.fault(self._doing if event.action == "AA-1" else "pdu-unexpected")
            self.policy.note("aborted", self._reason)
        if event.current_state == "Sta2" and event.next_state != "Sta3":
            self.dul.to_user_queue.put(None)

    def run_reactor(self) -> None:
        """Negotiate and serve; afterwards nothing of it is left in the spool."""
        try:
            super().run_reactor()
        except Exception as error:  # noqa: BLE001 - pynetdicom raises what its negotiation meets
            self.crashed(error)
            self.abort()
        finally:
            if self.dimse.discard() and not self._reason:
                self.policy.note("broken", "transfer-broken")
            self._peer.close()  # pynetdicom leaves it open where the peer closed first

    def _run_reactor(self) -> None:
        """Serve; pynetdicom then shuts the connection down, also under an A-ABORT that is about to be sent."""
        super()._run_reactor()
        if self.is_aborted:
            self.dul.join(ABORT_SENT_SECONDS)

    def _serve_request(self, msg: Any, context_id: int) -> None:
        if not isinstance(msg, Arrival):
            self._doing = "request-unexpected"  # what pynetdicom aborts in here, it aborts for that
            super()._serve_request(msg, context_id)
            self._doing = "idle"
            return
        self._doing = "storing"
        try:
            status = self.policy.store(msg)
        finally:
            msg.spooled.discard()
            self._doing = "idle"
        answer = C_STORE()
        answer.MessageIDBeingRespondedTo = msg.message_id
        answer.Status = status
        # Both are optional in the response (PS3.7 9.1.1.1): a UID that pynetdicom refuses is left out.
        if 0 < len(msg.sop_instance) <= MAX_UID // 2:
            answer.AffectedSOPInstanceUID = msg.sop_instance
        if 0 < len(msg.sop_class) <= MAX_UID // 2:
            answer.AffectedSOPClassUID = msg.sop_class
        self.dimse.send_msg(answer, context_id)


class Connection(RequestHandler):  # type: ignore[misc]
    """A connection that was accepted: waits for its A-ASSOCIATE-RQ, then hands over to an association."""

    def handle(self) -> None:
        """Read the request; runs in a thread of its own."""
        policy = self.server.policy
        try:
            with self.server.waiting(self.request):
                request = read_pdu(self.request, REQUEST_SECONDS, first=True)
        except Closed:
            self.server.shutdown_request(self.request)
            return
        except ProtocolFault as fault:
            policy.note("aborted", fault.reason)
            refuse(self.request, INVALID_PARAMETER if fault.reason == "pdu-too-large" else UNEXPECTED)
            self.server.shutdown_request(self.request)
            return
        self.server.make_room()
        self.request.settimeout(self.ae.network_timeout)
        association = GuardedAssociation(self.ae, policy, self.request, request)
        association._server = self.server
        association.name = f"AcceptorThread@{time.monotonic_ns()}"  # pynetdicom finds associations by this name
        association.set_socket(AssociationSocket(association, client_socket=self.request))
        own = association.acceptor
        own.maximum_length = self.ae.maximum_pdu_size
        own.ae_title = self.server.ae_title
        own.address_info = self.local
        own.implementation_class_uid = self.ae.implementation_class_uid
        own.implementation_version_name = self.ae.implementation_version_name
        own.supported_contexts = deepcopy(self.server.contexts)
        association.requestor.address_info = self.remote
        for event, handlers in self.server._handlers.items():
            if event.is_intervention:
                association.bind(event, *handlers)
            else:
                for handler in handlers:
                    association.bind(event, *handler)
        association.start()


class Server(ThreadedAssociationServer):  # type: ignore[misc]
    """Listens; checks the address of a connection as it is accepted."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *arguments: Any, policy: Policy, **options: Any) -> None:
        """Bind and listen; OSError when the port is taken."""
        self.policy = policy
        self._waiting: dict[int, socket.socket] = {}
        self._lock = threading.Lock()
        super().__init__(*arguments, request_handler=Connection, **options)

    def verify_request(self, request: Any, client_address: Sequence[Any]) -> bool:  # noqa: ARG002
        """Return whether the peer's address may connect; nothing of it has been read yet."""
        if self.policy.may_connect(str(client_address[0])):
            return True
        self.policy.note("rejected", "address")
        return False

    @contextmanager
    def waiting(self, peer: socket.socket) -> Iterator[None]:
        """Count a connection as one without a request; when there are too many, the oldest is ended."""
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                _end(self._waiting.pop(next(iter(self._waiting))))
            self._waiting[id(peer)] = peer
        try:
            yield
        finally:
            with self._lock:
                self._waiting.pop(id(peer), None)

    def make_room(self) -> None:
        """End the association that has been silent for longest when all places are taken."""
        taken = self.active_associations
        silent = [association for association in taken if association.is_silent()]
        if silent and len(taken) >= self.ae.maximum_associations:
            min(silent, key=lambda association: association.dul.heard).abort()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log that a connection could not be served; the standard library would print what it met."""
        get_logger("receiver").error("a connection could not be served")

    def server_close(self) -> None:
        """Stop listening, and end the connections that are not associations yet."""
        super().server_close()
        with self._lock:
            for peer in self._waiting.values():
                _end(peer)


def _end(peer: socket.socket) -> None:
    try:
        peer.shutdown(socket.SHUT_RDWR)  # its thread sees the end and closes it
    except OSError:
        return
