"""StudySweeper: search spaces and samplers, and mistakes that are refused before a trial."""

import multiprocessing
import re
import shlex
import signal

import optuna
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.samplers import (
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

import train
from tests.support.train_command import TINY, call_train
from vae.runs.compose import CONF
from vae.runs.load import load_run
from vae.runs.run_dir import read_summary, write_summary
from vae.sweeps.space import read_space, rehearse
from vae.sweeps.trial import gpu_of_worker, run_trial
from vae.utils.registry import run_metrics
from vae.utils.signals import InterruptedRun

SAMPLERS = (TPESampler, GPSampler, QMCSampler, NSGAIISampler, NSGAIIISampler, RandomSampler)
LOG_BETA = "loss.beta=tag(log, interval(1e-3, 1))"


@pytest.fixture
def sweep(tmp_path, monkeypatch, capsys):
    """Run a study with runs that train nothing; (what stderr says, the states of its trials)."""

    def run_trial(config, folder, logs):
        metrics = dict.fromkeys(run_metrics(), config.loss.beta)
        write_summary(folder, {"status": "finished", "final": metrics})
        return metrics

    def call(*arguments):
        monkeypatch.setattr(train, "run_trial", run_trial)
        monkeypatch.setattr("vae.sweeps.report.draw_charts", lambda *_: None)
        given = ["-m", *TINY, "hydra/sweeper=study", "hydra.sweeper.n_trials=2", "sweep.name=s"]
        code, out, err = call_train([*given, *arguments], tmp_path, monkeypatch, capsys)
        assert "Traceback" not in out + err, err
        file = tmp_path / "multirun" / "s" / "study.db"
        if not file.exists():
            return code, err, []
        study = optuna.load_study(study_name="s", storage=f"sqlite:///{file}")
        return code, err, [trial.state.name for trial in study.trials]

    return call


@pytest.mark.parametrize("directions", [["minimize"], ["minimize", "maximize"]])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_are_rehearsed(sampler, directions):
    space = {"loss.beta": FloatDistribution(1e-3, 1, log=True), "seed": IntDistribution(0, 3)}
    found = []
    rehearse(sampler(seed=0), space, directions, 2, found.append)
    assert space.keys() == found[0].keys()


def test_a_study_is_searched(sweep):
    assert sweep(
        "hydra/sweeper/sampler=gp", LOG_BETA, "seed=range(0,4)", "hydra.sweeper.n_jobs=-1"
    )[::2] == (0, ["COMPLETE"] * 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["seed=range(0,4)"], "error: sweep.name: the study s searched loss.beta in "),
        ([LOG_BETA, "objective=val/psnr"], "error: objective: the study s has 1 (minimize)"),
    ],
)
def test_another_study_under_the_same_name_is_refused(arguments, words, sweep):
    assert sweep(LOG_BETA)[::2] == (0, ["COMPLETE"] * 2)
    code, err, states = sweep(*arguments, "hydra.sweeper.n_trials=3")
    assert (code, states) == (1, ["COMPLETE"] * 2)
    assert words in err


def test_every_kind_of_space_is_read():
    words = "loss.beta=range(0.1,1,0.1) seed=range(4,0,-1) loss=glob(*,exclude=gaussian) "
    words += "model.channels=[4,8],[8,16] data.seed=int(interval(0.5,3.5)) wandb.name=choice(1) "
    words += "trainer.epochs=sort(3,2) trainer.max_steps=1,2 trainer.max_steps=3 ~resume"
    with initialize_config_dir(str(CONF)):
        space, shared = read_space(words.split(), GlobalHydra.instance().config_loader())
    assert {key: list(getattr(values, "choices", [])) for key, values in space.items()} == {
        "loss.beta": [], "seed": [], "loss": ["bce", "laplace", "ms_ssim", "mse"],
        "model.channels": ["[4,8]", "[8,16]"], "data.seed": [], "wandb.name": [1],
        "trainer.epochs": [2, 3],
    }  # fmt: skip
    assert (space["seed"].low, space["seed"].high) == (1, 4)
    assert shared == ["trainer.max_steps=3", "~resume"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["loss.beta=tag(log,interval(0,1))"], "loss.beta: tag(log,interval(0,1)) cannot"),
        (["loss.beta=interval(1,0.1)"], "loss.beta: interval(1,0.1) cannot be searched"),
        (["loss.beta=interval(0,inf)"], "TPESampler cannot search loss.beta: OverflowError"),
        (["seed=glob(*)"], "seed: glob(*) cannot be searched: It matches no choice"),
        (["seed=interval(1,10)"], "error: Error merging override seed="),
        (["model=conv,nope"], "error: In 'train': Could not find 'model/nope'"),
        (["trainer.precision=fp32,null"], "override trainer.precision=null"),
        (["objective=val/bpd,val/mse", "seed=1,2"], "objective: got val/bpd,val/mse"),
        (["sweep.trial=1,2"], "sweep.trial: got 1,2, but a study takes one value"),
        (
            ["hydra/sweeper/sampler=cmaes", LOG_BETA, "objective=[val/rate,val/mse]"],
            "hydra/sweeper/sampler: CmaEsSampler cannot search loss.beta",
        ),
        (
            ["sweep.pruner=median", LOG_BETA, "objective=[val/rate,val/mse]"],
            "sweep.pruner: got 'median'",
        ),
        (["hydra/sweeper/sampler=motpe", LOG_BETA], "error: The 'motpe' sampler was removed"),
        (["hydra.sweeper.sampler.seed=-1", LOG_BETA], "full_key: hydra.sweeper.sampler"),
        (["hydra.sweeper.sampler._target_=os.system", LOG_BETA], "hydra.sweeper.sampler"),
        (["hydra.sweeper.n_trials=0", LOG_BETA], "hydra.sweeper.n_trials: got 0"),
        (["hydra.sweeper.sampler.n_ei_candidates=0", LOG_BETA], "TPESampler cannot search"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_searched_is_refused_before_a_trial(arguments, words, sweep, tmp_path):
    code, err, states = sweep(*arguments)
    assert code != 0
    assert words in err, err
    assert states == []
    assert not (tmp_path / "multirun").exists()


def test_an_interrupted_sweep_says_how_to_resume(tmp_path, monkeypatch, capsys):
    def run_trial(config, folder, logs):
        if config.seed == 2:
            raise InterruptedRun(signal.SIGTERM)
        write_summary(folder, {"status": "finished"})
        return {"val/bpd": 1.0}

    monkeypatch.setattr(train, "run_trial", run_trial)
    given = ["-m", *TINY, "seed=1,2,3", "data.root='some data (1)'"]
    code, _, err = call_train(given, tmp_path, monkeypatch, capsys)
    (folder,) = (tmp_path / "multirun").iterdir()
    assert err.splitlines()[-1] == "interrupted by SIGTERM"
    start, _, command = err.splitlines()[-2].partition(". Resume the sweep:  ")
    assert code == 143
    assert start == f"finished runs in multirun/{folder.name}: 1"
    assert shlex.split(command) == ["python", "train.py", *given, f"sweep.name={folder.name}"]
    assert "resume=" not in err


def test_a_finished_run_without_the_objective_stays_finished(finished):
    """As older runs lack newer metrics."""
    config, summary = load_run(finished).config, read_summary(finished)
    bpd = summary["final"].pop(config.objective)
    write_summary(finished, summary)
    metrics = run_trial(config, finished, {})
    assert bpd not in metrics.values()
    assert read_summary(finished)["status"] == "finished"


@pytest.mark.parametrize(
    ("gpus", "visible", "device", "chosen"),
    [
        (4, None, "auto", ["0", "1", "2", "3", "0"]),
        (2, "3, GPU-ab", "cuda", ["3", "GPU-ab", "3", "GPU-ab", "3"]),
        (1, None, "auto", [None] * 5),
        (4, None, "cpu", [None] * 5),
    ],
)
def test_each_worker_has_a_gpu_of_its_own(gpus, visible, device, chosen, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_of_worker(device) is None  # this process is no worker
    names = [f"LokyProcess-{number}" for number in range(1, 6)]
    found = []
    for name in names:
        monkeypatch.setattr(multiprocessing.current_process(), "_name", name)
        found.append(gpu_of_worker(device))
    assert found == chosen


@pytest.mark.slow
def test_joblib_names_its_workers_by_number():
    names = Parallel(n_jobs=2)(delayed(process_name)() for _ in range(2))
    assert all(re.fullmatch(r"LokyProcess-\d+", name) for name in names)
    get_reusable_executor().shutdown()


def process_name():
    return multiprocessing.current_process().name
