"""A finished run, and the commands on it."""

import json

import pytest

from vae.cli.main import main
from vae.runs.load import load_run


@pytest.fixture
def run(finished):
    return load_run("run")


@pytest.fixture
def vae_json(capsys):
    """`vae_json(ARGUMENTS)` is the object that `vae ARGUMENTS --json` prints."""

    def call(*arguments):
        capsys.readouterr()
        code = main([*arguments, "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out)

    return call
