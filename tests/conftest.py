"""Fixtures that all tests share. No test reaches outside this machine."""

import os
import signal
import sys
from urllib.error import URLError

import matplotlib
import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # each core has a worker

# What a shell starts in the background ignores Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CACHE_OF_MATPLOTLIB = matplotlib.get_cachedir()  # or each process would list all fonts anew

pytest_plugins = [
    "tests.support.browser",
    "tests.support.data_sets",
    "tests.support.disks",
    "tests.support.finished_runs",
    "tests.support.wandb_server",
]


@pytest.fixture(autouse=True)
def no_outside_world(monkeypatch, tmp_path):
    """A home of the test's own, UTF-8 between processes, and no downloads."""
    monkeypatch.setattr("torch.hub.download_url_to_file", no_download)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MPLCONFIGDIR", CACHE_OF_MATPLOTLIB)
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")  # commands set it in their process for good


@pytest.fixture(autouse=True)
def no_network_of_an_earlier_test():
    """A process keeps the networks of perceptual terms; a test begins without any."""
    if "vae.losses.perceptual" in sys.modules:
        perceptual = sys.modules["vae.losses.perceptual"]
        perceptual._vgg.cache_clear()
        perceptual._face_net.cache_clear()


@pytest.fixture(autouse=True)
def fresh_wandb(monkeypatch, tmp_path):
    """Isolate W&B: no key, no settings, no server but on this machine."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / ".netrc"))
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()  # it reads the environment once in a process


def no_download(url, *_args, **_kwargs):
    """Raise the error of torch.hub without a network."""
    raise URLError(f"no network for {url}")
