"""The house: imports point one way, and nothing heavy is imported where it must not be."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("edgerad", "imaging", "ingest", "serve", "notify", "ship", "train", "dashboard", "deploy")
MAY_IMPORT = {
    "edgerad": {"edgerad"},
    "imaging": {"edgerad", "imaging"},
    "ingest": {"edgerad", "imaging", "ingest"},
    "serve": {"edgerad", "imaging", "serve"},
    "notify": {"edgerad", "notify"},
    "ship": {"edgerad", "imaging", "ship"},
    "train": {"edgerad", "imaging", "train", "serve"},
    "dashboard": {"edgerad", "imaging", "dashboard"},
    "deploy": {"edgerad", "deploy"},
}
TRAIN_MAY_USE = {"serve.bundle", "serve.calibrate", "serve.decode", "serve.preprocess"} | {
    "serve.runtimes",
    "serve.score",
    "serve.triage",
    "serve.view",
    "serve.novelty",
}
COMPOSERS = ("edgerad/cli.py", "edgerad/commands/", "edgerad/compose.py", "edgerad/demo/")
"""What puts the parts together may import them all, inside functions."""
HEAVY = {"ray", "tensorflow", "keras", "streamlit"}
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> list[tuple[str, bool]]:
    """Return the modules that a file imports, and whether at its top level (those for type checkers left out)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top: set[ast.AST] = set()
    top.update(statement for statement in tree.body if isinstance(statement, ast.Import | ast.ImportFrom))
    skipped = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, node in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found += [(f"{node.module}.{alias.name}", node in top) for alias in node.names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    folder = name.split("/")[0]
    for module, at_top in imports(path):
        package = module.split(".")[0]
        if package not in FOLDERS or package in MAY_IMPORT[folder]:
            if folder == "train" and package == "serve":
                assert any(module.startswith(allowed) for allowed in TRAIN_MAY_USE), f"{name} imports {module}"
            continue
        assert name.startswith(COMPOSERS), f"{name} imports {module}"
        assert not at_top or name.startswith(("edgerad/cli.py", "edgerad/commands/")), f"{name}: {module} at its top"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    for module, at_top in imports(path):
        package = module.split(".")[0]
        if package in HEAVY and not (package == "streamlit" and name.startswith("dashboard/")):
            assert not at_top, f"{name} imports {module} when it is imported"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 430, "split it: one noun, one module"


def test_the_command_line_starts_without_anything_heavy() -> None:
    code = (
        "import sys, edgerad.cli;"
        "heavy = {'ray', 'tensorflow', 'keras', 'streamlit', 'pandas', 'rapidocr'} & set(sys.modules);"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_wheel_takes_the_models_along() -> None:
    """Every file of models/ is matched by package data, or a cluster's nodes have nothing to score with."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    patterns = settings["package-data"]["*"]
    files = [path for path in (ROOT / "models").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert len(files) > 5
    assert [path.name for path in files if not any(path.match(pattern) for pattern in patterns)] == []
    assert "models*" in settings["packages"]["find"]["include"]
