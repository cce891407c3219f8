"""Fixtures for the tests of data."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

from vae.data import packing


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
    """Always use worker processes."""
    monkeypatch.setattr(packing, "POOL_PAYS_FROM", -1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, workers: None) -> None:
    """Fork workers and skip fsync."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(packing.multiprocessing, "get_context", lambda _: fork)
    monkeypatch.setattr(packing.os, "fsync", lambda _: None)


@pytest.fixture
def as_nobody() -> Callable[[], AbstractContextManager[None]]:
    """`with as_nobody():` drops root's right to read everything.

    Nothing may be imported meanwhile, and what is looked at is to be named from a folder that
    was gone to before: Python and the folders above may be root's own.
    """

    @contextmanager
    def nobody() -> Iterator[None]:
        user = os.geteuid()
        os.seteuid(65534 if user == 0 else user)
        try:
            yield
        finally:
            os.seteuid(user)

    return nobody
