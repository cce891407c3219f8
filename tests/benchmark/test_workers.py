"""Workers take turns and notice other busy processes."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial

import pytest

from tests.support.benchmark_workers import prepare_dying, prepare_noting
from vae.benchmark import timing
from vae.benchmark.growth import prepare_growth
from vae.benchmark.steps import Setting
from vae.benchmark.suite import run_benchmark
from vae.benchmark.timing import (
    LINUX,
    OtherProcesses,
    Timer,
    own_seconds,
    run_interleaved,
    running_workers,
    seconds_per_call,
)
from vae.utils.errors import UserError

TINY = Setting(batch=2, image_size=8, channels=(4,), latent_dim=2, seconds=0.001)


def test_workers_take_turns(tmp_path):
    notes = tmp_path / "notes"
    prepares = {name: partial(prepare_noting, notes, name) for name in "AB"}
    with running_workers(prepares, threads=1) as workers:
        assert len(multiprocessing.active_children()) == 2
        series = run_interleaved(3, [worker.round for worker in workers])
    assert notes.read_text() == "ABABAB"
    assert list(series) == ["A", "pid of A", "B", "pid of B"]
    assert [sample.value for sample in series["A"]] == [1.0] * 3  # threads
    pids = {sample.value for name in "AB" for sample in series[f"pid of {name}"]}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert multiprocessing.active_children() == []


def test_turns_are_interleaved():
    calls = []

    def turn(name):
        calls.append(name)
        return {name: len(calls)}

    series = run_interleaved(2, [partial(turn, name) for name in "ABC"])
    assert "".join(calls) == "ABCABC"
    assert series == {"A": [1, 4], "B": [2, 5], "C": [3, 6]}


def test_memory_is_the_increase_during_training():
    setting = Setting(batch=64, channels=(16,), latent_dim=2, seconds=0.001)
    with running_workers({"growth": partial(prepare_growth, setting)}, 1) as workers:
        found = workers[0].round()
    assert list(found) == ["rate", "bytes"]
    assert found["rate"].value > 0
    activations = 64 * 4 * (3 * 64 * 64 + 4 * 16 * 32 * 32)  # bytes of four layers, and the images
    assert activations < found["bytes"].value < 200e6  # a process with torch begins with more


def test_prepared_work_can_be_pickled(monkeypatch):
    sent = []

    @contextmanager
    def refuse(prepares, _threads):
        sent.append(pickle.loads(pickle.dumps(prepares)))
        raise UserError("enough")
        yield

    monkeypatch.setattr("vae.benchmark.suite.running_workers", refuse)
    with pytest.raises(UserError, match="enough"):
        run_benchmark(TINY, 1, compiled=True)
    assert len(sent[0]) == 11


def test_a_dead_worker_is_reported():
    with (
        pytest.raises(UserError, match=r"the poor one.*code 7"),
        running_workers({"the poor one": prepare_dying}, None) as workers,
    ):
        workers[0].round()
    assert multiprocessing.active_children() == []


def test_a_timer_repeats_for_long_enough(monkeypatch):
    ends = [0.0]  # of the calls, by a clock that nothing else moves
    monkeypatch.setattr(timing.time, "perf_counter", lambda: ends[-1])
    timer = Timer(lambda: ends.append(ends[-1] + 2.0), "cpu", seconds=11.0)
    warm_up = len(ends)
    assert timer() == 2.0
    assert len(ends) == warm_up + 6  # 12 seconds are the first that are enough


def test_a_timer_returns_seconds_per_call(monkeypatch):
    clock = iter([100.0, 112.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    assert seconds_per_call(lambda: None, 4, "cpu") == 3.0


@pytest.mark.parametrize(
    ("before", "after", "cores"),
    [
        # user, nice, system, idle, iowait, irq, softirq, steal, guest (in user already)
        ("100 10 20 500 7 1 2 3 50 0", "150 20 30 900 90 2 3 13 90 0", 0.82),
        ("100 10 20 500 7 1 2 3 50 0", "100 10 20 700 7 1 2 3 50 0", 0.0),
    ],
)
@pytest.mark.skipif(not LINUX, reason="Linux tells")
def test_other_processes_exclude_this_process(before, after, cores, monkeypatch, tmp_path):
    ticks = os.sysconf("SC_CLK_TCK")
    stats = iter([f"cpu  {before}\ncpu0 ...", f"cpu  {after}\ncpu0 ..."])
    monkeypatch.setattr(timing.Path, "read_text", lambda *_, **__: next(stats))
    monkeypatch.setattr(timing, "own_seconds", lambda: 0.0)
    clock = iter([10.0, 10.0 + 100 / ticks])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    assert OtherProcesses().cores() == pytest.approx(cores)


@pytest.mark.skipif(not LINUX, reason="Linux tells")
def test_own_seconds_include_threads_and_children():
    def burn(seconds):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    before = own_seconds()
    burn(0.1)
    assert 0.07 <= own_seconds() - before < 5  # the system counts in hundredths

    def of_children():
        return own_seconds() - time.process_time()

    before = of_children()
    child = multiprocessing.get_context("fork").Process(target=lambda: (burn(0.3), time.sleep(60)))
    child.start()
    deadline = time.monotonic() + 60
    while of_children() - before < 0.25 and time.monotonic() < deadline:
        time.sleep(0.02)
    living = of_children() - before
    child.kill()
    child.join()
    assert living >= 0.25
    assert of_children() - before >= 0.25  # none lost as it ended
    before = own_seconds()
    subprocess.run([sys.executable, "-c", "sum(range(10**7))"], check=True)
    assert own_seconds() - before >= 0.03
