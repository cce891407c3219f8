"""Parts of a search in processes of their own: functions that a new process can import."""

import multiprocessing
import time
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler

from vae.runs.config import SweepConfig
from vae.sweeps.search import Search
from vae.sweeps.study import open_storage, open_study, storage_url
from vae.sweeps.subprocess_runner import run_in_subprocess
from vae.utils.errors import UserError

SPACE = {"loss.beta": FloatDistribution(0.0, 1.0)}


def sweep_config(**changes):
    values = {
        "name": "s", "storage": None, "max_failures": None, "pruner": None,
        "pruner_startup": 5, "pruner_warmup": 1, "trial": None,
    }  # fmt: skip
    return SweepConfig(**{**values, **changes})


def make_search(folder, launch, objectives=("val/bpd",), total=4, at_once=1):
    """A search for loss.beta, from 0 to 1, in `folder`, which is the sweep's."""
    storage = open_storage(storage_url(sweep_config(), folder))
    study = open_study(storage, "s", list(objectives), RandomSampler(seed=0))
    return Search(study, folder, list(objectives), SPACE, ["seed=1"], total, at_once, launch)


def ask(study, space=SPACE):
    """A running trial, as the study has it."""
    trial = study.ask()
    for key, values in space.items():
        trial._suggest(key, values)
    return study.get_trials()[trial.number]


def returned(folder, value):
    """What Hydra's launchers return of a job: its value, or the error that it ended with."""
    status = JobStatus.FAILED if isinstance(value, Exception) else JobStatus.COMPLETED
    config = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(folder)}}})
    return JobReturn(status=status, hydra_cfg=config, _return_value=value)


def launcher(folder, train):
    """A launcher of jobs that are calls of `train(beta)`; `.launched` are their overrides."""

    def launch(overrides, initial_job_idx):
        launch.launched += overrides
        launch.firsts.append(initial_job_idx)
        values = []
        for job in overrides:
            beta = dict(pair.split("=") for pair in job)["loss.beta"]
            try:
                values.append(train(float(beta)))
            except UserError as error:
                values.append(error)
        return [returned(folder / job[0], v) for job, v in zip(overrides, values, strict=True)]

    launch.launched, launch.firsts = [], []
    return launch


def raise_after(done, error):
    """Return a function that trains `done` times and then raises."""
    left = [done]

    def train(beta):
        left[0] -= 1
        if left[0] < 0:
            raise error
        return beta

    return train


def search_slowly(folder, total, at_once, barrier):
    """One process's part in a study of which others have theirs at the same time."""

    def train(beta):
        time.sleep(0.01)
        with open(Path(folder, "trained"), "a") as file:
            file.write(f"{beta}\n")
        return beta

    search = make_search(folder, launcher(folder, train), total=total, at_once=at_once)
    barrier.wait()
    search.run()


def ask_for_all(folder, barrier):
    """Ask for the trials of the study one by one, at the same time as others do."""
    search = make_search(folder, None, total=1000)
    for _ in range(12):
        barrier.wait()
        (trial,) = search.ask()
        with open(Path(folder, "asked"), "a") as file:
            file.write(f"{trial.number}\n")
        search.study.tell(search.running.pop(), 0.0)


def at_once(function, *arguments):
    """Call a function in two processes; its last argument is a barrier between them."""
    run_in_subprocess(
        int, logs={"version": 1, "disable_existing_loggers": False}
    )  # imports, once for all
    context = multiprocessing.get_context("forkserver")
    barrier = context.Barrier(2, timeout=60)
    processes = [context.Process(target=function, args=(*arguments, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0, 0]
