"""The DICOM receiver: C-ECHO and C-STORE into the object store; success is answered only for what is durable there."""

from __future__ import annotations

import ipaddress
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerad.store import ObjectStore, StoreError
from edgerad.telemetry import get_logger
from ingest.arrival import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, SUCCESS, Arrival
from ingest.instance import STORAGE_CLASSES, NotUnderstood, identify, keep, object_key
from ingest.pdu import MAX_P_DATA_BYTES
from ingest.spool import Spool

if TYPE_CHECKING:
    from edgerad.sections import ReceiverSettings
    from edgerad.settings import Settings

PROCESSING_FAILURE = 0x0110
"""Status of C-STORE for a fault of the receiver itself (PS3.7 9.1.1.1.9)."""
VERIFICATION = "1.2.840.10008.1.1"
TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
    "1.2.840.10008.1.2",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.1.99",  # Deflated Explicit VR Little Endian
    "1.2.840.10008.1.2.2",  # Explicit VR Big Endian
    "1.2.840.10008.1.2.4.50",  # JPEG Baseline
    "1.2.840.10008.1.2.4.51",  # JPEG Extended
    "1.2.840.10008.1.2.4.57",  # JPEG Lossless, process 14
    "1.2.840.10008.1.2.4.70",  # JPEG Lossless, first-order prediction
    "1.2.840.10008.1.2.4.80",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.81",  # JPEG-LS Near-lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.201",  # High-Throughput JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.202",  # High-Throughput JPEG 2000 Lossless with resolution order
    "1.2.840.10008.1.2.4.203",  # High-Throughput JPEG 2000
    "1.2.840.10008.1.2.5",  # RLE Lossless
)
NOTES = {
    "rejected": "association refused",
    "aborted": "association aborted: the peer broke the protocol, or was silent",
    "broken": "a transfer ended in the middle; what came of it was removed",
    "failed": "instance not stored; the sender was told",
}
"""What is logged with a count; the reason is a code and quotes nothing that came."""


def may_connect(address: str, allowed: Sequence[str]) -> bool:
    """Return whether an address is in one of the allowed addresses or networks; an empty list allows all."""
    if not allowed:
        return True
    peer = ipaddress.ip_address(address)
    if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped is not None:
        peer = peer.ipv4_mapped
    return any(peer in ipaddress.ip_network(item, strict=False) for item in allowed)


class Receiver:
    """A DICOM service class provider (SCP) in threads of this process.

    `counts` has stored and repeated instances, failed ones (answered with another status than success), rejected
    associations (address, AE title, number), aborted ones, and transfers that were broken off by the sender.
    """

    def __init__(self, settings: ReceiverSettings, store: ObjectStore, spool: Path | None = None) -> None:
        """Keep what to accept; nothing listens yet. What lies in the folder `spool` is removed by `start`."""
        self._settings, self._store, self._spool = settings, store, spool
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._server: Any = None
        self._log = get_logger("receiver")
        self._lock = threading.Lock()
        self.counts = {"stored": 0, "repeated": 0, "failed": 0, "rejected": 0, "aborted": 0, "broken": 0}

    @property
    def address(self) -> str:
        """HOST:PORT it listens on."""
        host, port = self._server.server_address[:2]
        return f"{host}:{port}"

    def start(self) -> None:
        """Listen; OSError when the port is taken."""
        from pynetdicom import AE, _config, evt

        from ingest.associations import Policy, Server

        _config.LOG_HANDLER_LEVEL = "none"
        settings = self._settings
        if self._spool is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="edgerad-spool-")
        entity = AE(ae_title=settings.ae_title)
        entity.maximum_associations = settings.max_associations
        entity.maximum_pdu_size = MAX_P_DATA_BYTES
        entity.network_timeout = entity.dimse_timeout = settings.network_timeout
        entity.require_called_aet = settings.require_called_ae_title
        entity.require_calling_aet = list(settings.calling_ae_titles)
        entity.add_supported_context(VERIFICATION)
        for storage_class in STORAGE_CLASSES:
            entity.add_supported_context(storage_class, list(TRANSFER_SYNTAXES))
        policy = Policy(
            lambda address: may_connect(address, settings.addresses),
            Spool(self._spool or Path(self._temporary.name if self._temporary else "")),
            settings.max_object_bytes,
            self._store_instance,
            self._note,
        )
        handlers = [
            (evt.EVT_C_ECHO, lambda _: SUCCESS),
            (evt.EVT_FSM_TRANSITION, lambda event: event.assoc.moved(event)),
            (evt.EVT_REJECTED, lambda _: self._note("rejected", "ae-title-or-number")),
        ]
        self._server = entity.make_server(
            (settings.host, settings.port), evt_handlers=handlers, server_class=Server, policy=policy
        )
        entity._servers.append(self._server)  # its shutdown takes it off this list
        threading.Thread(target=self._server.serve_forever, name="receiver", daemon=True).start()

    def stop(self) -> None:
        """Stop listening and end the associations."""
        if self._server is not None:
            self._server.shutdown()
            for association in self._server.active_associations:
                association.abort()
                association.join(5)
            self._server = None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def _note(self, count: str, reason: str = "", error: Exception | None = None) -> None:
        """Count what happened; log it unless it is usual."""
        with self._lock:
            self.counts[count] += 1
        if count in NOTES:
            details = {"error": error} if error is not None else {}
            self._log.warning(NOTES[count], reason=reason, **details)

    def _store_instance(self, arrival: Arrival) -> int:
        """Store what arrived and return the status; nothing that goes wrong leaves the sender without one."""
        if arrival.status != SUCCESS:
            self._note("failed", arrival.why)
            return arrival.status
        try:
            with arrival.spooled.path.open("rb") as file:
                instance = identify(file, self._settings.max_object_bytes)
            key = object_key(instance.study_uid, instance.instance_uid, arrival.spooled.digest.hexdigest())
            new = keep(self._store, arrival.spooled.path, key)
        except NotUnderstood as error:
            self._note("failed", str(error))
            return CANNOT_UNDERSTAND
        except (StoreError, OSError) as error:
            self._note("failed", "store", error)
            return OUT_OF_RESOURCES
        except Exception as error:  # noqa: BLE001 - a fault of ours; the sender must hear of it
            self._note("failed", "internal", error)
            return PROCESSING_FAILURE
        self._note("stored" if new else "repeated")
        return SUCCESS


class ReceiverActor:
    """Thin Ray actor around `Receiver`."""

    def __init__(self, settings: Settings) -> None:
        """Listen as soon as the actor lives, and again when Ray has restarted it."""
        from edgerad.database import Database
        from edgerad.store import config_from
        from edgerad.telemetry import configure_logging

        configure_logging(settings.telemetry)
        self._database = Database(settings.database_url)
        store = ObjectStore(config_from(settings.store))
        self._receiver = Receiver(settings.receiver, store, settings.data_dir / "spool")
        self._receiver.start()
        threading.Thread(target=self._report, daemon=True).start()

    def address(self) -> str:
        """Return HOST:PORT."""
        return self._receiver.address

    def _report(self) -> None:
        import time

        from sqlalchemy.exc import SQLAlchemyError

        from edgerad import ledger

        last: dict[str, int] = {}
        reported = 0.0
        while True:
            if self._receiver.counts != last or time.monotonic() - reported > 15:
                last, reported = dict(self._receiver.counts), time.monotonic()
                try:
                    ledger.report(self._database, "receiver", last)
                except SQLAlchemyError:
                    last = {}
            time.sleep(2)
