"""A small sweep, and `vae app` on it as a process."""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from filelock import FileLock

from tests.support.browser import START, visiting
from tests.support.train_command import ROOT, run_train

SETTINGS = [
    "data.num_images=3000",
    "data.image_size=32",
    "model.channels=[16,32,64]",
    "model.latent_dim=32",
    "trainer.epochs=3",
    "trainer.num_threads=1",
    "trainer.figures_every=3",
    "wandb.mode=disabled",
]
BETAS = ("0.0001", "0.001", "0.01")


@pytest.fixture(scope="session")
def app_sweep(tmp_path_factory):
    """A sweep of three β on drawn faces of 32 px. Trained once for all workers of pytest."""
    root = tmp_path_factory.getbasetemp()
    root = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "app-sweep"
    root.mkdir(exist_ok=True)
    sweep = root / "multirun" / "beta"
    with FileLock(root / "lock"):
        if not (root / "trained").exists():
            betas = f"loss.beta={','.join(BETAS)}"
            done = run_train(["-m", *SETTINGS, betas, "sweep.name=beta"], root)
            assert done.returncode == 0, done.stderr
            (root / "trained").touch()
    return sweep


@pytest.fixture(scope="session")
def app_run(app_sweep):
    """The run of that sweep with the smallest β."""
    return app_sweep / f"loss.beta={BETAS[0]}"


@contextmanager
def serving(folder, *options, **environment):
    """`vae app FOLDER` as a process: its address, and the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vae.cli.main", "app", str(folder), f"--port={port}", *options]
    server = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = []
        for line in server.stdout:
            lines.append(line)
            if "http://" in line:
                break
        else:
            pytest.fail("".join(lines))
        server.log = lines
        threading.Thread(target=lambda: lines.extend(server.stdout), daemon=True).start()
        yield f"http://127.0.0.1:{port}/", server
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(START)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture(scope="session")
def run_url(app_run):
    """The page of one run."""
    with serving(app_run) as (url, _):
        yield url


@pytest.fixture(scope="session")
def sweep_url(app_sweep):
    """The page of the sweep."""
    with serving(app_sweep) as (url, _):
        yield url


@pytest.fixture
def visit(browser, run_url):
    """`visit(width)` opens the page of one run."""
    stack = []

    def open_page(width=1280):
        opened = visiting(browser, run_url, width)
        stack.append(opened)
        return opened.__enter__()

    yield open_page
    for opened in reversed(stack):
        opened.__exit__(None, None, None)
