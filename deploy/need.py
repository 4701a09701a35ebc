"""Whether a real part can be had on this machine, and if not, why and how to get it."""

from __future__ import annotations

import shutil
from pathlib import Path

from deploy import kafka, postgres

PROGRAMS = {
    "ceph": (("ceph-mon", "ceph-mgr", "ceph-osd", "radosgw"), "ceph-mon ceph-mgr ceph-osd radosgw ceph-common"),
    "dcmtk": (("storescu", "dcmsend", "echoscu"), "dcmtk"),
    "dicom3tools": (("dciodvfy",), "dicom3tools"),
    "tesseract": (("tesseract",), "tesseract-ocr"),
    "chromium": (("chromium",), "chromium"),
    "kafka": (("java",), "openjdk-17-jre-headless maven"),
}  # fmt: skip
PARTS = ("kafka", "ceph", "postgres", "orthanc", "dcmtk", "dicom3tools", "tesseract", "chromium")


def missing(part: str) -> str | None:
    """Return why a part cannot be had and how to get it, or None when it can."""
    if part == "postgres":
        return None if postgres.binaries() else "PostgreSQL is not installed: apt-get install postgresql"
    if part == "orthanc":
        there = shutil.which("Orthanc") or Path("/usr/sbin/Orthanc").exists()
        return None if there else "Orthanc is not installed: apt-get install orthanc"
    programs, packages = PROGRAMS[part]
    absent = [program for program in programs if not shutil.which(program)]
    if absent:
        return f"{', '.join(absent)} not found: apt-get install {packages}"
    if part == "kafka" and not (kafka.jars() / f"kafka_2.13-{kafka.VERSION}.jar").exists():
        return "Apache Kafka's jars are not in the cache: python -m deploy.install (needs Maven)"
    return None
