"""`python -m deploy.parts start|stop|status --dir DIR [kafka ceph postgres orthanc]`: real parts, left running."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from deploy.ceph import Ceph
from deploy.kafka import Kafka
from deploy.orthanc import Orthanc
from deploy.part import Part
from deploy.postgres import Postgres
from deploy.process import PartError

PARTS: dict[str, type[Part]] = {"kafka": Kafka, "ceph": Ceph, "postgres": Postgres, "orthanc": Orthanc}


def main() -> None:
    """Start, stop or look at parts; `start` and `status` print one JSON object with the endpoints."""
    parser = argparse.ArgumentParser(prog="python -m deploy.parts", description=__doc__)
    parser.add_argument("action", choices=["start", "stop", "status"])
    parser.add_argument("--dir", type=Path, required=True, help="folder for the parts' data, logs and pid files")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which; none means kafka, ceph and postgres")
    options = parser.parse_intermixed_args()  # the parts may stand behind --dir
    chosen = [PARTS[name](options.dir / name) for name in options.parts or ("kafka", "ceph", "postgres")]
    if options.action == "stop":
        for part in reversed(chosen):
            part.stop()
        return
    try:
        if options.action == "start":
            for part in chosen:
                part.start()
    except PartError as error:
        for part in chosen:
            part.stop()
        sys.exit(f"deploy: {error}")
    sys.stdout.write(
        json.dumps({key: value for part in chosen if part.runs() for key, value in part.endpoints().items()}) + "\n"
    )


if __name__ == "__main__":
    main()
