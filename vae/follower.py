"""The processes of a run other than the first: they train and measure with it, and record nothing.

They make no folder, write no file and say nothing: what there is to say, the first says.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vae.config import RunConfig
from vae.data import open_data
from vae.devices import cpu_threads, pick_device
from vae.distributed import World
from vae.errors import UserError
from vae.interrupts import InterruptedRun, Interrupts
from vae.parts import build_trainer, measure
from vae.resuming import is_unmeasured, saved_state
from vae.training import Trainer


def follow(world: World) -> None:
    """Take part in what the first process starts, until it has no more to do.

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
                take_part(world, *run)
    except (ConnectionError, KeyboardInterrupt):
        world.leave()
        sys.exit(1)
    world.leave()


def take_part(world: World, config: RunConfig, settings: Mapping[str, Any], folder: Path) -> None:
    """Train the run in `folder` with the others, to its end; the arguments are as for `prepare`.

    Raises:
        UserError, InterruptedRun: as Run.train, in all processes alike.
    """
    device = world.device(pick_device(config.trainer.device))
    state = saved_state(config, settings, folder)
    data = open_data(config.data)

    interrupts = Interrupts()

    def on_epoch(trainer: Trainer) -> None:
        measure(trainer, data.images["val"], interrupts)

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
        if is_unmeasured(state):
            on_epoch(trainer)
        trainer.fit(interrupts)
