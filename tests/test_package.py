"""The package as a whole: names, floors, and what it must not say."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nni_nas_consistency

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nni_nas_consistency"

ALLOWED_BELOW = {
    "arch": set(),
    "complexity": set(),
    "augmentation": {"arch"},
    "ranking": {"arch"},
    "datasets": {"arch", "augmentation"},
    "released": {"arch"},
    "supernet": {"arch", "complexity", "supernet"},
    "scoring": {"arch", "complexity", "released", "scoring", "supernet"},
    "spaces": {"arch", "complexity", "spaces", "supernet"},
    "strategies": {"arch", "strategies", "supernet"},
}


def imports_of(path):
    """Return the parts of this package and the other packages that a module imports."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            first, *rest = name.split(".")
            if first == "nni_nas_consistency":
                own.add(rest[0] if rest else "")
            else:
                others.add(first)
    return own, others


@pytest.mark.parametrize("part", ALLOWED_BELOW)
def test_a_floor_imports_only_what_is_below_it(part):
    paths = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else sorted((PACKAGE / part).glob("*.py"))
    assert paths
    for path in paths:
        assert imports_of(path)[0] <= ALLOWED_BELOW[part], path


def test_values_know_no_torch_and_scores_see_no_accuracies():
    for part in ("arch", "ranking", "released", "complexity"):
        assert "torch" not in imports_of(PACKAGE / f"{part}.py")[1]
    for path in (PACKAGE / "scoring").glob("*.py"):
        assert "read_released" not in path.read_text() and "ranking" not in imports_of(path)[0]


def test_no_module_is_loaded_under_two_names():
    code = """
import sys
import nni_nas_consistency as package
for name in package.__all__:
    getattr(package, name)
import nni_nas_consistency.cli.main, nni_nas_consistency.quickstart, nni_nas_consistency.doctor
files = {}
for name, module in list(sys.modules.items()):
    path = getattr(module, "__file__", None)
    if path and "nni_nas_consistency" in path:
        files.setdefault(__import__("os").path.realpath(path), []).append(name)
twice = {path: names for path, names in files.items() if len(names) > 1}
assert len(files) > 20, files
assert not twice, twice
assert not {"spaces", "strategies"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT, timeout=120)


def test_the_folders_on_top_are_links_into_the_package():
    for name in ("spaces", "strategies"):
        assert (ROOT / name).is_symlink() and (ROOT / name).resolve() == PACKAGE / name


def test_every_public_name_is_there():
    missing = [name for name in nni_nas_consistency.__all__ if not hasattr(nni_nas_consistency, name)]
    assert nni_nas_consistency.__all__ and not missing


def test_importing_the_package_and_asking_for_help_loads_no_torch():
    code = "import sys, nni_nas_consistency.cli; assert 'torch' not in sys.modules and 'nni' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_files_and_functions_stay_short():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body = node.end_lineno - node.lineno + 1
                doc = ast.get_docstring(node, clean=False)
                assert body - (len(doc.splitlines()) if doc else 0) <= 60, f"{path}:{node.lineno} {node.name}"


def test_the_version_is_that_of_the_metadata():
    assert re.fullmatch(r"\d+\.\d+\.\d+", nni_nas_consistency.__version__)
    assert "version = attr: nni_nas_consistency.__version__" in (ROOT / "setup.cfg").read_text()
