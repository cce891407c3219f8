"""Train a β-VAE on faces: `python train.py --help` lists what can be set.

python train.py                                        works at once, nothing to download
python train.py model.latent_dim=128 loss.beta=1e-3    one run
python train.py -m loss.beta=1e-5,1e-4,1e-3            a sweep, one run per value
"""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from vae.config import CONF, register_schemas, to_config, to_dict
from vae.errors import UserError
from vae.folders import FolderTakenError, forget_run_folder
from vae.overrides import expand_resume, register_resolvers, remember_overrides, run_name
from vae.run import prepare

register_schemas()
register_resolvers()


@hydra.main(str(CONF), "train", execution_whitelist=["vae.sweeps.callbacks.NameRuns"])
def job(composed: DictConfig) -> "float | list[float] | None":
    """One Hydra job: one run, in Hydra's folder. Returns the objective to a sweeper."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        name_in_wandb(composed)
        config = to_config(composed)
        run = prepare(config, to_dict(composed), folder)
        remember_overrides(folder)
        metrics = run.train()
    except UserError as error:
        if composed.resume is None and not isinstance(error, FolderTakenError):
            forget_run_folder(folder)  # no run's but this one's, which never began
        raise
    values = [metrics[key] for key in config.objectives]
    return values if isinstance(config.objective, list) else values[0]


def name_in_wandb(composed: DictConfig) -> None:
    """Fill in what only Hydra knows: what differs in this run, and the sweep that it is of."""
    hydra_config = HydraConfig.get()
    shared = hydra_config.job.config.override_dirname.exclude_keys
    wandb = composed.wandb
    wandb.name = wandb.name or run_name(hydra_config.overrides.task, shared)
    if hydra_config.mode == RunMode.MULTIRUN:
        wandb.group = wandb.group or composed.sweep.name


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
    sys.excepthook = print_error
    sys.argv[1:] = expand_resume(sys.argv[1:])
    job()


if __name__ == "__main__":
    main()
