"""The package as a whole: which room imports which, what knows torch and NNI, and the public names."""

import ast
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

import nni_nas_consistency

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nni_nas_consistency"

ROOMS = (
    "errors",
    "archs",
    "files",
    "images",
    "supernet",
    "spaces",
    "strategies",
    "scoring",
    "nni3",
    "search",
    "ranking",
    "training",
    "studies",
    "systems",
    "jobs",
    "cli",
)
"""From the bottom to the top: a room imports only itself and rooms before it."""

HEAVY = {"torch", "nni", "pytorch_lightning", "torchvision"}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room_of(module):
    return module.parts[0].removesuffix(".py")


def imports_of(module, *, at_import=False):
    """Return what a module imports, as dotted names; with `at_import`, only what importing it imports."""
    names = set()

    def visit(node):
        if at_import and (isinstance(node, (ast.FunctionDef, ast.Lambda)) or is_type_checking(node)):
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.module is not None and node.level == 0, f"{module}: a relative import"
            names.update({node.module}, {f"{node.module}.{alias.name}" for alias in node.names})
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse((PACKAGE / module).read_text()))
    return names


def is_type_checking(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def rooms_in(names):
    return {name.split(".")[1] for name in names if name.startswith(f"{PACKAGE.name}.")}


def heavy_in(names):
    return {name.split(".")[0] for name in names} & HEAVY


def test_at_the_root_are_only_the_rooms_and_a_few_files():
    assert {room_of(module) for module in MODULES} - set(ROOMS) == {"__init__", "__main__"}
    assert {path.name for path in PACKAGE.glob("*.py")} == {
        "__init__.py",
        "__main__.py",
        "errors.py",
        "systems.py",
    }


@pytest.mark.parametrize("room", sorted({room_of(module) for module in MODULES} & set(ROOMS), key=ROOMS.index))
def test_a_room_imports_only_itself_and_rooms_below(room):
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    for module in MODULES:
        if room_of(module) == room:
            assert rooms_in(imports_of(module)) <= allowed, module


@pytest.mark.parametrize("room", ["errors", "archs", "files", "ranking"])
def test_values_files_and_rankings_know_neither_torch_nor_nni(room):
    modules = [module for module in MODULES if room_of(module) == room]
    assert modules
    for module in modules:
        assert not heavy_in(imports_of(module)), module


@pytest.mark.parametrize("room", ["systems", "jobs", "cli"])
def test_jobs_and_the_command_line_import_torch_and_nni_only_in_functions(room):
    modules = [module for module in MODULES if room_of(module) == room]
    assert modules
    for module in modules:
        assert not heavy_in(imports_of(module, at_import=True)), module


def test_scores_never_see_reference_accuracies_and_rankings_never_see_a_supernet():
    readers = tuple(f"{PACKAGE.name}.files.{name}" for name in ("arch_lists.read_released", "score_files.read_table"))
    for module in MODULES:
        names = imports_of(module)
        if room_of(module) == "scoring":
            assert "ranking" not in rooms_in(names), module
            assert not any(name.startswith(readers) for name in names), module
        if room_of(module) == "ranking":
            assert rooms_in(names) <= {"errors", "archs", "files", "ranking"}, module


def test_only_one_room_knows_nnis_experiments():
    for module in MODULES:
        if room_of(module) != "nni3":
            names = imports_of(module)
            assert not any(name.startswith(("nni.experiment", "nni.nas.experiment")) for name in names), module


def test_every_public_name_is_there():
    missing = [name for name in nni_nas_consistency.__all__ if not hasattr(nni_nas_consistency, name)]
    assert nni_nas_consistency.__all__ and not missing


def test_no_module_is_loaded_under_two_names():
    for module in MODULES:
        if module.stem not in ("__init__", "__main__"):
            import_module(".".join((PACKAGE.name, *module.with_suffix("").parts)))
    names = {}
    for name, module in list(sys.modules.items()):
        path = Path(getattr(module, "__file__", None) or "nowhere").resolve()
        if path.is_relative_to(PACKAGE) and name != "__main__":
            names.setdefault(path, set()).add(name)
    assert {path.relative_to(PACKAGE) for path in names} >= {module for module in MODULES if module.stem != "__main__"}
    assert [sorted(twice) for twice in names.values() if len(twice) > 1] == []


def test_the_folders_on_top_are_links_into_the_package():
    for name in ("spaces", "strategies"):
        assert (ROOT / name).is_symlink() and (ROOT / name).resolve() == PACKAGE / name


def test_the_version_is_that_of_the_metadata():
    assert re.fullmatch(r"\d+\.\d+\.\d+", nni_nas_consistency.__version__)
    assert "version = attr: nni_nas_consistency.__version__" in (ROOT / "setup.cfg").read_text()
