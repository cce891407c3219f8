"""Hydra's Optuna sweeper with a persistent study.

The plugin's own sweeper asks for `n_trials` more at every start, lets the trials of a killed
process run for ever, cannot tell that a trial was pruned, and ends in a traceback where none
succeeds. This one is the plugin's in all but the loop (vae/sweeps/search.py): same samplers,
same search space, same launchers.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper
from omegaconf import OmegaConf

from vae.runs.config import SweepConfig, constraints_of, objectives_of, seeds_of
from vae.sweeps.ray_launcher import RayLauncher
from vae.sweeps.settings import search_settings
from vae.sweeps.workers import runs_at_once
from vae.utils.errors import UserError
from vae.utils.registry import run_metrics


class StudySweeper(OptunaSweeper):
    """`hydra/sweeper=study`: n_trials is the total, over all starts and processes."""

    def sweep(self, arguments: list[str]) -> None:
        """Run trials until the study has its n_trials.

        Raises:
            UserError: the search cannot be made, or has no result.
        """
        # these import Optuna, which a plain run does not need
        from vae.sweeps import study
        from vae.sweeps.rungs import Rungs
        from vae.sweeps.search import Search
        from vae.sweeps.space import read_space, rehearse

        plugin = self.sweeper
        config, launcher = plugin.config, plugin.launcher
        assert config is not None
        assert launcher is not None
        assert plugin.hydra_context is not None
        loader = plugin.hydra_context.config_loader
        parameters = [f"{key!s}={value}" for key, value in (plugin.params or {}).items()]
        space, shared = read_space([*parameters, *arguments], loader)
        sweep = OmegaConf.to_object(config.sweep)
        assert isinstance(sweep, SweepConfig)
        objectives = objectives_of(config.objective)
        for key, value in (("pruner", sweep.pruner), ("rungs", sweep.rungs)):
            if value and len(objectives) > 1:
                raise UserError(
                    f"sweep.{key}: got {value!r}, but with several objectives no trial is "
                    f"clearly bad: take sweep.{key}=null, or one objective."
                )
            if value and not set(objectives) <= run_metrics().keys():
                raise UserError(
                    f"sweep.{key}: got {value!r}, but {objectives[0]} is measured at the end of a "
                    f"run only: take sweep.{key}=null, or an objective that validation measures."
                )
        at_random = OmegaConf.select(config, "hydra.sweeper.sampler.n_startup_trials", default=0)
        rehearse(
            plugin.sampler,
            space,
            study.directions_of(objectives),
            min(max(at_random, 0), 100),
            lambda values: loader.load_sweep_config(
                config, [*(f"{key}={value}" for key, value in values.items()), *shared]
            ),
        )
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        opened = study.open_study(
            study.open_storage(sweep, folder),
            sweep.name,
            objectives,
            plugin.sampler,
            study.build_pruner(sweep, config.trainer.epochs),
        )
        study.check_space(opened, space)
        study.check_settings(opened, search_settings(sweep, config.trainer.epochs))
        if isinstance(launcher, RayLauncher):
            launcher.connect()
        Search(
            opened,
            folder,
            objectives=objectives,
            space=space,
            shared=shared,
            total=plugin.n_trials,
            at_once=partial(
                runs_at_once,
                launcher,
                config.hydra.launcher,
                plugin.n_jobs,
                plugin.n_trials * sweep.seeds,
            ),
            launch=launcher.launch,
            stop=getattr(launcher, "stop", lambda: None),
            seeds=seeds_of(config.seed, sweep.seeds) if sweep.seeds > 1 else (None,),
            constraints=constraints_of(sweep.constraint),
            max_failures=sweep.max_failures,
            rungs=Rungs(sweep.rungs, sweep.reduction) if sweep.rungs else None,
        ).run()
