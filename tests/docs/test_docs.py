"""All pages: their code runs, their links lead somewhere, their presets exist."""

import ast
import re

from tests.support.train_command import ROOT
from vae.runs.compose import CONF

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_CODE = [page for page in PAGES if page.stem != "CONTRIBUTING"]  # test_contributing.py does


def test_every_relative_link_resolves():
    for page in PAGES:
        links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == [], page


def test_python_runs():
    for page in WITH_CODE:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            exec(compile(block, str(page), "exec"), {})


def test_the_file_tree_of_the_architecture_is_the_repository():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = text.partition("## Repository layout\n\n```\n")[2].partition("```")[0]
    folders: list[str] = []
    named = set()
    for line in tree.splitlines():
        name, depth = line.split()[0], (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name]
        if name.endswith(".py"):
            named.add("".join(folders))
    # an __init__.py with a docstring alone has no line
    files = [path for path in ROOT.glob("vae/**/*.py") if len(ast.parse(path.read_text()).body) > 1]
    assert named == {path.relative_to(ROOT).as_posix() for path in files} | {"train.py"}


def test_every_experiment_has_its_preset():
    pages = {p.stem for p in (ROOT / "docs" / "experiments").glob("exp_*.md")}
    presets = {p.stem for p in (CONF / "experiment").glob("exp_*.yaml")}
    assert pages == presets
