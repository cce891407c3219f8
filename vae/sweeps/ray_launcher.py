"""Hydra's launcher for a Ray cluster.

Beyond the plugin's (hydra-ray-launcher), a run whose worker dies is one failed run at most,
Ctrl-C saves the runs, and a machine without the sweep's folder is named.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from vae.runs.run_dir import is_locked, record_failure
from vae.sweeps.ray_worker import cannot_start, run_on_worker
from vae.sweeps.results import RECORD_FILE
from vae.utils.errors import UserError
from vae.utils.files import read_json
from vae.utils.text import plural

log = logging.getLogger(__name__)

TRIES = 3  # Ray starts a run this often, if the worker dies; as MAX_TRIES of a study
SAVING_TIME = 60  # seconds that interrupted runs are given
CHECK = 3  # seconds between two looks at the cluster
# What Ray reads from the environment, unless the user has set it. Its processes inherit it.
ENVIRONMENT = {
    "RAY_COLOR_PREFIX": "0",
    "RAY_DEDUP_LOGS": "0",  # runs log equal lines
}
LOCAL_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # num_gpus=0: a run sees none
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # it kills workers; the system kills the run that grew
}


class RayLauncher(Launcher):
    """`hydra/launcher=ray`: each run is a task of a Ray cluster.

    Args:
        address: of the cluster; None: start one on this machine.
        n_jobs: runs at once; for Optuna's sweeper, which reads it from the configuration.
        num_cpus: of each run.
        num_gpus: of each run; None: 1 if the cluster has any and the runs may use them.
        memory_gb: of each run; None: not counted.
    """

    def __init__(
        self,
        address: str | None,
        n_jobs: int,
        num_cpus: float,
        num_gpus: float | None,
        memory_gb: float | None,
    ) -> None:
        self.address, self.num_gpus = address, num_gpus
        self.resources = {"CPU": num_cpus, "memory": (memory_gb or 0) * 2**30}
        self.at_work: dict[Any, Path] = {}  # the folder of the run of each of Ray's tasks
        self.interrupted: list[Path] = []
        self.lock = threading.Lock()  # a search calls `launch` and `stop` from several threads
        self.ended_by: BaseException | None = None
        self.context: HydraContext | None = None
        self.task_function: TaskFunction | None = None
        self.config: DictConfig | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what `launch` needs; Hydra calls it."""
        self.context, self.task_function, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs on the cluster.

        Args:
            job_overrides: of each job.
            initial_job_idx: number of the first one.

        Returns:
            How each job ended; for one whose worker died TRIES times, a failure with its reason.

        Raises:
            UserError: no cluster answers, it was lost, or it does not share the sweep's folder.
            KeyboardInterrupt, SystemExit: the sweep is to end; its runs have been saved.
        """
        assert self.config is not None
        assert self.context is not None
        setup_globals()
        hydra = self.config.hydra
        configure_log(
            hydra.hydra_logging,
            hydra.verbose,
            execution_whitelist=getattr(self.context, "execution_whitelist", None),
        )
        self.connect()
        options = self._options(self.config.trainer.device)
        log.info("Ray: %s in %s", plural(len(job_overrides), "run"), hydra.sweep.dir)
        tasks = []
        try:
            for number, overrides in enumerate(job_overrides, initial_job_idx):
                job = self.context.config_loader.load_sweep_config(self.config, list(overrides))
                with open_dict(job):
                    job.hydra.job.id, job.hydra.job.num = str(number), number
                    folder = Path(str(job.hydra.sweep.dir), str(job.hydra.sweep.subdir))
                    job.hydra.runtime.output_dir = str(folder.absolute())
                tasks.append((self._submit(job, options), job))
                self.at_work[tasks[-1][0]] = folder
            results = [self._result(task, job) for task, job in tasks]
        except LostClusterError as error:
            self.at_work.clear()
            log.error("%s", error)  # Ray may end this process before it is printed
            raise
        except BaseException as error:
            # Of a search, which calls this from several threads, the first error is the cause.
            self.ended_by = self.ended_by or error
            self.stop()
            raise self.ended_by from None
        for task, _ in tasks:
            self.at_work.pop(task, None)
        return results

    def stop(self) -> None:
        """Interrupt the runs at work, and wait until they have saved."""
        import ray

        with self.lock:
            for task, folder in list(self.at_work.items()):
                ray.cancel(task)  # as Ctrl-C in its worker; a second one would not let it save
                self.at_work.pop(task, None)
                self.interrupted.append(folder)
        deadline = time.monotonic() + SAVING_TIME
        while any(map(is_locked, self.interrupted)) and time.monotonic() < deadline:
            time.sleep(0.1)

    def connect(self) -> None:
        """Connect to the cluster, or start one, if that has not been done.

        To be called in the main thread: the processes of a Ray on this machine end with the
        thread that starts them.

        Raises:
            UserError: no cluster answers.
        """
        local = self.address is None
        wanted = ENVIRONMENT | (LOCAL_ENVIRONMENT if local else {})
        if local and not any(name.startswith("RAY_AUTH_") for name in os.environ):
            # otherwise Ray writes a token into the home folder
            wanted |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        os.environ.update({key: v for key, v in wanted.items() if key not in os.environ})
        import ray

        if ray.is_initialized():
            return
        before = signal.getsignal(signal.SIGTERM)
        options: dict[str, Any] = {"include_dashboard": False} if local else {}
        try:
            ray.init(self.address or "local", logging_level=logging.ERROR, **options)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise UserError(
                f"hydra.launcher.address: no Ray cluster at {self.address or 'this machine'} "
                f"({_first_line(error)}). Start one by `ray start --head`, or choose another "
                "address: null = a Ray on this machine."
            ) from error
        signal.signal(signal.SIGTERM, before)  # Ray's own prints a stack and leaves processes

    def _options(self, device: str) -> dict[str, Any]:
        """Return Ray's options of a task: what each run is given."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = self.num_gpus
        if gpus is None:
            gpus = int(device != "cpu" and any("GPU" in n for n in nodes))
        needed = {**self.resources, "GPU": gpus}
        if not any(all(node.get(k, 0) >= v for k, v in needed.items()) for node in nodes):
            text = (
                f"hydra.launcher: a run takes num_cpus={needed['CPU']:g}, num_gpus={gpus:g} and "
                f"memory_gb={needed['memory'] / 2**30:g}, and no machine has all of it."
            )
            if self.address is None:
                raise UserError(f"{text} Lower them.")
            log.warning("%s The runs wait until one joins the cluster.", text)
        return {
            "num_cpus": needed["CPU"],
            "num_gpus": gpus,
            "memory": int(needed["memory"]) or None,
            "max_retries": TRIES - 1,
        }

    def _submit(self, job: DictConfig, options: dict[str, Any]) -> Any:
        import ray

        sweep = Path(job.hydra.sweep.dir).absolute()
        started = read_json(sweep / RECORD_FILE).get("started", "")
        state = Singleton.get_state()
        remote = ray.remote(**options, name="run")(run_on_worker)
        try:
            return remote.remote(started, sweep, self.context, job, self.task_function, state)
        except ImportError as error:  # of the head's, which a ray:// address talks to
            raise UserError(cannot_start(error)) from error

    def _result(self, task: Any, job: DictConfig) -> JobReturn:
        """Wait for a run; return how it ended."""
        import ray
        from ray import exceptions as ray_errors

        folder = Path(job.hydra.runtime.output_dir)
        try:
            while not ray.wait([task], timeout=CHECK)[0]:
                _require_cluster()
            result = ray.get(task)
        except (ConnectionError, ray_errors.LocalRayletDiedError) as error:
            raise LostClusterError(_lost(error)) from error
        except ray_errors.TaskCancelledError:
            sys.exit("interrupted")  # by `stop`
        except ray_errors.RayTaskError as error:
            raise UserError(cannot_start(error)) from error
        except ray_errors.RayError as error:
            reason = UserError(f"its worker died {TRIES} times ({_first_line(error)})")
            log.error("%s failed: %s", folder, reason)
            record_failure(folder, str(reason))
            given = list(job.hydra.overrides.task)
            return JobReturn(given, None, job, status=JobStatus.FAILED, _return_value=reason)
        if isinstance(result, BaseException):
            raise result
        return result if isinstance(result, JobReturn) else sys.exit(result)


class LostClusterError(UserError):
    """The cluster, or the machine of it that this process is connected to, is gone."""


def _require_cluster() -> None:
    """Check that the cluster still works. (Ray itself waits for ever, or ends this process.)

    Raises:
        LostClusterError: it does not.
    """
    import ray

    if ray.util.client.ray.is_connected():  # its calls raise a ConnectionError
        return
    context = ray.get_runtime_context()
    try:
        _reach(*context.gcs_address.rsplit(":", 1))
        for node in ray.nodes():
            if node["NodeID"] == context.get_node_id():
                _reach(node["NodeManagerAddress"], node["NodeManagerPort"])
    except (OSError, ray.exceptions.RayError) as error:
        raise LostClusterError(_lost(error)) from error


def _reach(host: str, port: str | int) -> None:
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _lost(error: Exception) -> str:
    return (
        f"hydra/launcher: the Ray cluster is lost ({_first_line(error)}). Run the same command "
        "again, with the same sweep.name, to resume the sweep."
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
