"""Whether edgerad runs is told by a lock that goes with its process, however that ends."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from edgerad import runfile
from edgerad.runfile import AlreadyRuns, RunFile

HOLDER = """
import os, signal, sys, time
from pathlib import Path
from edgerad import runfile
folder = Path(sys.argv[1])
held = runfile.claim(folder)
runfile.RunFile("edge", os.getpid(), "2026-01-01T00:00:00+00:00", {"s3": "http://127.0.0.1:1"}).write(folder)
signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in sys.argv else lambda *_: sys.exit(0))
print("held", flush=True)
while True:
    time.sleep(60)
"""


def holder(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start a process that holds a folder as `edgerad up` does; returns when it does."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(folder), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    """End a process of ours and close its pipe."""
    process.kill()
    process.communicate()


def test_nothing_runs_where_nothing_was_started(tmp_path: Path) -> None:
    assert runfile.read(tmp_path) is None
    assert runfile.read(tmp_path / "not-there") is None
    (tmp_path / "file").touch()
    assert runfile.read(tmp_path / "file") is None


def test_another_process_is_found_and_a_second_is_refused(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        run = runfile.read(tmp_path)
        assert run is not None
        assert (run.pid, run.role, run.addresses) == (process.pid, "edge", {"s3": "http://127.0.0.1:1"})
        with pytest.raises(AlreadyRuns, match=rf"pid {process.pid}\); `edgerad down` ends it"):
            runfile.claim(tmp_path)
    finally:
        end(process)


def test_a_killed_one_does_not_run_and_leaves_the_folder_free(tmp_path: Path) -> None:
    end(holder(tmp_path))
    assert json.loads((tmp_path / "run" / "edgerad.json").read_text(encoding="utf-8"))["role"] == "edge"
    assert runfile.read(tmp_path) is None
    with runfile.claim(tmp_path):
        assert not (tmp_path / "run" / "edgerad.json").exists(), "what the killed one wrote tells nothing any more"


def test_a_file_that_names_a_process_of_others_is_not_believed(tmp_path: Path) -> None:
    RunFile("edge", os.getppid(), "2026-01-01T00:00:00+00:00").write(tmp_path)
    (tmp_path / "run" / "edgerad.lock").touch()
    assert runfile.read(tmp_path) is None


def test_half_a_file_is_none(tmp_path: Path) -> None:
    with runfile.claim(tmp_path):
        (tmp_path / "run" / "edgerad.json").write_text('{"role": "ed', encoding="utf-8")
        assert runfile.read(tmp_path) is None


def test_the_end_is_waited_for(tmp_path: Path) -> None:
    process = holder(tmp_path)
    run = runfile.read(tmp_path)
    assert run is not None
    try:
        assert runfile.stop(tmp_path, run, 60)
        assert process.wait(60) == 0
        assert runfile.stop(tmp_path, run, 0), "one that has ended has ended"
    finally:
        end(process)


def test_one_that_does_not_end_is_told_of(tmp_path: Path) -> None:
    process = holder(tmp_path, "deaf")
    run = runfile.read(tmp_path)
    assert run is not None
    try:
        assert not runfile.stop(tmp_path, run, 0.0)
        assert process.poll() is None
    finally:
        end(process)
    assert process.returncode == -signal.SIGKILL
