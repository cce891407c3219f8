"""Start a run: as a job of Hydra's, alone or in a sweep, or as a rank of a run under torchrun."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vae.data import open_data
from vae.runs.checkpoint import load_resume_state
from vae.runs.compose import hydra_errors, reject_unparsable, to_config
from vae.runs.config import RunConfig, objective_values
from vae.runs.failures import LostRankError, ResourceError, translate_resource_errors
from vae.runs.objectives import require_networks
from vae.runs.overrides import (
    ResumeRequest,
    expand_resume,
    quote_constraint,
    run_name,
    save_accepted_overrides,
    task_overrides,
)
from vae.runs.provenance import Source
from vae.runs.resume import resume_command
from vae.runs.run import Run, ShouldContinue
from vae.runs.run_dir import (
    RunFolderInUseError,
    claim_run_folder,
    record_failure,
    remove_run_folder,
    require_writable,
    run_lock,
)
from vae.runs.wandb_settings import fitting_name, resolve_mode, run_group
from vae.utils.devices import pick_device, require_compiler
from vae.utils.distributed import (
    broadcast_object,
    is_failed_exchange,
    local_device,
    rank,
    world_size,
)
from vae.utils.errors import UserError, exit_with_error, require, say_error
from vae.utils.signals import InterruptedRun

log = logging.getLogger(__name__)

# Trains a run of a sweep, and returns its metrics; given are the configuration, the folder, and
# how its process logs. (`train.py` passes the one of `sweeps/`, which imports this package.)
TrainTrial = Callable[[RunConfig, Path, Mapping[str, Any]], dict[str, float]]


def start_hydra(job: Callable[[], object]) -> None:
    """Call Hydra's main function on the command line; once more for a run that is resumed.

    Raises:
        UserError: the command line cannot be parsed, resumes no run, or trusts a folder.
    """
    if any(word.startswith("--e") for word in sys.argv[1:]):  # argparse takes abbreviations
        raise UserError("--experimental-rerun: runs what a folder asks for. Take resume=FOLDER.")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    arguments = expand_resume(quote_constraint(sys.argv[1:]))
    while True:
        reject_unparsable([word for word in arguments if not word.startswith("-")])
        sys.argv[1:] = arguments
        try:
            with hydra_errors():
                job()
            return
        except ResumeRequest as request:
            arguments = request.arguments


def run_job(composed: DictConfig, train_trial: TrainTrial) -> Any:
    """Train the run of one Hydra job in Hydra's folder; return its objective, for a sweeper.

    Paths are relative to where the command was started, also under `hydra.job.chdir`.
    """
    hydra_config = HydraConfig.get()
    if hydra_config.job.chdir:
        os.chdir(hydra_config.runtime.cwd)
    in_a_sweep = hydra_config.mode == RunMode.MULTIRUN
    metrics = _run_in_sweep(composed, train_trial) if in_a_sweep else _single_run(composed)
    return objective_values(composed.objective, metrics)


def _single_run(composed: DictConfig) -> dict[str, float]:
    """Train a single run. Invalid configuration: its folder is removed again."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        _reject_sweep_preset()
        config = _named_config(composed)
        if config.resume == "auto":  # no run was accepted here; one may have been about to pack
            config.resume = str(folder) if (folder / "checkpoints").is_dir() else None
        with translate_resource_errors(config, folder), run_lock(folder):
            run = prepare_run(config, folder)
            save_accepted_overrides(folder)
            return _train(run)
    except UserError as error:
        new = OmegaConf.select(composed, "resume") in (None, "auto")
        if new and not isinstance(error, RunFolderInUseError):
            remove_run_folder(folder)  # no run's but this one's, which never began
        raise


def _run_in_sweep(composed: DictConfig, train_trial: TrainTrial) -> dict[str, float]:
    """Train one run of a sweep. Invalid configuration: one failed run, with its reason."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    try:
        config = _named_config(composed)
    except UserError as error:
        log.error("%s failed: %s", folder, error)
        record_failure(folder, str(error))
        raise
    logs: Any = OmegaConf.to_container(hydra_config.job_logging, resolve=True)
    if hydra_config.runtime.choices["hydra/launcher"] != "basic":  # several log at once
        logs["formatters"]["simple"]["format"] = f"%(asctime)s {folder.name}: %(message)s"
        os.environ["TQDM_DISABLE"] = "1"
    try:
        return train_trial(config, folder, logs)
    except UserError as error:
        try:
            require_writable(folder.parent)
        except OSError:  # Hydra's own files for the next run would end in a traceback
            exit_with_error(f"the sweep stops: {error}")
        raise


def _reject_sweep_preset() -> None:
    """Raise a UserError if a single run is asked for with the preset of a sweep."""
    preset = HydraConfig.get().runtime.choices.get("sweep")
    if preset:
        command = shlex.join(["python", sys.argv[0], "-m", *sys.argv[1:]])
        raise UserError(f"sweep={preset} is many runs: {command}")


def _named_config(composed: DictConfig) -> RunConfig:
    """Return the checked configuration, with the run's name and group on W&B filled in."""
    config = to_config(composed)
    hydra_config = HydraConfig.get()
    shared = hydra_config.job.config.override_dirname.exclude_keys
    in_a_sweep = hydra_config.mode == RunMode.MULTIRUN
    named = config.wandb.name or (None if in_a_sweep else os.environ.get("WANDB_NAME"))
    generated = fitting_name(run_name(task_overrides(hydra_config), shared))
    group = run_group(config.wandb.group, config.sweep.name if in_a_sweep else "") or None
    config.wandb = replace(config.wandb, name=named or generated, group=group)
    return config


def _train(run: Run) -> dict[str, float]:
    """Train; a second Ctrl-C ends the process at once."""
    try:
        return run.train()
    except InterruptedRun:
        log.warning("interrupted: resume with  %s", resume_command(run.folder))
        raise
    except LostRankError:
        sys.exit(1)  # it has been logged
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(130)  # at an orderly exit, wandb would go on waiting for its server


def prepare_run(
    config: RunConfig,
    folder: Path,
    *,
    resume: bool = False,
    single: bool = True,
    should_continue: ShouldContinue = lambda epochs, metrics: True,
    source: Source | None = None,
) -> Run:
    """Prepare a run in its own folder; call `.train()` on the result.

    Under torchrun this is rank 0, and the other ranks are told to join.

    Args:
        config: checked.
        folder: the run folder; empty but for Hydra's files, unless a run is resumed in it.
        resume: resume the run in `folder` if there is one; so does `config.resume`.
        single: False in a sweep: WANDB_RUN_ID and the like do not apply.
        should_continue: called after each epoch; the run ends early if it returns False.
        source: code and command that start the run; None: those of this process.

    Returns:
        The run, ready to train.

    Raises:
        UserError: a mistake that the user can fix; nothing but the packed cache
            and an empty folder of checkpoints has been created then.
        OSError, RuntimeError: of the machine, for `translate_resource_errors`.
    """
    resolve_mode(config.wandb.mode)
    device = local_device(pick_device(config.trainer.device))
    takes = f"a multiple of the number of processes, here {world_size()}"
    fits = config.data.batch_size % world_size() == 0
    require(fits, "data.batch_size", config.data.batch_size, takes)
    if config.trainer.compile:
        require_compiler(device)
    config.loss.perceptual.load(device)
    require_networks(config)
    if config.resume is None and not resume:
        claim_run_folder(folder)
    state = load_resume_state(config, folder)
    require_writable(folder / "checkpoints")
    data = open_data(config.data)
    broadcast_object((config, folder, state))  # to `join_run`
    return Run(config, folder, data, device, state, should_continue, single, source)


def join_run() -> None:
    """Train the run of rank 0 on a rank other than 0, and wait for rank 0's end.

    Raises:
        SystemExit: the run failed. Rank 0 says why, unless only this rank lacks something.
    """
    logging.disable()
    warnings.simplefilter("ignore")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        asked = broadcast_object()
        if asked is None:  # rank 0 had nothing to train: --cfg
            return
        config, folder, state = asked
        try:
            with translate_resource_errors(config, folder):
                device = local_device(pick_device(config.trainer.device))
                try:
                    config.loss.perceptual.load(device)
                except UserError as error:  # perhaps only this machine lacks the weights
                    raise ResourceError(str(error)) from error
                data = open_data(config.data)
                run = Run(config, folder, data, device, state, lambda *_: True, single=True)
            run.train()
        except ResourceError:
            raise
        except (UserError, InterruptedRun):
            pass  # rank 0 ends in the same way; torchrun would end it if this process ended first
        broadcast_object()
    except ResourceError as error:
        if not isinstance(error, LostRankError):
            say_error(f"rank {rank()}: {error}")
        sys.exit(1)
    except (RuntimeError, KeyboardInterrupt) as error:
        if isinstance(error, RuntimeError) and not is_failed_exchange(error):
            raise
        sys.exit(1)
