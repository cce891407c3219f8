"""Fixtures for the benchmark: workers within this process, allocator unchanged."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from vae.benchmark.timing import Sample
from vae.utils.devices import cpu_threads


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread: two on a busy machine wait for each other."""
    with cpu_threads(1):
        yield


@pytest.fixture
def kept_memory(monkeypatch):
    """Leave the allocator unchanged; list the modules that called `keep_memory`."""
    asked = []
    for name in ("steps", "cases", "growth", "quality"):
        path = f"vae.benchmark.{name}.keep_memory"
        monkeypatch.setattr(path, lambda name=name: asked.append(name))
    return asked


@pytest.fixture
def in_process(monkeypatch, kept_memory):
    """Run workers in this process; list the started (names, threads)."""
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
