"""Brings files into a running edgerad by the doors that a hospital uses: DICOM C-STORE and S3."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgerad import ids
from edgerad.store import ObjectStore

POSITIVE = frozenset({"PNEUMONIA", "POSITIVE", "ABNORMAL", "1"})
NEGATIVE = frozenset({"NORMAL", "NEGATIVE", "NO_FINDING", "0"})
IGNORED = frozenset({".csv", ".json", ".txt", ".md"})


@dataclass(frozen=True)
class Sample:
    """A file to feed; `label` positive, negative or None when its folder says nothing."""

    path: Path
    label: str | None


@dataclass(frozen=True)
class Fed:
    """A file that was fed: the identity by which it is found again, and the door it took."""

    sample: Sample
    image_id: str
    door: str


def samples(folder: Path) -> list[Sample]:
    """Return the files below a folder, sorted; a folder named after a label labels what is in it."""
    if not folder.is_dir():
        msg = f"{folder} is no folder; give one with X-rays (DICOM, JPEG, PNG), e.g. NORMAL/ and PNEUMONIA/ below it"
        raise FileNotFoundError(msg)
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".") and path.suffix.lower() not in IGNORED
    )
    return [Sample(path, label_of(path.relative_to(folder).parts[:-1])) for path in files]


def label_of(folders: tuple[str, ...]) -> str | None:
    """Return positive or negative by the folders' names, the innermost first, or None."""
    for name in reversed(folders):
        if name.upper() in POSITIVE:
            return "positive"
        if name.upper() in NEGATIVE:
            return "negative"
    return None


class Feeder:
    """Sends DICOM by C-STORE and everything else (also DICOM that the receiver refuses) by S3."""

    def __init__(self, store: ObjectStore, receiver: str | None, ae_title: str) -> None:
        """Keep where to send; `receiver` is HOST:PORT, or None when there is none."""
        self._store, self._receiver, self._ae_title = store, receiver, ae_title
        self._instances: set[str] = set()
        self._count = 0

    def feed(self, batch: list[Sample]) -> Iterator[Fed]:
        """Send files, yielding each when the door has acknowledged it."""
        by_dicom: list[tuple[Sample, bytes, str]] = []  # with the prefix of the key that each will have
        for sample in batch:
            data = sample.path.read_bytes()
            prefix = self._receiver_prefix(data)
            if prefix:
                by_dicom.append((sample, data, prefix))
            else:
                yield self._put(sample, data)
        for sample, data, prefix in by_dicom:
            if self._c_store(data):
                newest = max(self._store.list(prefix), key=lambda item: item.last_modified)
                yield Fed(sample, ids.image_id(self._store.bucket, newest.key, newest.etag), "C-STORE")
            else:
                yield self._put(sample, data)

    def _put(self, sample: Sample, data: bytes) -> Fed:
        self._count += 1
        # The name of a real file can hold a patient's name: the key is a number and the content's digest.
        key = f"upload/{self._count:06d}-{hashlib.sha256(data).hexdigest()[:12]}{sample.path.suffix.lower()}"
        stored = self._store.put(key, data)
        return Fed(sample, ids.image_id(self._store.bucket, key, stored.etag), "S3")

    def _receiver_prefix(self, data: bytes) -> str | None:
        """Return what the key of this file at the receiver will begin with, or None when it is none to send."""
        from ingest.instance import instance_prefix

        if self._receiver is None or data[128:132] != b"DICM":
            return None
        import pydicom
        from pydicom.errors import InvalidDicomError

        try:
            header = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
            instance, study = str(header.SOPInstanceUID), str(header.StudyInstanceUID)
        except (InvalidDicomError, AttributeError, EOFError, ValueError, OSError):
            return None
        if not instance or not study or instance in self._instances:
            return None
        self._instances.add(instance)
        return instance_prefix(study, instance)

    def _c_store(self, data: bytes) -> bool:
        """Send one file as a modality would; return whether the receiver has it durable."""
        import pydicom
        from pynetdicom import AE

        host, _, port = (self._receiver or "").rpartition(":")
        dataset = pydicom.dcmread(io.BytesIO(data), defer_size=None)
        entity = AE(ae_title="DEMO")
        entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
        association = entity.associate(host, int(port), ae_title=self._ae_title)
        if not association.is_established:
            return False
        try:
            status = association.send_c_store(dataset)
        except (ValueError, AttributeError, RuntimeError):  # a file that cannot be sent as it is, such as a cut one
            return False
        else:
            return "Status" in status and status.Status == 0x0000
        finally:
            association.release()
