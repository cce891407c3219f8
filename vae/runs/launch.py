"""Start a run on rank 0; take part in it on the other ranks."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vae.data import open_data
from vae.runs.checkpoint import load_resume_state, needs_validation
from vae.runs.config import RunConfig
from vae.runs.failures import translate_resource_errors
from vae.runs.run import Run, ShouldContinue
from vae.runs.run_dir import claim_run_folder, require_writable
from vae.runs.tracking import check_wandb_mode
from vae.runs.trainer_setup import build_trainer, validate
from vae.training.trainer import Trainer
from vae.utils.devices import cpu_threads, pick_device
from vae.utils.distributed import SINGLE_PROCESS, ProcessGroup
from vae.utils.errors import UserError
from vae.utils.signals import InterruptedRun, Interrupts


def prepare_run(
    config: RunConfig,
    settings: Mapping[str, Any],
    folder: Path,
    *,
    resume: bool = False,
    world: ProcessGroup = SINGLE_PROCESS,
    should_continue: ShouldContinue = lambda epochs, metrics: True,
) -> Run:
    """Prepare a run in its own folder; call `.train()` on the result.

    Args:
        config: checked.
        settings: the same configuration as a plain nested dict, for the records.
        folder: the run folder; empty but for Hydra's files, unless it is to go on.
        resume: resume the run in `folder` if there is one; so does `config.resume`.
        world: of several processes this is the first; the others are told to take part.
        should_continue: called after each epoch; the run ends early if it returns False.

    Returns:
        The run, ready to train.

    Raises:
        UserError: something that the user can mend; nothing but the packed cache
            and an empty folder of checkpoints has been created then.
    """
    check_wandb_mode(config.wandb)
    device = world.device(pick_device(config.trainer.device))
    world.check_batch_size(config.data.batch_size)
    if config.resume is not None and Path(config.resume).resolve() != folder.resolve():
        raise UserError(f"resume: {config.resume} is to go on in its own folder, not in {folder}.")
    with translate_resource_errors(config, folder):
        if config.resume is None and not resume:
            claim_run_folder(folder)
        state = load_resume_state(config, settings, folder)
        require_writable(folder / "checkpoints")
    data = open_data(config.data)
    world.broadcast((config, settings, folder))  # `join_run`: they go the same way from here
    with translate_resource_errors(config, folder):
        return Run(config, settings, folder, data, device, state, world, should_continue)


def run_other_ranks(world: ProcessGroup) -> None:
    """Run on the non-zero ranks: join every run that rank 0 starts.

    Raises:
        SystemExit: the first process ended with an error, and has said which.
    """
    logging.disable()
    warnings.simplefilter("ignore")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        while (run := world.broadcast()) is not None:
            # Both come to all processes at once. The first one is still saving then: a
            # process that ended now would have torchrun end that one, too.
            with suppress(UserError, InterruptedRun):
                join_run(world, *run)
    except (ConnectionError, KeyboardInterrupt):
        world.close()
        sys.exit(1)
    world.close()


def join_run(
    world: ProcessGroup, config: RunConfig, settings: Mapping[str, Any], folder: Path
) -> None:
    """Train the run in `folder` on a non-zero rank; arguments as for `prepare_run`.

    Raises:
        UserError, InterruptedRun: as Run.train, in all processes alike.
    """
    device = world.device(pick_device(config.trainer.device))
    state = load_resume_state(config, settings, folder)
    data = open_data(config.data)

    interrupts = Interrupts()

    def on_epoch(trainer: Trainer) -> None:
        validate(trainer, data.images["val"], interrupts)

    trainer = build_trainer(
        config,
        data.images["train"],
        device,
        state,
        world,
        on_row=lambda row: None,
        on_epoch=on_epoch,
        on_save=lambda: None,
    )
    with interrupts, cpu_threads(config.trainer.num_threads):
        if needs_validation(state):
            on_epoch(trainer)
        trainer.fit(interrupts)
