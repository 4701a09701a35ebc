"""The DICOM receiver: C-ECHO and C-STORE into the object store; success is answered only for what is durable there."""

from __future__ import annotations

import hashlib
import ipaddress
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgerad.store import ObjectGone, ObjectStore, StoreError
from edgerad.telemetry import get_logger
from edgerad.upload import put_in_parts

if TYPE_CHECKING:
    from pynetdicom.events import Event

    from edgerad.sections import ReceiverSettings
    from edgerad.settings import Settings

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
"""Statuses of C-STORE (PS3.4 Table B.2-1); A700 tells the sender to try again later."""
MULTIPART_FROM = 32 * 2**20
STORAGE_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
    "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray, for presentation
    "1.2.840.10008.5.1.4.1.1.1.1.1",  # Digital X-Ray, for processing
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
    "1.2.840.10008.5.1.4.1.1.7.2",  # Multi-frame Grayscale Byte Secondary Capture
    "1.2.840.10008.5.1.4.1.1.7.3",  # Multi-frame Grayscale Word Secondary Capture
    "1.2.840.10008.5.1.4.1.1.7.4",  # Multi-frame True Color Secondary Capture
)
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
    "1.2.840.10008.1.2.5",  # RLE Lossless
)


def object_key(study_uid: str, instance_uid: str) -> str:
    """Return the key of an instance: digests, so that no identifier stands in a URL; a study shares a folder."""
    study, instance = (hashlib.sha256(uid.encode()).hexdigest() for uid in (study_uid, instance_uid))
    return f"dicom/{study[:16]}/{instance[:32]}.dcm"


def may_connect(address: str, allowed: Sequence[str]) -> bool:
    """Return whether an address is in one of the allowed addresses or networks; an empty list allows all."""
    if not allowed:
        return True
    peer = ipaddress.ip_address(address)
    return any(peer in ipaddress.ip_network(item, strict=False) for item in allowed)


@dataclass(frozen=True)
class Instance:
    """What identifies a received instance, read from its first bytes."""

    study_uid: str
    instance_uid: str


class NotUnderstood(ValueError):
    """The data set lacks what identifies it; the text says which attribute."""


def identify(file: BinaryIO) -> Instance:
    """Read StudyInstanceUID (0020,000D) and SOPInstanceUID (0008,0018) of a Part 10 file, and no further."""
    import pydicom

    try:
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["StudyInstanceUID", "SOPInstanceUID"])
    except Exception as error:  # noqa: BLE001 - pydicom raises what its parsing meets, and may quote values
        msg = f"the data set does not parse ({type(error).__name__})"
        raise NotUnderstood(msg) from None
    study, instance = str(dataset.get("StudyInstanceUID", "")), str(dataset.get("SOPInstanceUID", ""))
    if not study or not instance:
        msg = "StudyInstanceUID (0020,000D) or SOPInstanceUID (0008,0018) is missing"
        raise NotUnderstood(msg)
    return Instance(study, instance)


def keep(store: ObjectStore, path: Path, key: str) -> bool:
    """Store a file under a key, durably; return False when the same bytes are there already.

    An instance that is sent twice must not be a new object: it would be scored again. Raises StoreError.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        try:
            if store.head(key).metadata.get("sha256") == digest:
                return False
        except ObjectGone:
            pass
        file.seek(0)
        metadata = {"sha256": digest}
        if path.stat().st_size > MULTIPART_FROM:
            put_in_parts(store, key, file, "application/dicom", metadata)
        else:
            store.put(key, file, "application/dicom", metadata)
    return True


class Receiver:
    """A DICOM service class provider (SCP) in threads of this process."""

    def __init__(self, settings: ReceiverSettings, store: ObjectStore) -> None:
        """Keep what to accept; nothing listens yet."""
        self._settings, self._store = settings, store
        self._server: Any = None
        self._log = get_logger("receiver")
        self.counts = {"stored": 0, "repeated": 0, "failed": 0, "rejected": 0}

    @property
    def address(self) -> str:
        """HOST:PORT it listens on."""
        host, port = self._server.server_address[:2]
        return f"{host}:{port}"

    def start(self) -> None:
        """Listen; OSError when the port is taken."""
        from pynetdicom import AE, _config, evt

        _config.LOG_HANDLER_LEVEL = "none"
        # The data set goes from the network to a file: a large one takes no memory.
        _config.STORE_RECV_CHUNKED_DATASET = True
        settings = self._settings
        entity = AE(ae_title=settings.ae_title)
        entity.maximum_associations = settings.max_associations
        entity.network_timeout = entity.acse_timeout = entity.dimse_timeout = settings.network_timeout
        entity.require_called_aet = settings.require_called_ae_title
        entity.require_calling_aet = list(settings.calling_ae_titles)
        entity.add_supported_context("1.2.840.10008.1.1")
        for storage_class in STORAGE_CLASSES:
            entity.add_supported_context(storage_class, list(TRANSFER_SYNTAXES))
        handlers = [
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_C_ECHO, lambda _: SUCCESS),
            (evt.EVT_C_STORE, self._store_instance),
        ]
        self._server = entity.start_server((settings.host, settings.port), block=False, evt_handlers=handlers)

    def stop(self) -> None:
        """Stop listening and end the associations."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _requested(self, event: Event) -> None:
        if not may_connect(event.assoc.requestor.address, self._settings.addresses):
            self.counts["rejected"] += 1
            self._log.warning("association refused: address not in receiver.addresses")
            event.assoc.acse.send_reject(0x01, 0x01, 0x01)  # permanent, service user, no reason (PS3.8 9.3.4)
            event.assoc.kill()

    def _store_instance(self, event: Event) -> int:
        path = Path(event.dataset_path)
        try:
            if path.stat().st_size > self._settings.max_object_bytes:
                raise NotUnderstood("the data set is larger than receiver.max_object_bytes")  # noqa: TRY301
            with path.open("rb") as file:
                instance = identify(file)
            new = keep(self._store, path, object_key(instance.study_uid, instance.instance_uid))
        except NotUnderstood as error:
            self.counts["failed"] += 1
            self._log.warning("instance not understood", reason=str(error))
            return CANNOT_UNDERSTAND
        except (StoreError, OSError) as error:
            self.counts["failed"] += 1
            self._log.warning("instance not stored; the sender is told to try again", error=error)
            return OUT_OF_RESOURCES
        self.counts["stored" if new else "repeated"] += 1
        return SUCCESS


class ReceiverActor:
    """Thin Ray actor around `Receiver`."""

    def __init__(self, settings: Settings) -> None:
        """Listen as soon as the actor lives, and again when Ray has restarted it."""
        import threading

        from edgerad.database import Database
        from edgerad.store import config_from
        from edgerad.telemetry import configure_logging

        configure_logging(settings.telemetry)
        tempfile.tempdir = str(_spool(settings.data_dir))
        self._database = Database(settings.database_url)
        self._receiver = Receiver(settings.receiver, ObjectStore(config_from(settings.store)))
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


def _spool(data_dir: Path) -> Path:
    folder = data_dir / "spool"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
