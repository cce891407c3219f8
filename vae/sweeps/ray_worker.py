"""A run of a sweep in a worker of Ray's."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from vae.sweeps.results import RECORD_FILE
from vae.utils.errors import ReportedExit, UserError
from vae.utils.files import read_json


def run_on_worker(
    started: str,
    sweep: Path,
    context: HydraContext,
    job: DictConfig,
    task_function: TaskFunction,
    singletons: dict[Any, Any],
) -> JobReturn | UserError | ReportedExit | int:
    """Run one job in a worker of Ray's.

    Args:
        started: when the sweep was started, as the record in its folder says.
        sweep: its folder.
        singletons: Hydra's, of the process that launches.

    Returns:
        How the job ended, or with which error or exit code the sweep is to end.
    """
    from hydra_plugins.hydra_ray_launcher._launcher_util import _run_job

    cwd = Path(job.hydra.runtime.cwd)
    # An older record is this machine's own, of an earlier start.
    shared = read_json(sweep / RECORD_FILE).get("started", "") >= started
    for key, folder, same in (("hydra.sweep.dir", sweep, shared), ("cwd", cwd, cwd.is_dir())):
        if not same:
            return UserError(
                f"{key}: {folder} on {socket.gethostname()} is not the folder of this sweep. All "
                "machines of a Ray cluster need to share it: start the sweep in a folder that "
                "they mount at the same path."
            )
    try:
        os.chdir(cwd)  # from the folder in which `ray start` was called
        returned: JobReturn = _run_job(context, job, task_function, singletons)
        return returned
    except ReportedExit as error:
        return error
    except (SystemExit, KeyboardInterrupt):
        return 1


def cannot_start(error: Exception) -> str:
    """Return why no run can start on the cluster, and what each machine needs."""
    return (
        f"hydra/launcher: a run cannot start on the Ray cluster ({str(error).splitlines()[-1]}). "
        "Each machine needs this repository, installed in the environment of its `ray start`."
    )
