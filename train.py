"""Train a β-VAE on faces: `python train.py --help` lists what can be set.

python train.py                                        works at once, nothing to download
python train.py model.latent_dim=128 loss.beta=1e-3    one run
python train.py -m loss.beta=1e-5,1e-4,1e-3            a sweep, one run per value
"""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vae.config import CONF, register_schemas, to_config, to_dict
from vae.errors import UserError
from vae.folders import FolderTakenError, forget_run_folder, run_lock
from vae.overrides import expand_resume, remember_overrides, run_name
from vae.run import prepare
from vae.summary import record_failure
from vae.sweeps.trial import run_trial

register_schemas()


@hydra.main(str(CONF), "train", execution_whitelist=["vae.sweeps.callbacks.*"])
def job(composed: DictConfig) -> "float | list[float]":
    """One Hydra job: one run, in Hydra's folder. Returns the objective to a sweeper."""
    one_of_a_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    metrics = sweep_run(composed) if one_of_a_sweep else single_run(composed)
    objective = composed.objective
    return metrics[objective] if isinstance(objective, str) else [metrics[k] for k in objective]


def single_run(composed: DictConfig) -> dict[str, float]:
    """A run by itself: what is refused leaves nothing behind."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    try:
        preset = hydra_config.runtime.choices.get("sweep")
        if preset:
            raise UserError(f"sweep={preset} is many runs: python train.py -m sweep={preset}")
        name_in_wandb(composed)
        config = to_config(composed)
        with run_lock(folder):
            run = prepare(config, to_dict(composed), folder)
            remember_overrides(folder)
            return run.train()
    except UserError as error:
        if composed.resume is None and not isinstance(error, FolderTakenError):
            forget_run_folder(folder)  # no run's but this one's, which never began
        raise


def sweep_run(composed: DictConfig) -> dict[str, float]:
    """A run of a sweep: what is refused is one failed run, with its reason."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    name_in_wandb(composed)
    composed.wandb.group = composed.wandb.group or composed.sweep.name
    remember_overrides(folder)
    try:
        config = to_config(composed)
    except UserError as error:
        record_failure(folder, str(error))
        raise
    logs = OmegaConf.to_container(hydra_config.job_logging, resolve=True)
    if hydra_config.runtime.choices["hydra/launcher"] != "basic":  # several talk at once
        logs["formatters"]["simple"]["format"] = f"%(asctime)s {folder.name}: %(message)s"
        os.environ["TQDM_DISABLE"] = "1"
    return run_trial(config, to_dict(composed), folder, logs)


def name_in_wandb(composed: DictConfig) -> None:
    """A run's name is what differs in it, unless it is given one."""
    hydra_config = HydraConfig.get()
    shared = hydra_config.job.config.override_dirname.exclude_keys
    composed.wandb.name = composed.wandb.name or run_name(hydra_config.overrides.task, shared)


def print_error(kind, error, traceback) -> None:
    """A user's mistake is one message; anything else keeps its traceback."""
    if issubclass(kind, UserError):
        print(f"error: {error}", file=sys.stderr)
    elif issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


def main() -> None:
    """The command line."""
    from vae.sweeps.sweeper import StudySweeper

    sys.excepthook = print_error
    sys.argv[1:] = expand_resume(sys.argv[1:])
    Plugins.instance().register(StudySweeper)
    job()


if __name__ == "__main__":
    main()
