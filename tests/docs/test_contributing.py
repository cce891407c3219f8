"""The recipes of docs/CONTRIBUTING.md work in a copy of the repository."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.support.train_command import ROOT, TINY

PAGE = (ROOT / "docs" / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
STEP = re.compile(
    r"(?:(?P<make>Make)\s`(?P<new>\S+)`|"
    r"In\s`(?P<file>\S+)`,\s(?P<how>below|in\splace\sof)\s`(?P<line>[^\n]+)`)"
    r":\n\n```\w+\n(?P<text>.*?)```",
    re.DOTALL,
)


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
    for command in re.findall(r"```bash\n(.*?)\n```", text, re.DOTALL):
        program, *arguments = shlex.split(command)
        assert program == "python"
        small = [o for o in TINY if not o.startswith(("experiment", "model.channels"))]
        small += ["trainer.max_steps=2", "model.channels=[4]"]
        done = subprocess.run(
            [sys.executable, *arguments, *small], cwd=copy, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        runs = list(copy.rglob("summary.json"))
        assert len(runs) == (4 if "-m" in arguments else 1)


def test_all_four_recipes_are_there():
    assert list(RECIPES) == ["A model", "A loss", "A data set", "A sweep"]
