"""Workers take turns; medians, quartiles and ratios of what they measure."""

import multiprocessing
import os
import statistics
from functools import partial

import pytest

from tests.support.benchmark_workers import prepare_noting
from vae.benchmark import timing
from vae.benchmark.cases import prepare_growth
from vae.benchmark.steps import Setting
from vae.benchmark.timing import measure_in_turns, median_ratio, summarize
from vae.utils.errors import UserError


@pytest.fixture
def no_worker_stays():
    """No process of the test outlives it."""
    before = set(multiprocessing.active_children())  # of another test
    yield
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.usefixtures("no_worker_stays")
def test_workers_take_turns(tmp_path):
    notes = tmp_path / "notes"
    prepares = {name: partial(prepare_noting, notes, name) for name in "AB"}
    series = measure_in_turns(prepares, threads=3, rounds=3)
    assert notes.read_text() == "abABABAB"  # both are ready before the first measures
    assert list(series) == ["A", "pid of A", "B", "pid of B"]
    assert series["A"] == [3.0] * 3  # threads
    assert len({os.getpid(), *series["pid of A"], *series["pid of B"]}) == 3


@pytest.mark.usefixtures("no_worker_stays")
@pytest.mark.parametrize(
    ("prepare", "printed"),
    [
        (partial(partial, os._exit, 7), ""),  # is ready, and then dies
        (partial(prepare_noting, "notes"), "TypeError"),
    ],
)
def test_a_dead_worker_is_reported(prepare, printed, capfd):
    with pytest.raises(UserError, match=r"^the poor one: its process died"):
        measure_in_turns({"the poor one": prepare}, None, 1)
    assert printed in capfd.readouterr().err


def test_memory_is_the_increase_during_training():
    setting = Setting(batch=64, channels=(16,), latent_dim=2, seconds=0.001)
    found = measure_in_turns({"growth": partial(prepare_growth, setting)}, 1, 1)
    activations = 64 * 4 * (3 * 64 * 64 + 4 * 16 * 32 * 32)  # bytes of four layers, and the images
    assert activations < found["bytes"][0] < 200e6  # a process with torch begins with more


def test_a_timer_repeats_for_long_enough(monkeypatch):
    ends = [0.0]  # of the calls, by a clock that nothing else moves
    monkeypatch.setattr(timing.time, "perf_counter", lambda: ends[-1])
    measure = timing.timer(lambda: ends.append(ends[-1] + 2.0), "cpu", seconds=11.0)
    assert len(ends) == 1 + timing.WARM_UP + 1
    assert measure() == 2.0
    assert len(ends) == 1 + timing.WARM_UP + 1 + 6  # 12 seconds are the first that are enough


@pytest.mark.parametrize("values", [[3.0, 1.0, 4.0, 1.5, 9.0], [2.0, 7.0, 1.0, 8.0]])
def test_a_summary_has_quartiles_and_every_round(values):
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    assert summarize(values) == {"median": median, "low": low, "high": high, "values": values}


def test_a_ratio_is_taken_round_by_round():
    # of 3, 1/2 and 1/4; of medians it would be 1/4
    assert median_ratio([30.0, 1.0, 2.0], [10.0, 2.0, 8.0]) == 0.5
