"""`hydra/launcher=joblib`: runs at once, from cores, from GPU memory, or as told."""

from types import SimpleNamespace

import pytest
import torch
from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher

from tests.sweeps.test_search import returned
from vae.runs.run_dir import write_summary
from vae.sweeps.workers import WorkersLauncher, runs_at_once, runs_that_fit
from vae.utils.devices import gpu_memory

GB = 10**9


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Set up a machine, and a launcher; (the launcher, [(n_jobs, runs) of each batch])."""

    def set_up(cores=8, memory=64 * GB, gpus=0, gpu=80 * GB, of_a_run=3 * GB, **settings):
        monkeypatch.setattr("joblib.cpu_count", lambda **_: cores)
        monkeypatch.setattr("joblib.effective_n_jobs", lambda n: n if n > 0 else cores + 1 + n)
        monkeypatch.setattr("vae.sweeps.workers._main_memory", lambda: memory)
        device = torch.device("cuda" if gpus else "cpu")
        monkeypatch.setattr("vae.utils.devices.pick_device", lambda name: device)
        monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
        launcher = WorkersLauncher(n_jobs=None, **settings)
        launcher.config = SimpleNamespace(trainer=SimpleNamespace(device="auto"))
        batches = []

        def launch(self, overrides, number):
            batches.append((self.joblib["n_jobs"], len(overrides)))
            found = []
            for (name,) in overrides:
                (tmp_path / name).mkdir()
                used = {"peak": of_a_run, "total": gpu} if gpus and "failed" not in name else None
                write_summary(tmp_path / name, {"gpu_memory": used})
                found.append(returned(tmp_path / name, 1.0))
            return found

        monkeypatch.setattr(JoblibLauncher, "launch", launch)
        return launcher, batches

    return set_up


@pytest.mark.parametrize(
    ("facts", "runs", "at_once"),
    [
        ({"cores": 8}, 20, 8),
        ({"cores": 8}, 3, 3),  # no more than there are
        ({"cores": 64, "memory": 9 * GB}, 20, 4),  # 2 GB each
        ({"cores": 1}, 5, 1),
        ({"cores": 4, "memory": GB}, 5, 1),
    ],
)
def test_a_grid_has_a_run_for_each_core(facts, runs, at_once, machine, caplog):
    caplog.set_level("INFO")
    launcher, batches = machine(**facts)
    assert len(launcher.launch([[f"run {i}"] for i in range(runs)], 0)) == runs
    assert batches == [(at_once, runs)]
    threads = max(1, facts["cores"] // at_once)
    said = f"{at_once} run{'s' * (at_once > 1)} at once, {threads} thread{'s' * (threads > 1)} each"
    assert f"{said} ({facts['cores']} cores)" in caplog.text


@pytest.mark.parametrize(("trials", "at_once"), [(20, 5), (100, 8), (3, 2)])
def test_a_search_leaves_its_sampler_trials_to_learn_from(trials, at_once, machine):
    launcher, _ = machine(cores=8)
    assert runs_at_once(launcher, {"n_jobs": None}, 0, trials) == at_once


def test_a_first_run_says_how_many_fit_a_gpu(machine, caplog):
    """90 % of 20 GB is room for 4 of 4.5 GB, on each of two GPUs; the first runs alone."""
    caplog.set_level("INFO")
    facts = {"cores": 32, "gpus": 2, "gpu": 20 * GB, "of_a_run": 4.5 * GB}
    launcher, batches = machine(**facts)
    names = [["failed"], *([f"run {i}"] for i in range(20))]
    found = launcher.launch(names, 5)
    assert [each.hydra_cfg.hydra.runtime.output_dir.rpartition("/")[2] for each in found] == [
        name for (name,) in names
    ]
    assert batches == [(1, 1), (1, 1), (8, 19)]
    assert "8 runs at once, 4 threads each (run 0 took 4.5 of 20 GB of its GPU)" in caplog.text


def test_a_search_on_a_gpu_begins_with_one_run(machine):
    launcher, _ = machine(cores=32, gpus=1, of_a_run=30 * GB)
    assert runs_at_once(launcher, {"n_jobs": None}, 0, 20) == 1
    launcher.launch([["run"]], 0)
    assert runs_at_once(launcher, {"n_jobs": None}, 0, 20) == 2


def test_a_number_that_is_given_counts(machine):
    launcher, batches = machine(cores=8)
    launcher.joblib["n_jobs"] = 3
    launcher.launch([["run"]], 0)
    assert batches == [(3, 1)]
    assert runs_at_once(launcher, {"n_jobs": 3}, 0, 20) == 3
    assert runs_at_once(launcher, {"n_jobs": 3}, 5, 20) == 3  # of the launcher's
    assert runs_at_once(launcher, {"n_jobs": 3}, 2, 20) == 2


def test_a_limit_of_the_search_leaves_more_threads_to_each_run(machine, caplog):
    caplog.set_level("INFO")
    launcher, _ = machine(cores=8)
    assert runs_at_once(launcher, {"n_jobs": None}, 2, 20) == 2
    assert "2 runs at once, 4 threads each" in caplog.text


@pytest.mark.parametrize(
    ("settings", "n_jobs", "at_once"),
    [
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, -1, 1),
        ({"array_parallelism": 16}, 0, 16),
        ({"array_parallelism": 16}, 4, 4),
        ({"n_jobs": 4}, 0, 4),
    ],
)
def test_other_launchers_say_how_many(settings, n_jobs, at_once, machine):
    machine()
    assert runs_at_once(object(), settings, n_jobs, 20) == at_once


def test_one_run_always_fits():
    assert runs_that_fit(1.0, 2.0) == 1


def test_gpu_memory_counts_what_cuda_takes_besides(monkeypatch):
    """Torch's stand-ins: 80 GB, of which 70 are free; 6 reserved now, 9 at the peak."""
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (70 * GB, 80 * GB))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 6 * GB)
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda device: 9 * GB)
    assert gpu_memory(torch.device("cuda")) == {"peak": 13 * GB, "total": 80 * GB}
    assert gpu_memory(torch.device("cpu")) is None
