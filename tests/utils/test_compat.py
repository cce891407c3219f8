"""Each workaround is still needed; where a test fails, it can be deleted."""

import subprocess
import sys

import pytest
import wandb

from tests.support.wandb_server import WandbServer
from vae.utils.compat import restored_process, wandb_upload_failed

TELL = "the library does without now: delete the workaround and this test"


@pytest.fixture
def run_script(tmp_path):
    """Run a script in a process and folder of its own, and return the words that it prints last."""

    def run(script):
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1].split()

    return run


def test_torch_imports_its_compiler_for_an_optimizer(run_script):
    script = """
import sys, torch
torch.optim.Optimizer([torch.nn.Parameter(torch.ones(3))], {})
print("torch._dynamo" in sys.modules)
"""
    assert run_script(script) == ["True"], TELL


def test_wandb_changes_the_process_and_imports_launch(run_script):
    script = """
import os, sys, wandb
before = sys.exit, sys.excepthook
wandb.init(mode="offline", settings=wandb.Settings(silent=True, console="off"))
changed = sys.exit != before[0], sys.excepthook != before[1], "WANDB_SERVICE" in os.environ
print(*changed, "wandb.sdk.launch" in sys.modules)
"""
    assert run_script(script) == ["True"] * 4, TELL


def test_a_run_here_does_not_import_launch(run_script):
    script = """
import sys
from pathlib import Path
from vae.runs.wandb_run import WandbRun
from vae.runs.wandb_settings import WandbConfig
with WandbRun(Path(), WandbConfig("offline", "faces", None, None, None, [], False), {}) as run:
    assert run.run_id
print("wandb.sdk.launch" in sys.modules)
"""
    assert run_script(script) == ["False"]


def test_wandb_does_not_tell_that_rows_were_refused(tmp_path, monkeypatch):
    wandb.teardown()  # it reads the environment once
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", server.key)
        settings = wandb.Settings(
            silent=True, console="off", finish_timeout=5, finish_timeout_raises=True
        )
        with restored_process():
            run = wandb.init(mode="online", project="faces", dir=tmp_path, settings=settings)
        server.fault = 403
        run.log({"loss": 1.0})
        run.finish()  # raises nothing
    wandb.teardown()
    (folder,) = (tmp_path / "wandb").glob("run-*")
    assert wandb_upload_failed(folder), TELL


def test_gradio_writes_stubs(tmp_path, run_script):
    (tmp_path / "mine.py").write_text("import gradio\nclass Mine(gradio.Image):\n    pass\n")
    assert run_script("import mine, os; print(os.path.exists('mine.pyi'))") == ["True"], TELL
    (tmp_path / "mine.pyi").unlink()
    script = """
from vae.utils.compat import keep_gradio_from_writing_stubs
keep_gradio_from_writing_stubs()
import mine, os
print(os.path.exists('mine.pyi'))
"""
    assert run_script(script) == ["False"]
