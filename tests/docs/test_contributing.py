"""The recipes of docs/CONTRIBUTING.md work in a copy of the repository."""

import json
import math
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.support.run_files import rows
from tests.support.train_command import ROOT, TINY
from vae.runs.checkpoint import load_checkpoint

PAGE = (ROOT / "docs" / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
STEP = re.compile(
    r"(?:(?P<make>Make)\s`(?P<new>\S+)`|"
    r"In\s`(?P<file>\S+)`,\s(?P<how>below|in\splace\sof)\s`(?P<line>[^\n]+)`)"
    r":\n\n```\w+\n(?P<text>.*?)```",
    re.DOTALL,
)

# A setting of the run's configuration, or a key of its rows, that the recipe brings about.
ADDS = {
    "A model": ("model", "name", "linear"),
    "A loss": ("loss", "delta", 0.1),
    "A regularizer": ("loss", "regularizer", {"name": "aggregate", "weight": 10.0}),
    "An optimizer": ("optimizer", "momentum_decay", 4e-3),
    "A data set": ("data", "side", 6),
    "A metric": "val/mae",
    "A logged value": "train/posterior_std",
}


@pytest.fixture
def copy(tmp_path):
    for name in ("conf", "vae"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", tmp_path)
    return tmp_path


def follow(step, repo):
    """Do one step of a recipe."""
    if step["make"]:
        file = repo / step["new"]
        assert not file.exists()
        file.write_text(step["text"], encoding="utf-8")
        return
    file, line = repo / step["file"], step["line"] + "\n"
    text = file.read_text(encoding="utf-8")
    assert text.count(line) == 1, line
    new = step["text"] if "place" in step["how"] else line + step["text"]
    file.write_text(text.replace(line, new), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipe_works(recipe, copy):
    text = RECIPES[recipe]
    steps = list(STEP.finditer(text))
    assert len(steps) + text.count("```bash") == text.count("```") / 2  # each is understood
    for step in steps:
        follow(step, copy)
    if files := [copy / step["new"] for step in steps if (step["new"] or "").endswith(".py")]:
        for command in (["check"], ["format", "--check"]):  # as the repository's own code
            settings = ["--no-cache", "--config", ROOT / "pyproject.toml"]
            run(["-m", "ruff", *command, *settings, *files], ROOT)
    for command in re.findall(r"```bash\n(.*?)\n```", text, re.DOTALL):
        program, *arguments = shlex.split(command)
        assert program == "python"
        small = [o for o in TINY if not o.startswith(("experiment", "model.channels"))]
        small += ["trainer.max_steps=2", "model.channels=[4]"]
        run([*arguments, *small], copy)
        runs = [path.parent for path in copy.rglob("summary.json")]
        assert len(runs) == (4 if "-m" in arguments else 1)
    if recipe in ADDS:
        if isinstance(ADDS[recipe], str):
            found = [row[ADDS[recipe]] for row in rows(runs[0]) if ADDS[recipe] in row]
            assert any(map(math.isfinite, found))
        else:
            group, key, value = ADDS[recipe]
            state = load_checkpoint(runs[0] / "checkpoints" / "last.pt")
            assert state["config"][group][key] == value
        run(["train.py", f"resume={runs[0]}", "trainer.max_steps=3"], copy)
        assert json.loads((runs[0] / "summary.json").read_text())["step"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "looping",
    [
        ("training/test_optim", "training/test_metrics", "training/test_non_finite"),
        ("runs/test_combinations", "sweeps/test_comparison", "runs/test_tracking"),
        ("utils/test_registries", "training/test_trainer"),
        ("evaluation/test_evaluate",),
    ],
)
def test_tests_take_new_choices_as_they_are(looping, copy):
    """Those that loop over the choices and metrics pass when all recipes have been followed."""
    for name in ("tests", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for text in RECIPES.values():
        for step in STEP.finditer(text):
            follow(step, copy)
    files = [f"tests/{name}.py" for name in looping]
    run(["-m", "pytest", "-q", "-n0", "-x", "--no-header", *files], copy)


def run(arguments, cwd):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_recipes_are_there():
    assert list(RECIPES) == [*ADDS, "A sweep"]
