"""`python -m deploy.install`: bring the real parts that tests and `make demo-full` use, as far as this machine allows.

As root by apt, Kafka by Maven into the user's cache. What may not be brought is named; the exit status stays 0: the
tests that need it skip and say why (in CI they fail).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from deploy import kafka
from deploy.need import PARTS, missing
from deploy.process import PartError

PACKAGES = {
    "kafka": ["maven"],
    "ceph": ["ceph-mon", "ceph-mgr", "ceph-osd", "radosgw", "ceph-common"],
    "postgres": ["postgresql"],
    "orthanc": ["orthanc"],
    "dcmtk": ["dcmtk"],
    "dicom3tools": ["dicom3tools"],
    "tesseract": ["tesseract-ocr"],
    "chromium": ["chromium"],
}
POLICY = Path("/usr/sbin/policy-rc.d")


def wanted() -> list[str]:
    """Return the Debian packages of the parts that are missing."""
    packages = [package for part in PARTS if missing(part) for package in PACKAGES[part]]
    if shutil.which("mvn") and "maven" in packages:
        packages.remove("maven")
    if not shutil.which("java"):
        packages.append("openjdk-17-jre-headless")
    return packages


def install_packages(packages: list[str]) -> bool:
    """Install Debian packages without starting any of their services; return whether that went well."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    blocked = not POLICY.exists()
    if blocked:  # a package that starts its service would take ports and memory of this machine
        POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
        POLICY.chmod(0o755)
    try:
        for command in (
            ["apt-get", "-q", "update"],
            ["apt-get", "-qy", "install", "--no-install-recommends", *packages],
        ):
            sys.stderr.write(f"install: {' '.join(command)}\n")
            done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
            if done.returncode:
                return False
    finally:
        if blocked:
            POLICY.unlink()
    return True


def main() -> None:
    """Bring what is missing, say what could not be brought."""
    packages = wanted()
    if packages and os.geteuid() == 0 and shutil.which("apt-get"):
        install_packages(packages)
    if missing("kafka") and shutil.which("java") and shutil.which("mvn"):
        sys.stderr.write("install: Apache Kafka by Maven\n")
        try:
            kafka.fetch()
        except PartError as error:
            sys.stderr.write(f"install: {error}\n")
    for part in PARTS:
        why = missing(part)
        sys.stderr.write(f"install: {part}: {why or 'there'}\n")


if __name__ == "__main__":
    main()
