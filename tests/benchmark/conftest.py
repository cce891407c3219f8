"""Fixtures for the benchmark: measurements within this process, allocator unchanged."""

import pickle

import pytest
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from vae.utils.devices import cpu_threads


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread: two on a busy machine wait for each other."""
    with cpu_threads(1):
        yield


@pytest.fixture(autouse=True)
def kept_memory(monkeypatch):
    """Leave the allocator unchanged; list the calls of `keep_memory`."""
    calls = []
    libc_ver = lambda: calls.append("call") or ("not glibc", "")  # noqa: E731
    monkeypatch.setattr("vae.utils.devices.platform.libc_ver", libc_ver)
    return calls


@pytest.fixture
def in_process(monkeypatch):
    """Measure in this process; list the (names, threads, rounds) that were asked for."""
    asked = []

    def measure_in_turns(prepares, threads, rounds):
        asked.append((list(prepares), threads, rounds))
        measures = [prepare() for prepare in pickle.loads(pickle.dumps(prepares)).values()]
        series = {}
        for measure in measures * rounds:
            for name, figure in measure().items():
                series.setdefault(name, []).append(figure)
        return series

    for name in ("suite", "cases", "quality"):
        monkeypatch.setattr(f"vae.benchmark.{name}.measure_in_turns", measure_in_turns)
    return asked


@pytest.fixture
def map_bytes():
    """The bytes per value of all maps that convolutions compute."""
    found = set()

    def look(layer, _inputs, output):
        if isinstance(layer, nn.Conv2d):
            found.add(output.element_size())

    hook = register_module_forward_hook(look)
    yield found
    hook.remove()
