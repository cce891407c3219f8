"""What all tests of the data share."""

import multiprocessing
from pathlib import Path

import pytest
import torch

from vae.data import packing, pool


@pytest.fixture(autouse=True)
def one_thread():
    """Draw as the packing workers do; more threads only wait for each other here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls"


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers, however little there is to do."""
    monkeypatch.setattr(pool, "POOL_PAYS_FROM", -1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, workers: None) -> None:
    """Workers that are there at once, and files that are not waited for."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(pool.multiprocessing, "get_context", lambda _: fork)
    monkeypatch.setattr(packing.os, "fsync", lambda _: None)
