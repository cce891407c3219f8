"""`hydra/launcher=joblib`: as many runs at once as this machine has cores or GPU memory for."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher

from vae.runs.run_dir import read_summary
from vae.sweeps.subprocess_runner import end_with_launcher
from vae.utils.text import plural

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn

log = logging.getLogger(__name__)

RUN_MEMORY = 2e9  # bytes of main memory that a run is given room for
GPU_SHARE = 0.9  # of a GPU's memory that runs may fill
RUNS_PER_WORKER = 4  # of a search, at least: a sampler learns from trials that have ended


class WorkersLauncher(JoblibLauncher):
    """Hydra's launcher by joblib, which chooses `n_jobs` where it is null.

    On a CPU: a run for each core, with one thread, which is more images per second than one run
    with all threads. On GPUs: one run first, alone, whose peak of memory says how many fit.
    """

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run jobs; return their results in order."""
        self.joblib["initializer"] = end_with_launcher  # of each worker, also an idle one
        # the plugin announces each batch with lines of joblib's arguments
        logging.getLogger("hydra_plugins.hydra_joblib_launcher").setLevel(logging.WARNING)
        if self.joblib.get("n_jobs") is None:
            self._choose(len(job_overrides))
        if self.joblib.get("n_jobs") is not None:
            return super().launch(job_overrides, initial_job_idx)
        first = self._launch_and_measure(job_overrides[:1], initial_job_idx)
        rest = job_overrides[1:]
        return [*first, *(self.launch(rest, initial_job_idx + 1) if rest else ())]

    def stop(self) -> None:
        """End the workers with the runs that they are at."""
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor(reuse=True).shutdown(kill_workers=True)

    def at_once(self, runs: int, most: int) -> int:
        """Return how many runs of a search are at work at once.

        Args:
            runs: of the whole search.
            most: at once; 0: no limit.
        """
        from joblib import effective_n_jobs

        if most and self.joblib.get("n_jobs"):
            return int(min(most, effective_n_jobs(self.joblib["n_jobs"])))
        if self.joblib.get("n_jobs") is None:
            useful = max(runs // RUNS_PER_WORKER, 2)
            self._choose(min(useful, most) if most else useful)
        return int(effective_n_jobs(self.joblib.get("n_jobs") or 1))

    def _choose(self, most: int) -> None:
        """Set n_jobs from this machine's cores and memory, if runs train on its CPU."""
        from joblib import cpu_count

        from vae.utils.devices import pick_device

        assert self.config is not None
        if pick_device(self.config.trainer.device).type == "cuda":
            return
        cores = cpu_count(only_physical_cores=True)
        self._set(min(cores, runs_that_fit(_main_memory(), RUN_MEMORY), most), f"{cores} cores")

    def _launch_and_measure(
        self, job_overrides: Sequence[Sequence[str]], number: int
    ) -> Sequence[JobReturn]:
        """Run a job alone, and set n_jobs from the GPU memory that it has taken."""
        import torch
        from joblib import cpu_count

        self.joblib["n_jobs"] = 1
        try:
            returned = super().launch(job_overrides, number)
        finally:
            self.joblib["n_jobs"] = None
        assert returned[0].hydra_cfg is not None
        folder = Path(returned[0].hydra_cfg.hydra.runtime.output_dir)
        memory = read_summary(folder).get("gpu_memory")
        if isinstance(memory, Mapping):  # the run has not failed
            total, peak = memory["total"], memory["peak"]
            fit = runs_that_fit(GPU_SHARE * total, peak) * torch.cuda.device_count()
            why = f"{folder.name} took {peak / 1e9:.1f} of {total / 1e9:.0f} GB of its GPU"
            self._set(min(fit, cpu_count()), why)
        return returned

    def _set(self, count: int, why: str) -> None:
        from joblib import cpu_count

        self.joblib["n_jobs"] = count
        threads = self.joblib.get("inner_max_num_threads") or max(cpu_count() // count, 1)
        log.info(
            "hydra/launcher=joblib: %s at once, %s each (%s). hydra.launcher.n_jobs=N chooses "
            "another number",
            *(plural(count, "run"), plural(threads, "thread"), why),
        )


def runs_that_fit(memory: float, of_a_run: float) -> int:
    """Return how many runs fit into memory; at least one."""
    return max(int(memory // of_a_run), 1)


def _main_memory() -> float:
    """Return the bytes of this machine's main memory; infinity where they are not known."""
    if not hasattr(os, "sysconf"):
        return float("inf")
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def runs_at_once(launcher: Any, settings: Mapping[str, Any], n_jobs: int, runs: int) -> int:
    """Return how many runs of a search are at work at once.

    Args:
        launcher: Hydra's.
        settings: of `hydra.launcher`.
        n_jobs: of the sweeper: the most; -1: as many as cores, -2: one less, ...; 0: as many as
            the launcher has.
        runs: of the whole search.
    """
    from joblib import effective_n_jobs

    if str(settings.get("_target_")).endswith(".BasicLauncher"):  # it trains in this process
        return 1
    if isinstance(launcher, WorkersLauncher):
        return launcher.at_once(runs, effective_n_jobs(n_jobs) if n_jobs else 0)
    return int(effective_n_jobs(n_jobs or settings.get("array_parallelism") or settings["n_jobs"]))
