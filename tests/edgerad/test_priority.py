"""Priority: lowered against every other process, never that of others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")
CODE = """
import os, sys
from pathlib import Path
from edgerad import priority
before, group = os.nice(0), Path(sys.argv[1])
priority._AUTOGROUP = group
priority.yield_processors(7)
print(os.nice(0) - before, group.read_text().split()[-1])
"""


def priorities(group: Path, *, own_session: bool) -> list[str]:
    """By how much a child is nicer, and how nice its session is."""
    command = (sys.executable, "-c", CODE, str(group))
    done = subprocess.run(command, start_new_session=own_session, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_process_that_leads_its_session_lowers_that_and_another_only_itself(tmp_path: Path) -> None:
    group = AUTOGROUP
    if not (group.exists() and group.read_text().split()):  # no scheduling by sessions here: a plain file in its place
        group = tmp_path / "autogroup"
        group.write_text("/autogroup-1 nice 0\n")
    ours = group.read_text().split()[-1]
    assert priorities(group, own_session=False) == ["7", ours]
    assert priorities(group, own_session=True) == ["7", "7"]
    assert group != AUTOGROUP or group.read_text().split()[-1] == ours
