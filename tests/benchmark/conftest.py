"""Fixtures for the benchmark: measurements within this process, allocator unchanged."""

import pickle

import pytest

from vae.benchmark.steps import build_variant
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
    """Measure in this process; list the (names, threads, rounds) that were asked for."""
    asked = []

    def measure_in_turns(prepares, threads, rounds):
        asked.append((list(prepares), threads, rounds))
        measures = [prepare() for prepare in pickle.loads(pickle.dumps(prepares)).values()]
        found = [measure() for _ in range(rounds) for measure in measures]
        names = dict.fromkeys(name for figures in found for name in figures)
        return {name: [figures[name] for figures in found if name in figures] for name in names}

    for name in ("suite", "growth", "quality"):
        monkeypatch.setattr(f"vae.benchmark.{name}.measure_in_turns", measure_in_turns)
    return asked


@pytest.fixture
def built(monkeypatch):
    """List the models that are built, each with the bytes per value of its maps in `sizes`."""
    models = []

    def remember(*arguments):
        model = build_variant(*arguments)
        model.sizes = set()
        look = lambda _layer, _inputs, output: model.sizes.add(output.element_size())  # noqa: E731
        model.encoder.blocks[0].register_forward_hook(look)
        models.append(model)
        return model

    for name in ("steps", "cases"):
        monkeypatch.setattr(f"vae.benchmark.{name}.build_variant", remember)
    return models
