"""The whole configuration: typed, checked, and composed by Hydra from `conf/`.

YAML holds the values; the dataclasses beside the code that they configure hold the
types and the ranges. Hydra refuses an unknown key or a wrong type while it composes;
`to_config` runs the range checks and hands the rest of the code plain dataclasses.
Hydra and OmegaConf's containers are known here and in `train.py`, `vae/overrides.py`,
`vae/sweeps/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from vae.data.celeba import CelebAConfig
from vae.data.folder import FolderConfig
from vae.data.source import DataConfig
from vae.data.synthetic import SyntheticConfig
from vae.errors import UserError, require, without_password
from vae.losses import LossConfig
from vae.metrics import METRICS
from vae.models.conv import ConvConfig
from vae.models.vae import ModelConfig
from vae.optimizers import OptimizerConfig
from vae.tracking import WandbConfig
from vae.training import TrainerConfig

CONF = Path(__file__).parents[1] / "conf"
PRUNERS = (None, "median", "hyperband")

# The choices that have settings of their own; the other groups have one type for all.
SCHEMAS = (
    ("model", "conv", ConvConfig),
    ("data", "synthetic", SyntheticConfig),
    ("data", "folder", FolderConfig),
    ("data", "celeba", CelebAConfig),
)


@dataclass
class SweepConfig:
    """What a sweep is called, where its study lies, and when it gives up on runs."""

    name: str = MISSING  # names its folder under multirun/, its study and its W&B group
    storage: str | None = MISSING  # Optuna's storage URL; null: study.db in the sweep's folder
    max_failures: int | None = MISSING  # failed runs in a row that stop the sweep; null = no limit
    pruner: str | None = MISSING  # null, median or hyperband: ends bad trials early
    pruner_startup: int = MISSING  # median: trials that are never pruned; int >= 0
    pruner_warmup: int = MISSING  # epochs before which no trial is pruned; int >= 1
    trial: int | None = MISSING  # number of the Optuna trial; filled in by the sweeper

    def __post_init__(self) -> None:
        usable = 0 < len(self.name) <= 100 and not set(self.name) & set('/\\:*?"<>|')
        takes = 'a name of at most 100 characters, none of them / \\ : * ? " < > |'
        require(usable, "sweep.name", self.name, takes)
        fits = self.max_failures is None or self.max_failures >= 1
        require(fits, "sweep.max_failures", self.max_failures, "null or an int >= 1")
        require(self.pruner in PRUNERS, "sweep.pruner", self.pruner, "null, median or hyperband")
        require(
            self.pruner_startup >= 0, "sweep.pruner_startup", self.pruner_startup, "an int >= 0"
        )
        require(self.pruner_warmup >= 1, "sweep.pruner_warmup", self.pruner_warmup, "an int >= 1")


@dataclass
class RunConfig:
    """All of a run (`conf/train.yaml`)."""

    seed: int = MISSING  # of the weights, the shuffling and the noise; int >= 0
    objective: Any = MISSING  # what train.py returns to a sweeper: a metric, or a list of them
    resume: str | None = MISSING  # a run folder to go on in
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    loss: LossConfig = MISSING
    trainer: TrainerConfig = MISSING
    wandb: WandbConfig = MISSING
    sweep: SweepConfig = MISSING

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", self.seed, "an int from 0 to 2**32 - 1")
        objectives_of(self.objective)
        for group, name, schema in SCHEMAS:
            chosen = getattr(self, group)
            if type(chosen) is schema:  # the name is a record of the choice, not the choice
                require(
                    chosen.name == name, f"{group}.name", chosen.name, f"{group}=CHOICE instead"
                )
        self.model.check_image_size(self.data.image_size)

    @property
    def objectives(self) -> list[str]:
        """The objective as a list of metric keys."""
        return objectives_of(self.objective)


def objectives_of(objective: Any) -> list[str]:
    """`objective`, a metric key or a list of them, as a list.

    Raises:
        UserError: no metric, or one that can choose nothing.
    """
    keys = [objective] if isinstance(objective, str) else list(objective or [None])
    for key in keys:
        require(
            isinstance(key, str) and key in METRICS and key != "val/loss",
            "objective",
            key,
            f"one of {', '.join(sorted(METRICS - {'val/loss'}))}, or a list of them "
            "(not the trained loss: it contains beta, so the smallest beta would win)",
        )
    return keys


def register_schemas() -> None:
    """Tell Hydra the types of `conf/`: each YAML names its schema in its defaults.

    The schemas lie in a group of their own, so that `model=` offers models alone.
    """
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(group="schema", name="run", node=RunConfig, replace=True)
    for group, name, schema in SCHEMAS:
        store.store(group=f"schema/{group}", name=name, node=schema, replace=True)


def compose(overrides: list[str]) -> RunConfig:
    """The configuration that `python train.py OVERRIDES` would run with."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException

    register_schemas()
    try:
        with initialize_config_dir(str(CONF)):
            return to_config(hydra_compose("train", overrides))
    except HydraException as error:
        cause = f"\n{error.__cause__}" if error.__cause__ else ""
        raise UserError(f"{error}{cause}") from error


def to_config(composed: DictConfig) -> RunConfig:
    """Plain dataclasses from what Hydra composed, with every range checked.

    Raises:
        UserError: names the key, what it got and what it takes.
    """
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UserError(f"{missing[0]}: needs a value, for example {missing[0]}=...")
    _refuse_unknown_keys(composed)
    config = OmegaConf.to_object(composed)
    assert isinstance(config, RunConfig)
    return config


def to_dict(composed: DictConfig) -> dict[str, Any]:
    """The same configuration as a nested dict of plain values: for W&B and checkpoints.

    These are shown to others: the password in `sweep.storage` is hidden.
    """
    plain: Any = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
    if plain["sweep"]["storage"]:
        plain["sweep"]["storage"] = without_password(plain["sweep"]["storage"])
    return dict(plain)


def _refuse_unknown_keys(node: DictConfig, path: str = "") -> None:
    """`+model.latent_dmi=3` gets past Hydra, which takes the + for intent."""
    kind = OmegaConf.get_type(node)
    known = getattr(kind, "__dataclass_fields__", {})
    for key in node:
        name = path + str(key)
        if known and key not in known:
            raise UserError(f"{name}: there is no such key; known are {', '.join(sorted(known))}.")
        if isinstance(node._get_node(key), DictConfig):
            _refuse_unknown_keys(node[key], f"{name}.")
