"""The cluster files: Ray's own `ray up` takes them, and what it would run on the machines does what it should there.

`ray up` runs for real, with an ssh and an rsync in its path that do here, in a folder, what it asks of another machine.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import edgerad
from edgerad.cluster import PRELOADED

ROOT = Path(__file__).parents[1]
CLUSTERS = [("cluster.yaml", "edge"), ("cluster.core.yaml", "core")]
# The last argument is a command, quoted for the other machine's shell.
SSH = """#!/bin/bash
HOME="$REMOTE" exec bash -c "bash -c ${@: -1}" > /dev/null 2>> "$REMOTE/errors" < /dev/null
"""
RSYNC = """#!/bin/bash
to="${@: -1}"; from="${@: -2:1}"
case "$from" in */) from="$from." ;; esac
cp -r "$from" "$REMOTE/${to#*:~/}"
"""
PROGRAM = """#!/bin/bash
with="$RAY_AUTH_MODE ${RAY_AUTH_TOKEN_PATH##*/} ${EDGERAD_SETTINGS##*/} $EDGERAD_RAY__ADDRESS"
echo "${0##*/} $* [$with]" >> "$REMOTE/said"
case "$*" in
  status*) test -e "$REMOTE/ray-runs" ;;
  *--head*) touch "$REMOTE/ray-runs" ;;
  *--block*) echo $$ >> "$REMOTE/pids"; exec sleep 600 ;;
esac
"""


def load(name: str) -> dict[str, Any]:
    """Return a cluster file."""
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    return found


def script(path: Path, content: str) -> None:
    """Write a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    path.chmod(0o755)


class Machines:
    """The administrator's machine, from which `ray up` is run, and another that it reaches by ssh."""

    def __init__(self, folder: Path, name: str) -> None:
        self.local, self.remote, self.name = folder / "local", folder / "remote", name
        for program, content in (("ssh", SSH), ("rsync", RSYNC)):
            script(self.local / "bin" / program, content)
        for program in ("ray", "edgerad", "uv"):
            script(self.remote / "edgerad" / "venv" / "bin" / program, PROGRAM)
        (self.local / ".ssh").mkdir()
        (self.local / ".ssh" / "id_ed25519").touch()
        (self.local / "dist").mkdir()
        (self.local / "dist" / f"edgerad-{edgerad.__version__}-py3-none-any.whl").touch()
        (self.local / "edgerad.toml").touch()
        for file in (name, "requirements.lock"):
            (self.local / file).write_bytes((ROOT / file).read_bytes())

    @property
    def environment(self) -> dict[str, str]:
        """What both sides see."""
        own = {
            "HOME": str(self.local), "REMOTE": str(self.remote), "RAY_TMPDIR": str(self.local),
            "PATH": f"{self.local / 'bin'}:{os.environ['PATH']}", "RAY_UP_enable_autoscaler_v2": "0",
            "RAY_AUTH_MODE": "disabled",
        }  # fmt: skip
        return {**os.environ, **own}

    def ray_up(self) -> list[str]:
        """Run `ray up`; return what was run on the other machine."""
        (self.remote / "said").unlink(missing_ok=True)
        code = "import sys; from ray.scripts.scripts import main; sys.argv = ['ray', *sys.argv[1:]]; main()"
        command = [sys.executable, "-c", code, "up", self.name, "--yes", "--no-config-cache"]
        done = subprocess.run(
            command, cwd=self.local, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return (self.remote / "said").read_text(encoding="utf-8").splitlines()


@pytest.mark.ray
@pytest.mark.parametrize(("name", "role"), CLUSTERS)
def test_ray_up_starts_a_head_and_a_second_time_only_edgerad_anew(tmp_path: Path, name: str, role: str) -> None:
    machines = Machines(tmp_path, name)
    first = machines.ray_up()
    ours = "[token ray-token edgerad.toml "
    wheel = f"edgerad-{edgerad.__version__}-py3-none-any.whl"
    assert [line.split(" [")[0].replace(str(machines.remote), "~") for line in first] == [
        "uv pip sync --quiet --python ~/edgerad/venv ~/edgerad/requirements.lock",
        f"uv pip install --quiet --python ~/edgerad/venv --no-deps ~/edgerad/dist/{wheel}",
        "ray status --address=127.0.0.1:6379",
        "ray start --head --port=6379 --dashboard-host=127.0.0.1 --autoscaling-config=~/ray_bootstrap_config.yaml",
        "edgerad down",
        f"edgerad up --role {role} --detach",
    ]
    assert all(ours in line for line in first[2:]), "Ray's token is asked for, and our settings are read, everywhere"
    assert first[-1].endswith("127.0.0.1:6379]"), "edgerad joins that Ray, and starts none of its own"
    for file in ("edgerad.toml", "requirements.lock", f"dist/{wheel}"):
        assert (machines.remote / "edgerad" / file).is_file(), "it was carried over"
    again = machines.ray_up()
    assert not [line for line in again if line.startswith("ray start")], "a Ray that runs is left running"
    assert [line.split(" [")[0] for line in again[-2:]] == ["edgerad down", f"edgerad up --role {role} --detach"]


@pytest.mark.parametrize(("name", "role"), CLUSTERS)
def test_a_worker_joins_once_however_often_it_is_told(tmp_path: Path, name: str, role: str) -> None:
    machines = Machines(tmp_path, name)
    (command,) = load(name)["worker_start_ray_commands"]
    environment = {**machines.environment, "HOME": str(machines.remote)}
    told = f"export RAY_HEAD_IP=192.0.2.10; {command}"
    pids = machines.remote / "pids"
    try:
        subprocess.run(["bash", "-c", told], env=environment, check=True)
        deadline = time.monotonic() + 60
        while not pids.exists() or not pids.read_text(encoding="utf-8").endswith("\n"):
            assert time.monotonic() < deadline, (machines.remote / "edgerad" / "ray.log").read_text(encoding="utf-8")
            time.sleep(0.05)
        lock = machines.remote / "edgerad" / "ray.lock"
        held = subprocess.run(["flock", "-n", str(lock), "true"], check=False)
        assert held.returncode == 1, "whoever comes second finds it taken"
        said = (machines.remote / "said").read_text(encoding="utf-8").splitlines()
        assert said == ["ray start --block --address=192.0.2.10:6379 [token ray-token edgerad.toml ]"]
    finally:
        for pid in pids.read_text(encoding="utf-8").split() if pids.exists() else []:
            os.kill(int(pid), 15)


@pytest.mark.parametrize(("name", "role"), CLUSTERS)
def test_no_command_ends_what_others_run_or_forgets_the_token(name: str, role: str) -> None:
    config = load(name)
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        assert not re.search(r"\b(ray stop|pkill|killall)\b", command)
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/etc/edgerad/ray-token" in command
        assert "RAY_USAGE_STATS_ENABLED=0" in command
        assert not re.search(r"\bray start\b", command) or f"RAY_preload_python_modules={PRELOADED}" in command
    assert not any("/etc/edgerad" in path for path in config["file_mounts"]), "secrets do not travel"


@pytest.mark.ray
def test_rays_schema_refuses_what_is_not_in_it() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load("cluster.yaml")
    validate_config(prepare_config(config))
    with pytest.raises(Exception, match="file_mount"):
        validate_config(prepare_config({**config, "file_mount": {}}))


def test_both_files_differ_in_what_they_must() -> None:
    edge, core = (yaml.safe_dump(load(name)) for name, _ in CLUSTERS)
    core = core.replace("edgerad-core", "edgerad-edge").replace("--role core", "--role edge")
    assert core.replace("198.51.100.", "192.0.2.") == edge
