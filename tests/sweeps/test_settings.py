"""Checks of Hydra's settings of a sweep: each wrong one is refused by its key."""

from copy import deepcopy
from functools import cache

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from vae.runs.compose import CONF, register_schemas
from vae.sweeps.settings import check_sweep_settings
from vae.utils.errors import UserError


@cache
def composed(*choices):
    register_schemas()
    with initialize_config_dir(str(CONF)):
        return compose("train", [f"hydra/{choice}" for choice in choices], return_hydra_config=True)


def check(choices, settings=(), overrides=()):
    """Check Hydra's settings, with some of them changed after the composition."""
    config = deepcopy(composed(*choices.split()))
    for setting in settings:
        key, _, value = setting.partition("=")
        with open_dict(config.hydra):
            OmegaConf.update(config, key, yaml.safe_load(value), force_add=True)
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    check_sweep_settings(config.hydra, parsed, OmegaConf.to_object(config.sweep))


WRONG = {
    "launcher=joblib": "n_jobs=0 n_jobs=1.5 n_jobs=x batch_size=0 inner_max_num_threads=0 "
    "timeout=-1 verbose=x backend=x",
    "launcher=submitit_slurm": "timeout_min=0 nodes=2 mem_gb=x gpus_per_node=-1 cpus_per_task=0",
    "launcher=ray": "n_jobs=0 n_jobs=-1 num_cpus=0 num_gpus=-1 memory_gb=x",
    "sweeper=study": "n_trials=0 n_jobs=-2000 study_name=x direction=minimize "
    "storage=sqlite:///x.db max_failure_rate=0.0 custom_search_space=os.system",
    "sweeper=basic": "max_batch_size=0",
}


@pytest.mark.parametrize("choice", WRONG)
def test_each_wrong_setting_is_refused_by_its_key(choice, monkeypatch):
    monkeypatch.setattr("vae.sweeps.settings.shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setattr("vae.sweeps.settings.find_spec", lambda name: name)
    check(choice)
    for setting in WRONG[choice].split():
        key = f"hydra.{choice.partition('=')[0]}.{setting.partition('=')[0]}"
        with pytest.raises(UserError) as caught:
            check(choice, [f"hydra.{choice.partition('=')[0]}.{setting}"])
        assert str(caught.value).startswith(f"{key}: got "), setting


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ("sweeper=optuna", "hydra/sweeper: got 'optuna'. Take study"),
        ("sweeper=study sweeper/sampler=grid", "hydra/sweeper/sampler: got 'grid'. Leave hydra/"),
    ],
)
def test_samplers_and_sweepers_that_cannot_work_are_refused(choices, words):
    with pytest.raises(UserError, match=f"^{words}"):
        check(choices)


def test_slurm_needs_its_commands(monkeypatch):
    monkeypatch.setattr("vae.sweeps.settings.shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"^hydra/launcher: submitit_slurm .* no srun here"):
        check("launcher=submitit_slurm")


def test_ray_needs_its_package(monkeypatch):
    monkeypatch.setattr("vae.sweeps.settings.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'^hydra/launcher: ray .*: pip install -e "\.\[ray\]"$'):
        check("launcher=ray")


def test_an_interval_needs_a_study():
    check("sweeper=study", overrides=["loss.beta=interval(0,1)"])
    with pytest.raises(UserError, match=r"^loss\.beta: an interval .*hydra/sweeper=study"):
        check("sweeper=basic", overrides=["loss.beta=interval(0,1)"])


def test_joblib_leaves_its_folders_in_the_sweep():
    """Those in /dev/shm outlive a sweep that is killed."""
    config = composed("launcher=joblib")
    assert config.hydra.launcher.temp_folder == config.hydra.sweep.dir
