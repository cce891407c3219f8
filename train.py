"""Train a β-VAE on faces: `python train.py --help` lists what can be set.

python train.py                                        works at once, nothing to download
python train.py model.latent_dim=128 loss.beta=1e-3    one run
python train.py -m loss.beta=1e-5,1e-4,1e-3            a sweep, one run per value
torchrun --nproc-per-node=2 train.py                   one run by two processes
"""

import logging
import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vae.runs.compose import CONF, register_schemas, reject_unparsable, to_config, to_dict
from vae.runs.failures import translate_resource_errors
from vae.runs.launch import prepare_run, run_other_ranks
from vae.runs.overrides import expand_resume, run_name, save_accepted_overrides
from vae.runs.run import Run
from vae.runs.run_dir import (
    RunFolderInUseError,
    record_failure,
    remove_run_folder,
    require_writable,
    run_lock,
)
from vae.sweeps.trial import run_trial
from vae.training.processes import current_process_group
from vae.utils.errors import UserError
from vae.utils.signals import InterruptedRun

register_schemas()
logging.raiseExceptions = False  # a full disk gives no traceback from logging


@hydra.main(str(CONF), "train", execution_whitelist=["vae.sweeps.callbacks.*"])
def job(composed: DictConfig) -> "float | list[float]":
    """Train one run in Hydra's folder; return the objective to a sweeper."""
    one_of_a_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    metrics = sweep_run(composed) if one_of_a_sweep else single_run(composed)
    objective = composed.objective
    return metrics[objective] if isinstance(objective, str) else [metrics[k] for k in objective]


def single_run(composed: DictConfig) -> dict[str, float]:
    """Train a single run. Invalid configuration: no run folder is created."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    try:
        preset = hydra_config.runtime.choices.get("sweep")
        if preset:
            words = hydra_config.overrides.task
            asked = f"sweep={preset}"
            if asked not in words:  # it is the experiment's
                asked = next(word for word in words if word.startswith("experiment="))
            raise UserError(f"{asked} is many runs: python train.py -m {asked}")
        config = to_config(name_in_wandb(composed))
        with translate_resource_errors(config, folder), run_lock(folder):
            run = prepare_run(config, to_dict(composed), folder, world=current_process_group())
            save_accepted_overrides(folder)
            return train(run)
    except UserError as error:
        if composed.resume is None and not isinstance(error, RunFolderInUseError):
            remove_run_folder(folder)  # no run's but this one's, which never began
        raise


def train(run: Run) -> dict[str, float]:
    """Train; a second Ctrl-C ends the process at once."""
    try:
        return run.train()
    except InterruptedRun:
        raise
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(130)  # at an orderly exit, wandb would go on waiting for its server


def sweep_run(composed: DictConfig) -> dict[str, float]:
    """Train one run of a sweep. Invalid configuration: one failed run, with its reason."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    try:
        config = to_config(name_in_wandb(composed))
    except UserError as error:
        record_failure(folder, str(error))
        raise
    with translate_resource_errors(config, folder):
        save_accepted_overrides(folder)
    logs = OmegaConf.to_container(hydra_config.job_logging, resolve=True)
    if hydra_config.runtime.choices["hydra/launcher"] != "basic":  # several talk at once
        logs["formatters"]["simple"]["format"] = f"%(asctime)s {folder.name}: %(message)s"
        os.environ["TQDM_DISABLE"] = "1"
    try:
        return run_trial(config, to_dict(composed), folder, logs)
    except UserError as error:
        try:
            require_writable(folder.parent)
        except OSError:  # Hydra's own files for the next run would end in a traceback
            raise SystemExit(f"error: the sweep stops: {error}") from error
        raise


def name_in_wandb(composed: DictConfig) -> DictConfig:
    """Fill in the W&B name (the run's overrides) and group (the sweep), unless given."""
    to_config(composed)  # else an interpolation below may fail
    hydra_config = HydraConfig.get()
    shared = hydra_config.job.config.override_dirname.exclude_keys
    composed.wandb.name = composed.wandb.name or run_name(hydra_config.overrides.task, shared)
    if hydra_config.mode == RunMode.MULTIRUN:
        composed.wandb.group = composed.wandb.group or composed.sweep.name
    return composed


def print_error(kind, error, traceback) -> None:
    """Print a UserError as one message; keep the traceback of other errors."""
    if issubclass(kind, UserError):
        print(f"error: {error}", file=sys.stderr)
    elif issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


def main() -> None:
    """The command line."""
    from vae.sweeps.sweeper import StudySweeper

    world = current_process_group()
    if world.rank > 0:
        return run_other_ranks(world)
    sys.excepthook = print_error  # in place of torch's own, too
    if world.size > 1 and {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(sys.argv):
        raise UserError("-m: torchrun is for one run by several processes; leave it out.")
    sys.argv[1:] = expand_resume(sys.argv[1:])
    reject_unparsable([word for word in sys.argv[1:] if not word.startswith("-")])
    Plugins.instance().register(StudySweeper)
    try:
        job()
    except InterruptedRun as interruption:  # its state is saved
        print(f"interrupted by {interruption}", file=sys.stderr)
        sys.exit(interruption.exit_code)
    world.broadcast(None)  # there is no more to do
    world.close()


if __name__ == "__main__":
    main()
