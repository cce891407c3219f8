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


def test_wandb_uses_no_artifact_offline(run_script):
    script = """
import wandb
run = wandb.init(mode="offline", settings=wandb.Settings(silent=True, console="off"))
try:
    run.use_artifact(wandb.Artifact("faces", type="dataset"))
except TypeError:
    print(True)
"""
    assert run_script(script) == ["True"], TELL


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


def test_gradio_opens_files_that_a_request_names(tmp_path, run_script):
    (tmp_path / "private.txt").write_text("secret")
    named = {"path": str(tmp_path / "private.txt"), "meta": {"_type": "gradio.FileData"}}
    script = """
import asyncio, os
os.environ["GRADIO_TEMP_DIR"] = "uploads"
import gradio
from gradio import processing_utils
from gradio.data_classes import ImageData
{}
slider, named = gradio.Slider(), {}
moved = asyncio.run(processing_utils.async_move_files_to_cache(named, slider))
value = ImageData(url="data:image/png;base64,AA==")
shown = asyncio.run(processing_utils.async_move_files_to_cache(value, slider, postprocess=True))
print(moved["path"] == named["path"], os.path.exists("uploads"), shown["url"])
"""
    url = "data:image/png;base64,AA=="
    assert run_script(script.format("", named)) == ["False", "True", url], TELL
    (tmp_path / "uploads").rename(tmp_path / "others")
    call = """
from vae.utils.compat import keep_gradio_from_opening_files
keep_gradio_from_opening_files()
"""
    assert run_script(script.format(call, named)) == ["True", "False", url]


def test_gradio_downloads_urls_that_a_request_names(run_script):
    script = """
import asyncio, gradio
from gradio import processing_utils
{}
asked = []
async def download(url, cache_dir):
    asked.append(url)
    return url
processing_utils.async_ssrf_protected_download = download
named = {{"path": "http://127.0.0.1:1/me.png", "meta": {{"_type": "gradio.FileData"}}}}
asyncio.run(processing_utils.async_move_files_to_cache([named], gradio.Slider()))
print(len(asked))
"""
    assert run_script(script.format("")) == ["1"], TELL
    call = "from vae.utils.compat import keep_gradio_from_opening_files as keep; keep()"
    assert run_script(script.format(call)) == ["0"]


def test_gradio_keeps_equal_uploads_in_one_folder(run_script):
    script = """
import io, gradio
from gradio import route_utils
{}
names = set()
for _ in range(2):
    upload = route_utils.GradioUploadFile(io.BytesIO())
    upload.sha.update(b"the same")
    names.add(upload.sha.hexdigest())
print(len(names))
"""
    assert run_script(script.format("")) == ["1"], TELL
    call = "from vae.utils.compat import give_each_upload_a_folder as give; give()"
    assert run_script(script.format(call)) == ["2"]
