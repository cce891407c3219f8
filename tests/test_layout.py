"""The layout of `vae/`: one order of imports between packages, no circle between files."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.train_command import ROOT

# Each package imports from itself and from the packages before it.
ORDER = "utils models losses data training evaluation generation runs sweeps app benchmark cli"
RANK = {package: rank for rank, package in enumerate(ORDER.split())}
HYDRA = ("vae/runs/compose.py", "vae/runs/overrides.py", "vae/runs/launch.py", "vae/sweeps/")
WANDB = ("vae/runs/", "vae/sweeps/", "vae/cli/")
GRADIO = ("vae/app/", "vae/utils/compat.py")
FILES = sorted(ROOT.glob("vae/**/*.py"))
NAMES = {path: path.relative_to(ROOT).as_posix() for path in FILES}


def module_of(path: Path) -> str:
    return NAMES[path].removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(path): path for path in FILES}


def imports_of(path: Path) -> set[str]:
    """Modules that a file imports anywhere: in functions and in TYPE_CHECKING blocks, too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{NAMES[path]}:{node.lineno}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = names & MODULES.keys()
            found |= submodules if submodules == names else {*submodules, str(node.module)}
    return found


def test_imports_follow_the_order_of_the_packages():
    wrong = []
    for path, name in NAMES.items():
        rank = RANK.get(Path(name).parts[1], -1)  # vae/__init__.py imports no package
        for module in imports_of(path):
            top, *rest = module.split(".")
            if top == "vae":
                allowed = RANK[rest[0]] <= rank
            else:
                allowed = name.startswith(
                    {"hydra": HYDRA, "wandb": WANDB, "gradio": GRADIO}.get(top, "")
                )
            wrong += [] if allowed else [f"{name} imports {module}"]
    assert wrong == []


def test_no_files_import_each_other_in_a_circle():
    graph = {module_of(path): imports_of(path) & MODULES.keys() for path in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circle: {' imports '.join(reversed(error.args[1]))}")


def test_every_module_is_in_a_package_of_the_order():
    assert [path.name for path in ROOT.glob("vae/*.py")] == ["__init__.py"]
    assert {path.name for path in ROOT.glob("vae/*/")} - {"__pycache__"} <= RANK.keys()
