"""Dependencies: pyproject.toml, CI and the installed versions agree.

That pip finds versions that go together, on each Python, is seen where CI installs them: here
nothing is asked of the network.
"""

import os
import re
from importlib import metadata

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.support.train_command import ROOT

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = [one for extra in PROJECT["optional-dependencies"].values() for one in extra]
EACH = [*PROJECT["dependencies"], *OPTIONAL]
LOW, HIGH = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
PYTHONS = [f"3.{minor}" for minor in range(int(LOW), int(HIGH))]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())


def test_ci_is_ci_run_on_every_python_that_is_promised():
    job = WORKFLOW["jobs"]["ci"]
    assert job["strategy"]["matrix"]["python-version"] == PYTHONS
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c]
    assert named == PYTHONS
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert WORKFLOW["permissions"] == {"contents": "read"}


def test_requirements_are_ranges():
    """A lower bound, from no particular place."""
    for asked in map(Requirement, EACH):
        bounds = {bound.operator for bound in asked.specifier}
        assert ">=" in bounds or asked.name.startswith("types-"), asked
        assert bounds <= {">=", "<"}, asked
        assert (asked.url, asked.marker) == (None, None), asked


def test_pre_releases_are_named_directly():
    """pip takes one where a bound names it, uv where the project itself does."""
    plugins = {"optuna-sweeper", "joblib-launcher", "submitit-launcher"}
    named = {"hydra-core", "omegaconf", *(f"hydra-{plugin}" for plugin in plugins)}
    optional = {"hydra-ray-launcher"}
    for part, names in ((PROJECT["dependencies"], named), (EACH, named | optional)):
        assert names == {one.name for one in map(Requirement, part) if one.specifier.prereleases}


def test_installed_versions_satisfy_the_ranges():
    """As pip reads it: a pre-release is admitted only where its range names one."""
    for asked in map(Requirement, {*EACH}):
        try:
            found = metadata.distribution(asked.name)
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed here
        assert asked.specifier.contains(found.version), asked
        if asked.specifier.prereleases:  # no other version could be taken in its place
            supported = SpecifierSet(found.metadata["Requires-Python"] or "")
            assert all(supported.contains(f"{python}.0") for python in PYTHONS), asked
