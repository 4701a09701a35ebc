"""`python -m deploy.demo_full [OPTIONS OF edgerad demo]`: the demo over real Kafka, Ceph RGW and PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.ceph import Ceph
from deploy.kafka import Kafka
from deploy.need import missing
from deploy.postgres import Postgres


def environment(ceph: Ceph) -> dict[str, str]:
    """Return the environment that carries Ceph's keys to edgerad."""
    endpoints = ceph.endpoints()
    return {
        f"EDGERAD_{section}STORE__{name}__VALUE": endpoints[name.lower()]
        for section in ("", "CORE__")
        for name in ("ACCESS_KEY", "SECRET_KEY")
    }


def main() -> None:
    """Start the parts, run the demo, stop the parts, also after Ctrl-C; exit with the demo's status."""
    for part in ("kafka", "ceph", "postgres"):
        if why := missing(part):
            sys.exit(f"demo-full: {why}")
    folder = Path(tempfile.mkdtemp(prefix="edgerad-full-"))
    try:
        with Kafka(folder / "kafka") as kafka, Ceph(folder / "ceph") as ceph, Postgres(folder / "postgres") as postgres:
            parts = ["--kafka", kafka.bootstrap, "--s3", ceph.endpoints()["s3"], "--database", postgres.url]
            command = [sys.executable, "-m", "edgerad.cli", "demo", *parts, *sys.argv[1:]]
            child = subprocess.Popen(command, env={**os.environ, **environment(ceph)})
            while True:
                try:
                    status = child.wait()
                    break
                except KeyboardInterrupt:  # the terminal sent it to the demo too, which ends by itself
                    continue
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
