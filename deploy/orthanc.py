"""Orthanc as the hospital's PACS: takes DICOM by HTTP and sends it on by C-STORE."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from deploy import process
from deploy.part import Part


class Orthanc(Part):
    """An Orthanc that knows one peer, our receiver."""

    programs = ("orthanc",)

    def __init__(self, folder: Path, peer: tuple[str, str, int] | None = None) -> None:
        """Keep the peer: AE title, host and port."""
        super().__init__(folder)
        if peer is not None:
            process.remember(self.folder, peer=list(peer))

    def endpoints(self) -> dict[str, str]:
        """Return the HTTP address and the DICOM one."""
        return {"orthanc": f"http://127.0.0.1:{self.port()}", "orthanc_dicom": f"127.0.0.1:{self.port('dicom')}"}

    def _start(self) -> None:
        """Write the configuration, start, wait until it answers."""
        configuration = {
            "Name": "edgerad-test",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "HttpPort": self.port(),
            "DicomPort": self.port("dicom"),
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "HttpBindAddresses": ["127.0.0.1"],
            "Plugins": [],
            "DicomModalities": {"edgerad": process.recall(self.folder).get("peer", ["EDGERAD", "127.0.0.1", 1])},
        }
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(configuration), encoding="utf-8")
        program = "/usr/sbin/Orthanc" if Path("/usr/sbin/Orthanc").exists() else "Orthanc"
        process.spawn(self.folder, "orthanc", [program, str(path)])
        process.wait(self._answers, "Orthanc", self.folder, "orthanc")

    def upload(self, data: bytes) -> str:
        """Store a DICOM file; return Orthanc's identity of the instance."""
        return str(self._post("/instances", data)["ID"])

    def send(self, instances: list[str]) -> dict[str, Any]:
        """Send instances to the peer by C-STORE; return Orthanc's report (FailedInstancesCount and so on)."""
        body = json.dumps({"Resources": instances, "Synchronous": True}).encode()
        return self._post("/modalities/edgerad/store", body)

    def _post(self, path: str, data: bytes) -> dict[str, Any]:
        request = urllib.request.Request(self.endpoints()["orthanc"] + path, data=data, method="POST")  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own loopback address
            return dict(json.load(answer))

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoints()['orthanc']}/system", timeout=2):  # noqa: S310
                return True
        except (urllib.error.URLError, OSError):
            return False
