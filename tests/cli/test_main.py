"""The `vae` command."""

import argparse
import errno
import json
import os
import shlex
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from tests.support.fake_sweeps import make_run
from tests.support.train_command import ROOT
from vae.cli.main import COMMANDS, main

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
        (["sample", "run", "--prior", "x"], "--prior: got 'x', but it takes standard or gaussian"),
        (["sample", "run", "3"], "KEY=VALUE: got ['3'], but it takes data.path,"),
        (["interpolate", "run", "1"], "A B: got ['1'], but it takes two faces"),
        (["interpolate", "run", "1", "2", "--steps", "1"], "--steps: got 1"),
        (["interpolate", "run", "1", "x.png"], "x.png: there is no such file"),
        (["interpolate", "run", "--method", "x"], "--method: got 'x', but it takes linear, spher"),
        (["traverse", "run", "1", "2"], "IMAGE: got ['1', '2']"),
        (["traverse", "run", "--latents", "0"], "--latents: got 0"),
        (["reconstruct", "run", "99"], "face of val: got '99'"),
        (["edit", "run", "--attribute", "eyeglases"], "no 'eyeglases'. Did you mean Eyeglasses?"),
        (["edit", "run", "--attribute", "Hair"], "Did you mean Black_Hair"),
        (["edit", "run", "--attribute", "Zebra"], "no 'Zebra'. `vae edit RUN --list`"),
        (["edit", "run"], "--attribute: which? One or more of "),
        (["edit", "run", "--attribute", "Smiling", "--method", "x"], "--method: got 'x'"),
        (["edit", "run", "--attribute", "Smiling", "--strength", "nan"], "--strength: got nan"),
        (["evaluate", "nowhere"], "nowhere: there is no such folder"),
        (["evaluate", "run", "--split", "train"], "--split: got 'train', but it takes val or test"),
        (["evaluate", "run", "--device", "tpu"], "trainer.device"),
        (["evaluate", "run", "metrics.bound_samples=0"], "error: metrics.bound_samples: got 0"),
        (["evaluate", "run", "metrics.nothing=1"], "metrics.nothing"),
        (["evaluate", "run", "metrics.face_box=["], "metrics.face_box: [ cannot be parsed (Par"),
        (["evaluate", "run", "wandb.name=${"], "wandb.name: ${ cannot be parsed (Gramm"),
        (["evaluate", "run", "metrics.face_box=[0.5,0.5,0.6]"], "metrics.face_box"),
        (["evaluate", "run", "loss.beta=1"], "loss.beta=1"),
        (["evaluate", "run", "data.root="], "data.root: got ''"),
        (["evaluate", "run", "--wandb", "online"], "wandb.mode: got 'online', but there is no API"),
    ],
)
def test_mistakes_are_one_message(arguments, words, finished, capsys):
    before = present()
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert (err if arguments[0] == "pack" else err.splitlines()[-1]).startswith("error: ")
    assert present() == before
    assert words in err
    assert "Traceback" not in err


def commands_and_numbers():
    """Yield each command, and each option of it that is a number."""
    parsers = argparse.ArgumentParser().add_subparsers()
    for add_to in COMMANDS:
        add_to(parsers)
    for name, parser in parsers.choices.items():
        for action in parser._actions:
            if action.type in (int, float):
                yield name, action.option_strings[0]


@pytest.mark.parametrize(("command", "option"), list(commands_and_numbers()))
def test_numbers_have_ranges(command, option, capsys):
    for number in ("-1000000", "1" + "0" * 400, str(2**63)):
        words = [] if command == "benchmark" else ["run"]
        assert main([command, *words, f"{option}={number}"]) == 1
        assert capsys.readouterr().err.startswith(f"error: {option}: got ")


def present():
    """All files, but for the directions that show which attributes there are, and W&B's logs."""
    return {path for path in Path().rglob("*") if not {"directions", "home"} & set(path.parts)}


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


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_output_needs_no_encoding_of_its_own(encoding, tmp_path, monkeypatch):
    """Characters that the terminal lacks are shown as escapes, also by child processes."""
    make_run(tmp_path / "s", {"loss.beta": 1}).rename(tmp_path / "s" / "β−顔")
    monkeypatch.setattr("vae.sweeps.report.draw_charts", lambda *_: None)
    streams = {name: TextIOWrapper(BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    assert main(["compare", str(tmp_path / "s")]) == 0
    assert main(["compare", "β−顔"]) == 1
    for stream, words in zip(streams.values(), (rb"%s  finished", rb"error: %s: "), strict=True):
        stream.flush()
        beta = "β".encode(encoding, "backslashreplace")
        assert words % (beta + rb"\u2212\u9854") in stream.buffer.getvalue()
    assert os.environ["PYTHONIOENCODING"] == f"{encoding}:backslashreplace"


def test_an_error_has_no_control_characters(capsys):
    assert main(["evaluate", "no\x1b[31m\u202ewhere"]) == 1
    assert capsys.readouterr().err.startswith(r"error: no\x1b[31m\u202ewhere: ")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("unable to mmap 8 bytes from file <x>: Cannot allocate memory (12)"),
        RuntimeError("could not create a primitive"),  # oneDNN
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_out_of_memory_is_one_message(error, monkeypatch, capsys):
    monkeypatch.setattr("vae.data.open_or_pack", Mock(side_effect=error))
    assert main(["pack", "synthetic"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: vae pack: out of memory ({str(error) or 'MemoryError'}")
    assert err.endswith("Try more free memory.\n")


def test_other_errors_of_a_command_are_not_called_out_of_memory(monkeypatch):
    monkeypatch.setattr("vae.data.open_or_pack", Mock(side_effect=RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        main(["pack", "synthetic"])


def run_python(command, cwd, shell="{}"):
    """Run Python's interpreter in a shell, with this project on its path."""
    line = shell.format(f"{shlex.quote(sys.executable)} {command}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["bash", "-c", line]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_a_crash_says_where(tmp_path):
    """As SIGBUS does, when a memory-mapped cache is made shorter while it is read."""
    script = "import os; from vae.cli.main import main; main(['sample', 'x', '--num', '0']); "
    done = run_python(f'-c "{script} os.abort()"', tmp_path, "ulimit -c 0; {}")
    assert "Fatal Python error: Aborted" in done.stderr
    assert 'File "<string>", line 1' in done.stderr


def test_streams_may_be_closed(tmp_path):
    """Progress bars need stderr."""
    command = f"-m vae.cli.main pack synthetic {' '.join(TINY)}"
    done = run_python(command, tmp_path, "({0} >&- 2>&-); echo $?; {0} 2>&-; echo $?")
    first, *lines, last = done.stdout.splitlines()
    assert (first, last, done.stderr) == ("0", "0", "")
    assert lines[0].startswith("cache ")


def test_a_pipe_without_a_reader_is_no_error_of_a_disk(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:  # its end flushes, too
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["pack", "synthetic", *TINY]) == 141
    assert "error" not in capsys.readouterr().err
