"""What workers are spared: Ray Serve without pandas, everybody else with it."""

import subprocess
import sys

import pytest

from edgerad.cluster import PRELOADED, QUIET


def printed(code: str) -> list[str]:
    """The lines that a process of its own prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.split("\n")[:-1]


def test_ray_serve_does_without_pandas_and_others_get_it() -> None:
    lines = printed(
        "import sys, edgerad.ray_worker, ray.serve._private.utils as utils\n"
        "print('pandas' in sys.modules, utils.pd)\n"
        "import ray.data, pandas\n"
        "print(ray.data.from_pandas is not None, pandas.DataFrame({'a': [1]}).shape)"
    )
    assert lines == ["False None", "True (1, 1)"]


def test_pandas_that_is_there_already_stays() -> None:
    assert printed(
        "import pandas, edgerad.ray_worker, ray.serve._private.utils as utils\nprint(utils.pd is pandas)"
    ) == ["True"]


def test_it_is_installed_once() -> None:
    assert printed(
        "import sys\nbefore = len(sys.meta_path)\nfrom edgerad import ray_worker\nray_worker.install()\n"
        "print(len(sys.meta_path) - before)"
    ) == ["1"]


@pytest.mark.usefixtures("ray_cluster")
def test_workers_of_a_cluster_import_it_before_they_work() -> None:
    import ray

    @ray.remote  # type: ignore[untyped-decorator]
    def somebody_else() -> str:
        import pandas

        return pandas.__name__

    # An environment of its own: a process in which no other task has run, and imported what it needs.
    @ray.remote(runtime_env={"env_vars": {"EDGERAD_TEST": "a new process"}})  # type: ignore[untyped-decorator]
    def modules() -> tuple[bool, bool]:
        import importlib
        import sys

        importlib.import_module("ray.serve")
        return PRELOADED in sys.modules, "pandas" in sys.modules

    assert QUIET["RAY_preload_python_modules"] == PRELOADED
    assert ray.get(somebody_else.remote(), timeout=120) == "pandas"
    assert ray.get(modules.remote(), timeout=120) == (True, False)
