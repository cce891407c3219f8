"""The other pages: their code runs, their links lead somewhere, their presets exist."""

import re

import pytest

from tests.cli import ROOT
from vae.composing import CONF

PAGES = sorted((ROOT / "docs").rglob("*.md"))
WITH_CODE = [page for page in PAGES if page.stem != "CONTRIBUTING"]  # test_contributing.py does


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links(page):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda p: p.stem)
def test_python_runs(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(page), "exec"), {})


def test_every_file_that_the_architecture_names_exists():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    house = text.partition("## The house")[2].partition("## The data's way")[0]
    names = set(re.findall(r"\b(\w+\.py)\b", house))
    present = {p.name for p in (ROOT / "vae").rglob("*.py")} | {"train.py"}
    present |= {p.name for p in (ROOT / "tests").glob("*.py")}
    assert names - present == set()
    described = {p.name for p in (ROOT / "vae").rglob("*.py")} - {"__init__.py"}
    forgotten = {n for n in described - names if not n.startswith("face_")}
    assert forgotten == set()


def test_every_experiment_has_its_preset():
    pages = {p.stem for p in (ROOT / "docs" / "experiments").glob("exp_*.md")}
    presets = {p.stem for p in (CONF / "experiment").glob("exp_*.yaml")}
    assert pages == presets
