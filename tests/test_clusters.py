"""The cluster files are what `ray up` accepts, and never stop Ray processes of others."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.mark.ray
@pytest.mark.parametrize(("name", "role"), [("cluster.yaml", "edge"), ("cluster.core.yaml", "core")])
def test_ray_accepts_the_cluster_file(name: str, role: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    validate_config(prepare_config(config))
    commands = " ".join(config["head_start_ray_commands"] + config["worker_start_ray_commands"])
    assert "ray stop" not in commands
    assert f"--role {role}" in commands
    assert commands.count("RAY_AUTH_MODE=token") == 3
