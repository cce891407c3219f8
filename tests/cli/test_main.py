"""The `vae` command."""

import json
import subprocess
import sys

import numpy as np
import pytest

from vae.cli.main import main

TINY = ["data.num_images=40", "data.image_size=16", "data.num_workers=1"]


def test_pack_writes_the_cache_of_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["pack", "synthetic", *TINY, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)  # one object and nothing else
    assert result["images"] == {"train": 32, "val": 4, "test": 4}
    file = tmp_path / result["cache"] / "train.npy"
    assert np.load(file).shape == (32, 16, 16, 3)
    before = file.stat().st_mtime_ns
    assert main(["pack", "synthetic", *TINY]) == 0
    assert result["cache"] in capsys.readouterr().out
    assert file.stat().st_mtime_ns == before
    assert main(["pack", "synthetic", "--json", "--verify", *TINY]) == 0  # settings at the end
    assert json.loads(capsys.readouterr().out) == result
    with pytest.raises(SystemExit):
        main(["pack", "synthetic", "--json", "--what", *TINY])
    assert "--what" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pack", "folder"], "data.path"),
        (["pack", "folder", "data.path=nowhere"], "nowhere"),
        (["pack", "faces"], "DATA: got 'faces', but it takes one of celeba, folder,"),
        (["pack", "synthetic", "data.preset=x"], "data.preset"),
    ],
)
def test_mistakes_are_one_message(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_heavy_imports():
    script = """
import sys
from vae.cli.main import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
assert not {"torch", "hydra", "wandb", "numpy"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pack" in done.stdout
