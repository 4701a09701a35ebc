"""The whole loop: over real parts as `make demo-full` runs it, and embedded on files of one's own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.ceph import Ceph
from deploy.demo_full import environment
from deploy.kafka import Kafka
from edgerad.phantom import write_set

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.timeout(1500)]


def demo(*arguments: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Run the demo once and return its summary."""
    done = subprocess.run(
        [sys.executable, "-m", "edgerad.cli", "demo", "--once", "--json", *arguments],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=1400,
    )
    assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    return dict(json.loads(done.stdout))


def account_is_complete(summary: dict[str, Any]) -> None:
    """Every image in exactly one end state, none twice."""
    images = summary["images"]
    assert summary["complete"]
    assert (images["lost"], images["pending"], images["scored_twice"], images["unexpected"]) == (0, 0, 0, 0)
    assert {line["state"] for line in images["files"]} <= {"assessed", "quarantined", "deleted"}


@pytest.mark.real
def test_the_whole_loop_over_kafka_ceph_and_postgresql(kafka_broker: Kafka, ceph: Ceph, postgres_url: str) -> None:
    summary = demo(
        *("--kafka", kafka_broker.bootstrap, "--s3", ceph.endpoints()["s3"], "--database", postgres_url),
        *("--count", "120"),
        env=environment(ceph),
    )
    account_is_complete(summary)
    assert summary["events"] == "store > gateway > Kafka"
    assert summary["shipments"].get("received", 0) > 0
    assert summary["training"]["state"] == "succeeded", summary["training"]
    assert summary["training"]["workers"] == 2
    assert summary["candidate"]["state"] in {"promoted", "rejected"}
    if summary["candidate"]["state"] == "promoted":
        assert summary["models_served"][-1] == summary["candidate"]["model"]
        assert len(summary["models_served"]) == 2


def test_own_files_are_all_accounted_for_behind_a_dead_proxy_and_under_a_long_tmpdir(tmp_path: Path) -> None:
    long = tmp_path / ("long-" * 20)
    long.mkdir()
    dead = "http://127.0.0.1:9"  # the discard port, on which nobody listens
    around = {**dict.fromkeys(PROXIES, dead), "TMPDIR": str(long), "LC_ALL": "C"}
    write_set(tmp_path / "xrays", 20, seed=3, size=512, labels_as_folders=False)
    (tmp_path / "xrays" / "note.dcm").write_text("not a DICOM file")
    summary = demo("--images", str(tmp_path / "xrays"), env=around)
    account_is_complete(summary)
    assert summary["images"]["fed"] == 21
    assert summary["training"]["state"].startswith("none")
    states = {Path(line["file"]).name: line for line in summary["images"]["files"]}
    assert states["note.dcm"]["state"] == "quarantined"
