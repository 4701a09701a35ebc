"""Priority: lowered against every other process, never that of others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

AUTOGROUP = Path("/proc/self/autogroup")
CODE = """
import os
from pathlib import Path
from edgerad.priority import yield_processors
before, group = os.nice(0), Path("/proc/self/autogroup")
yield_processors(7)
print(os.nice(0) - before, group.read_text().split()[-1] if group.exists() else None)
"""


def priorities(*, own_session: bool) -> list[str]:
    """By how much a child is nicer, and how nice its session is."""
    command = (sys.executable, "-c", CODE)
    done = subprocess.run(command, start_new_session=own_session, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this kernel does not schedule by sessions")
def test_a_process_that_leads_its_session_lowers_that_and_another_only_itself() -> None:
    ours = AUTOGROUP.read_text().split()[-1]
    assert priorities(own_session=True) == ["7", "7"]
    assert priorities(own_session=False) == ["7", ours]
    assert AUTOGROUP.read_text().split()[-1] == ours
