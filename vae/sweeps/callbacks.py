"""Hydra callbacks: before a run or sweep, after each run, after a sweep.

Hydra turns a callback's exception into a warning, so a callback that must stop it exits.
"""

from __future__ import annotations

import logging
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from vae.runs.checkpoint import config_changes
from vae.runs.compose import require_printable
from vae.runs.config import objectives_of, seeds_of
from vae.runs.overrides import request_resume, task_overrides
from vae.runs.run_dir import (
    RUN_ENTRIES,
    SWEEP_ENTRIES,
    is_locked,
    read_summary,
    remove_empty,
    require_writable,
)
from vae.runs.wandb_settings import WandbConfig
from vae.sweeps.results import ENDED, RECORD_FILE
from vae.sweeps.settings import check_sweep_settings, reject_other_search, search_settings
from vae.sweeps.wandb_sweep import link_runs
from vae.utils.distributed import world_size
from vae.utils.errors import (
    ReportedExit,
    UserError,
    exit_with_error,
    require,
    without_password,
)
from vae.utils.files import read_json, reject_unsafe_entries, write_json
from vae.utils.text import hydra_value

if TYPE_CHECKING:
    from vae.sweeps.comparison import Comparison

log = logging.getLogger(__name__)


@contextmanager
def user_errors() -> Iterator[None]:
    """End the process with the message of an error: of a callback's, Hydra would only warn."""
    try:
        yield
    except UserError as error:
        exit_with_error(str(error))
    except OmegaConfBaseException as error:  # an interpolation cannot be resolved
        exit_with_error(f"{error.full_key}: {str(error).splitlines()[0]}.")


class CheckStart(Callback):
    """Check the composed configuration, before Hydra writes anything and data are packed."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with user_errors():
            HydraConfig.instance().set_config(config)  # for ${hydra:...} in a folder's name
            request_resume(config, sys.argv[1:])
            reject_password(config)
            self._check_folder(config, "hydra.run.dir", RUN_ENTRIES)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with user_errors():
            if world_size() > 1:
                raise UserError("-m: torchrun is for one run by several processes; leave it out.")
            if OmegaConf.select(config, "resume") is not None:
                raise UserError("resume: takes one run. Leave out -m.")
            reject_password(config)
            plain: Any = OmegaConf.to_container(config.hydra.sweep)
            takes = "the name of a folder in hydra.sweep.dir, without /"
            named = plain["subdir"] and "/" not in plain["subdir"]
            require(named, "hydra.sweep.subdir", plain["subdir"], takes)
            self._check_folder(config, "hydra.sweep.dir", SWEEP_ENTRIES)

    def _check_folder(self, config: DictConfig, key: str, names: str) -> None:
        folder = OmegaConf.select(config, key)
        takes = ".hydra: that is where a run's settings are looked up"
        subdir, name = config.hydra.output_subdir, config.hydra.job.name
        require(subdir == ".hydra", "hydra.output_subdir", subdir, takes)
        require(
            name == Path(name).name, "hydra.job.name", name, "the name of a log file, without /"
        )
        try:
            require_printable(key, folder)
            reject_unsafe_entries(Path(folder), names)
            require_writable(Path(folder))
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"{key}: {folder} cannot be written to: {reason}. Choose another."
            ) from error


def reject_password(config: DictConfig) -> None:
    """Refuse a storage's URL that holds a password itself.

    Hydra and W&B record the command and the configuration as they are given, before anything
    could be hidden in them. An interpolation, `${oc.env:STUDY_URL}`, is recorded unresolved.
    """
    plain: Any = OmegaConf.to_container(config)
    for key, group in (("sweep", plain["sweep"]), ("hydra.sweeper", plain["hydra"]["sweeper"])):
        storage = re.sub(r"\$\{[^}]*\}", "", str(group.get("storage") or ""))
        if (shown := without_password(storage)) != storage:
            raise UserError(
                f"{key}.storage: {shown} holds a password, which would "
                "stand in the run folders and on W&B. Put the URL into an environment variable, "
                "STUDY_URL, and give sweep.storage='${oc.env:STUDY_URL}'; or leave the password "
                "out, for PostgreSQL to find in PGPASSWORD or ~/.pgpass."
            )


class PrepareSweep(Callback):
    """Name the runs by the overrides in which they differ; record the start of the sweep.

    `-m loss.beta=1e-5,1e-4 data.path=/a/b` makes `loss.beta=1e-05` and `loss.beta=0.0001`,
    with no trace of the path.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        file = Path(config.hydra.sweep.dir, RECORD_FILE)
        before = read_json(file)
        plain: Any = OmegaConf.to_container(config)  # without the values that are swept
        chosen = plain["hydra"]["sweeper"]["params"] or {}
        parameters = [f"{key}={value}" for key, value in chosen.items()]
        parsed = OverridesParser.create().parse_overrides(
            [*parameters, *task_overrides(config.hydra)]  # the later ones count
        )
        values = {str(o.key_or_group): o for o in parsed}
        # Keys swept earlier stay in the names, even if only one value is left.
        swept = {key for key, o in values.items() if o.is_sweep_override()}
        # A sweep that began with one seed has no seed in its names: more seeds leave that one out.
        first_seed_named = "seed" in (before.get("swept", ()) if before else swept)
        first_seed_named = before.get("first_seed_named", first_seed_named)
        swept |= set(before.get("swept", ()))
        settings = {key: plain[key] for key in ("seed", "model", "data", "optimizer", "loss")}
        is_study = config.hydra.runtime.choices["hydra/sweeper"] == "study"
        with user_errors():
            sweep: Any = OmegaConf.to_object(config.sweep)
            check_sweep_settings(config.hydra, parsed, sweep)
            objectives = objectives_of(plain["objective"])
            search = search_settings(sweep, plain["trainer"]["epochs"])
            if is_study and before:
                reject_other_search(before.get("search"), search)
            seeds = seeds_of(plain["seed"], sweep.seeds)
        for key, was, now in config_changes(before["settings"], settings) if before else ():
            varies = swept & {key, key.split(".")[0]}
            if not varies or (key == "seed" and sweep.seeds > 1):  # the first seed stays
                exit_with_error(
                    f"sweep.name: {config.hydra.sweep.dir} is a sweep with {key}={was}, and "
                    f"it is {now} now. Take another sweep.name, or restore the earlier settings."
                )
        settings["seed"] = before["settings"]["seed"] if before else plain["seed"]
        swept |= {"seed"} if len(seeds) > 1 else set()
        fixed = [key for key in values if key not in swept]
        if "seed" in swept and not first_seed_named:
            fixed.append(f"'seed={settings['seed']}'")
        record = {
            "name": sweep.name,
            "command": shlex.join(["python", *sys.argv]),
            "started": datetime.now().isoformat(timespec="milliseconds"),
            "objective": objectives,
            "search": search,
            "swept": sorted(swept),
            "first_seed_named": first_seed_named,
            "settings": settings,
        }
        write_json(file, record)
        with read_write(config.hydra):
            # each job's config is composed anew, from these overrides and its own
            exclude = f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]"
            config.hydra.overrides.hydra.append(exclude)
            if len(seeds) > 1 and not is_study:  # a grid with one more key
                config.hydra.overrides.task.append(f"seed={','.join(map(str, seeds))}")
        if config.hydra.runtime.choices["hydra/launcher"] == "joblib":
            save_runs_at_interrupt(Path(config.hydra.sweep.dir))


def save_runs_at_interrupt(sweep: Path) -> None:
    """Let joblib's workers save their runs at Ctrl-C, for a minute at most.

    A terminal sends Ctrl-C to the workers, too; joblib kills them once it is raised here.
    """

    def wait(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one acts at once
        deadline = time.monotonic() + 60
        while any(map(is_locked, sweep.glob("*/"))) and time.monotonic() < deadline:
            time.sleep(0.1)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, wait)


class ReportOnSweep(Callback):
    """Write the comparison of the runs when the sweep ends, on disk and on W&B."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            link_runs(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        try:
            self._report(config, folder)
        finally:
            if isinstance(sys.exc_info()[1], KeyboardInterrupt):
                print(_resume_hint(folder, config.sweep.name), file=sys.stderr)

    def _report(self, config: DictConfig, folder: Path) -> None:
        if not any(folder.glob("*/.hydra")):  # a rejected sweep, in which no run began
            for name in (RECORD_FILE, "multirun.yaml"):
                (folder / name).unlink(missing_ok=True)
            remove_empty(folder)  # but for a study, or a user's own files
            return
        try:
            from vae.sweeps.report import overview, write_report
            from vae.sweeps.wandb_sweep import log_summary

            comparison = write_report(folder)
            settings = OmegaConf.to_object(config.wandb)
            assert isinstance(settings, WandbConfig)
            log_summary(comparison, settings, folder, why_stopped(sys.exc_info()[1], comparison))
            link_runs(folder)
        except Exception as error:
            log.warning("%s has no report: %s", folder, error)
        else:
            for line in (folder, *overview(comparison).splitlines(), folder / "report.md"):
                log.info("%s", line)


def why_stopped(error: BaseException | None, comparison: Comparison) -> str | None:
    """Return why a sweep has stopped early; None if all of its runs had their turn.

    Args:
        error: that ended the sweep. Hydra raises a failed run's once all of them have ended.
    """
    failed = {run.error for run in comparison.runs if run.status == "failed"}
    if error is None or (isinstance(error, UserError) and str(error) in failed):
        return None
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return error.reason if isinstance(error, ReportedExit) else str(error) or type(error).__name__


def _resume_hint(folder: Path, name: str) -> str:
    """Return the state of an interrupted sweep, and the command that resumes it."""
    states = [read_summary(file.parent).get("status") for file in folder.glob("*/summary.json")]
    command = ["python", *sys.argv]
    if not any(word.startswith("sweep.name=") for word in command):
        command.append(f"sweep.name={hydra_value(name)}")
    count = sum(state in ENDED for state in states)
    return f"finished runs in {folder}: {count}. Resume the sweep:  {shlex.join(command)}"
