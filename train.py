"""Train a β-VAE on faces: `python train.py --help` lists what can be set.

python train.py                                        works at once, nothing to download
python train.py model.latent_dim=128 loss.beta=1e-3    one run
python train.py -m loss.beta=1e-5,1e-4,1e-3            a sweep, one run per value
torchrun --nproc-per-node=2 train.py                   one run on two GPUs
"""

import logging
import sys
from typing import Any

import hydra
from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from vae.runs.compose import CONF, register_schemas
from vae.runs.launch import join_run, run_job, start_hydra
from vae.sweeps.trial import run_trial
from vae.utils.distributed import broadcast_object, process_group, rank
from vae.utils.errors import prepare_process, print_error
from vae.utils.signals import InterruptedRun

register_schemas()
logging.raiseExceptions = False  # a full disk gives no traceback from logging


@hydra.main(
    str(CONF),
    "train",
    execution_whitelist=["vae.sweeps.callbacks.*", "vae.utils.text.LineFormatter"],
)
def job(composed: DictConfig) -> Any:
    """Train one run in Hydra's folder; return the objective to a sweeper."""
    return run_job(composed, train_trial=run_trial)


def main() -> None:
    """The command line."""
    prepare_process()
    with process_group():
        if rank() > 0:
            return join_run()
        from vae.sweeps.ray_launcher import RayLauncher
        from vae.sweeps.sweeper import StudySweeper
        from vae.sweeps.workers import WorkersLauncher

        sys.excepthook = print_error  # Hydra reports a job's error through it
        for plugin in (StudySweeper, WorkersLauncher, RayLauncher):
            Plugins.instance().register(plugin)
        try:
            start_hydra(job)
        except InterruptedRun as interruption:  # its state is saved
            print(f"interrupted by {interruption}", file=sys.stderr)
            sys.exit(interruption.exit_code)
        broadcast_object()  # the other ranks wait for this one's end


if __name__ == "__main__":
    main()
