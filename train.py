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

from vae.runs.compose import CONF, register_schemas, reject_unparsable
from vae.runs.launch import join_run, run_job
from vae.runs.overrides import expand_resume
from vae.sweeps.trial import run_trial
from vae.utils.distributed import broadcast_object, process_group, rank, world_size
from vae.utils.errors import UserError, prepare_streams, print_error
from vae.utils.signals import InterruptedRun

register_schemas()
logging.raiseExceptions = False  # a full disk gives no traceback from logging


@hydra.main(str(CONF), "train", execution_whitelist=["vae.sweeps.callbacks.*", "vae.utils.logs.*"])
def job(composed: DictConfig) -> Any:
    """Train one run in Hydra's folder; return the objective to a sweeper."""
    return run_job(composed, train_trial=run_trial)


def main() -> None:
    """The command line."""
    prepare_streams()
    with process_group():
        if rank() > 0:
            return join_run()
        from vae.sweeps.sweeper import StudySweeper

        sys.excepthook = print_error  # Hydra reports a job's error through it
        if world_size() > 1 and {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(sys.argv):
            raise UserError("-m: torchrun is for one run by several processes; leave it out.")
        sys.argv[1:] = expand_resume(sys.argv[1:])
        reject_unparsable([word for word in sys.argv[1:] if not word.startswith("-")])
        Plugins.instance().register(StudySweeper)
        try:
            job()
        except InterruptedRun as interruption:  # its state is saved
            print(f"interrupted by {interruption}", file=sys.stderr)
            sys.exit(interruption.exit_code)
        broadcast_object()  # the other ranks wait for this one's end


if __name__ == "__main__":
    main()
