"""Systems without signals, functions and modules of Linux: Windows, as far as possible here."""

import subprocess
import sys

import pytest

from tests.support.train_command import ROOT, TINY

# What Python lacks on Windows, of what it has here. Other libraries are imported before.
SCRIPT = """
import importlib, os, pkgutil, signal, sys
import gradio, hydra, joblib, matplotlib.pyplot, optuna, sqlalchemy, torch, torchvision, wandb
from filelock import FileLock, SoftFileLock

for name in ("SIGUSR1", "SIGUSR2", "SIGKILL", "SIGALRM", "SIGHUP", "SIGQUIT", "SIGCHLD", "SIGBUS",
             "pthread_sigmask", "pthread_kill", "sigwait", "setitimer"):
    delattr(signal, name)
for name in ("fork", "forkpty", "killpg", "sysconf", "getuid", "getgid",
             "getpgid", "setsid", "mkfifo", "uname", "sched_getaffinity"):
    delattr(os, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None

import vae

for module in pkgutil.walk_packages(vae.__path__, "vae."):
    importlib.import_module(module.name)

from pathlib import Path
from vae.runs.compose import compose
from vae.runs.launch import prepare_run
from vae.runs.run_dir import run_lock
Path("run").mkdir()
with run_lock(Path("run")):
    print("bpd", prepare_run(compose(sys.argv[1:]), Path("run")).train()["val/bpd"])
"""


@pytest.mark.slow
def test_windows_lacks_nothing_that_is_needed(tmp_path):
    """Every module is imported, and a run is trained."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *TINY],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "bpd" in done.stdout
