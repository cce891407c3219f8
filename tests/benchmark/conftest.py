"""The benchmark within this process: quick, and without what cannot be undone in it."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from vae.benchmark.timing import Sample
from vae.utils.devices import cpu_threads


@pytest.fixture(autouse=True)
def one_thread():
    """Two on a busy machine wait for each other."""
    with cpu_threads(1):
        yield


@pytest.fixture
def kept_memory(monkeypatch):
    """The allocator is left as it is; a list of the modules that asked."""
    asked = []
    for name in ("steps", "cases", "growth", "quality"):
        path = f"vae.benchmark.{name}.keep_memory"
        monkeypatch.setattr(path, lambda name=name: asked.append(name))
    return asked


@pytest.fixture
def in_process(monkeypatch, kept_memory):
    """Workers that are no processes; a list of the (names, threads) that were started."""
    started = []

    @contextmanager
    def running_workers(prepares, threads):
        started.append((list(prepares), threads))
        yield [SimpleNamespace(round=turn(prepare())) for prepare in prepares.values()]

    for name in ("suite", "growth", "quality"):
        monkeypatch.setattr(f"vae.benchmark.{name}.running_workers", running_workers)
    return started


def turn(measure):
    """A worker's round of a measurement."""
    return lambda: {name: Sample(value, 0.0) for name, value in measure().items()}
