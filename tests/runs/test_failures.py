"""Out of memory, and many runs in one process."""

import json
import re
import subprocess
import sys
from unittest import mock

import pytest
import torch

from tests.support.run_files import state_of
from tests.support.train_command import ROOT, TINY, call_train, run_train
from vae.runs.compose import compose
from vae.runs.failures import translate_resource_errors
from vae.runs.run_dir import read_summary
from vae.training.trainer import Trainer

RUN = [*TINY, "hydra.run.dir=run"]


def test_out_of_memory_in_a_step(tmp_path, monkeypatch, capsys):
    """One message with what to change, and the last good checkpoint."""
    update = Trainer.train_step

    def greedy(trainer, images):
        return update(trainer, images if trainer.step < 5 else torch.empty(1 << 60))

    with mock.patch.object(Trainer, "train_step", greedy):
        code, out, err = call_train(RUN, tmp_path, monkeypatch, capsys)
    assert code == 1
    assert "Traceback" not in out + err
    assert "out of memory at step 5: data.batch_size=16 images of 16 px" in err
    assert f"The last good checkpoint is {tmp_path}/run/checkpoints/last.pt." in err
    assert "Try data.batch_size=8 or smaller model.channels or trainer.precision=bf16" in err
    assert read_summary(tmp_path / "run")["status"] == "failed"
    assert read_summary(tmp_path / "run")["error"] in err
    assert state_of(tmp_path / "run")["step"] == 4


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), OSError("out of memory")],
)
def test_other_errors_are_left_alone(error, tmp_path):
    with pytest.raises(type(error)) as caught, translate_resource_errors(compose([]), tmp_path):
        raise error
    assert caught.value is error


def test_out_of_memory_in_the_validation(tmp_path, monkeypatch, capsys):
    """Its batches are not those of data.batch_size, which is not advised to be changed."""
    with mock.patch(
        "vae.training.metrics.evaluate_split", side_effect=lambda *_, **__: torch.empty(1 << 60)
    ):
        code, out, err = call_train(RUN, tmp_path, monkeypatch, capsys)
    assert code == 1
    assert "Traceback" not in out + err
    assert "out of memory validating at step 4: 128 images of 16 px" in err
    assert "Try smaller model.channels or trainer.precision=bf16. There is no checkpoint" in err
    assert "data.batch_size" not in read_summary(tmp_path / "run")["error"]


def test_a_compiler_that_fails_is_named_before_packing(tmp_path, monkeypatch, capsys):
    text = "backend='inductor' raised:\nInvalidCxxCompiler: none found\n\nSet TORCH_X"
    failing = mock.Mock(side_effect=RuntimeError(text))
    monkeypatch.setattr(torch, "compile", lambda *_, **__: failing)
    code, out, err = call_train([*RUN, "trainer.compile=true"], tmp_path, monkeypatch, capsys)
    assert code == 1
    assert "Traceback" not in out + err
    assert "error: trainer.compile: torch cannot compile the model on this machine (Inv" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_real_compiler_that_fails_is_named_with_its_reason(tmp_path):
    """By one line of the pages that torch prints."""
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho 'x.cpp:1: fatal error: Python.h: none' >&2\nexit 1\n")
    compiler.chmod(0o755)
    cache = str(tmp_path / "compiled")
    done = run_train(
        [*RUN, "trainer.compile=true"], tmp_path, CXX=str(compiler), TORCHINDUCTOR_CACHE_DIR=cache
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    line = r"^error: trainer\.compile: .*g\+\+.*set it to false\.$"
    assert re.search(line, done.stderr, re.MULTILINE)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "data").exists()


def test_a_model_that_cannot_be_compiled_is_named_and_its_traceback_logged(
    tmp_path, monkeypatch, capsys
):
    kind = type("CppCompileError", (RuntimeError,), {"__module__": "torch._inductor.exc"})
    error = kind("C++ compile error\n\nCommand: g++\nx.cpp:7: error: no room\nand more")
    with mock.patch.object(Trainer, "train_step", side_effect=error):
        code, _, err = call_train(RUN, tmp_path, monkeypatch, capsys)
    assert code == 1
    message = "torch cannot compile this model (C++ compile error). Set trainer.compile=false."
    assert err.endswith(f"error: trainer.compile: {message}\n")
    assert "Traceback" in (tmp_path / "run" / "train.log").read_text()


MANY_RUNS = """
import gc, json, os, sys
from pathlib import Path
from vae.runs.compose import compose
from vae.runs.launch import prepare_run

held = []
for number in range(10):
    config = compose([*sys.argv[1:], f"seed={number}", "wandb.mode=offline"])
    prepare_run(config, Path(f"run-{number}")).train()
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    held.append([pages, len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))])
print(json.dumps(held))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells")
def test_ten_runs_in_one_process_hold_no_more_than_two(tmp_path, monkeypatch):
    """Memory, threads and open files."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", MANY_RUNS, *TINY], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    held = json.loads(done.stdout)
    (memory, *counts), (memory_after_all, *counts_after_all) = held[1], held[-1]
    assert memory_after_all <= 1.1 * memory, held
    for after_two, after_all in zip(counts, counts_after_all, strict=True):
        assert after_all <= after_two + 2, held  # what is just ending is not what is left
