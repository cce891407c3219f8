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
from omegaconf import DictConfig, open_dict

from vae.config import register_schemas, to_config, to_dict
from vae.errors import UserError
from vae.folders import forget_run_folder
from vae.run import run
from vae.sweeps import expand_resume, register_resolvers, run_name

register_schemas()
register_resolvers()


@hydra.main(config_path="conf", config_name="train", execution_whitelist=["vae.sweeps.NameRuns"])
def main(composed: DictConfig) -> "float | list[float] | None":
    """One Hydra job: one run, in Hydra's folder. Returns the objective to a sweeper."""
    job = HydraConfig.get()
    folder = Path(job.runtime.output_dir)
    try:
        with open_dict(composed):  # what only Hydra knows: the sweep, and what differs in it
            shared = job.job.config.override_dirname.exclude_keys
            composed.wandb.name = composed.wandb.name or run_name(job.overrides.task, shared)
            if job.mode == RunMode.MULTIRUN:
                composed.wandb.group = composed.wandb.group or composed.sweep.name
        config = to_config(composed)
        metrics = run(config, to_dict(composed), folder)
    except UserError:
        forget_run_folder(folder)
        raise
    finally:
        sys.excepthook = print_error
    values = [metrics[key] for key in config.objectives]
    return values if isinstance(config.objective, list) else values[0]


def print_error(kind, error, traceback) -> None:
    """A user's mistake is one message; anything else keeps its traceback."""
    if issubclass(kind, UserError):
        print(f"error: {error}", file=sys.stderr)
    elif issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


if __name__ == "__main__":
    sys.excepthook = print_error
    sys.argv[1:] = expand_resume(sys.argv[1:])
    main()
