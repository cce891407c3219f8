"""Load a trained model and its data from a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

import torch
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vae.data import DataConfig, Packed, open_data
from vae.evaluation import MetricsConfig
from vae.losses import LossConfig
from vae.models import VAE, ModelConfig, build_model
from vae.runs.checkpoint import load_checkpoint, load_last
from vae.runs.config import RunConfig
from vae.utils.errors import UserError, require
from vae.utils.files import read_json, read_yaml
from vae.utils.registry import choices

PATH_KEYS = ("data.path", "data.root")


@dataclass(frozen=True)
class SavedRun:
    """A run as one of its checkpoints has it: a `vae.evaluation.TrainedModel` with a folder."""

    folder: Path
    config: RunConfig
    model: VAE  # in evaluation mode; `load_run` has it on the CPU
    step: int
    epoch: float
    metrics: dict[str, float]  # val/* as it was last measured
    checkpoint: str = "last"

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return next(self.model.parameters()).device

    @cached_property
    def data_config(self) -> DataConfig:
        """The settings of the images, with paths that hold in the current folder."""
        return resolve_data_paths(self.config.data, self.folder)

    @property
    def model_config(self) -> ModelConfig:
        """The settings of the model."""
        return self.config.model

    @property
    def loss_config(self) -> LossConfig:
        """The loss that the model was trained with."""
        return self.config.loss

    @property
    def metrics_config(self) -> MetricsConfig:
        """How to measure the model."""
        return self.config.metrics

    @property
    def directions_file(self) -> Path:
        """Where the attribute directions of this checkpoint are kept."""
        return self.folder / "directions" / f"{self.checkpoint}.npz"

    @cached_property
    def data(self) -> Packed:
        """The images that the run was trained on, and its test split.

        Raises:
            UserError: they are no longer where they were; says how to give their new place.
        """
        try:
            return open_data(self.data_config)
        except UserError as error:
            moved = (
                " If it has moved: data.path=FOLDER." if hasattr(self.config.data, "path") else ""
            )
            raise UserError(f"{error} So it is in the run {self.folder}.{moved}") from error


def load_run(
    folder: Path | str, checkpoint: str = "last", overrides: Sequence[str] = ()
) -> SavedRun:
    """Load the model of a run from `checkpoints/CHECKPOINT.pt`.

    The file's names select this project's classes; no code in it, and none
    that it points to, is run. torch's random numbers stay as they were.

    Args:
        folder: the run's.
        checkpoint: `last`, or `best` (by val/bpd), or `ema`: the average of the weights. Where
            the last one is damaged it is the one before it, and a line is logged that says so.
        overrides: `data.path=FOLDER` or `data.root=FOLDER` where the images have moved,
            `metrics.*=...` for how to measure.

    Raises:
        UserError: there is no such run or checkpoint, it is damaged, or this version does
            not know its contents; or an override is invalid.
    """
    folder = Path(folder)
    average = checkpoint == "ema"  # is in the last one
    path = folder / "checkpoints" / f"{'last' if average else checkpoint}.pt"
    state, path = _load(folder, path)
    try:
        config = run_config(_overridden(state["config"], overrides))
        with torch.random.fork_rng(devices=[]):
            model = build_model(config.model, config.data.image_size)
        if average:
            require(state.get("ema") is not None, "trainer.ema", None, "a decay: it has no average")
        model.load_state_dict(state["ema"]["model"] if average else state["model"])
        prefix = "ema/" if average else "val/"
        measured = [(key, value) for key, value in state["final"].items() if key.startswith(prefix)]
        metrics = {key.replace(prefix, "val/"): value for key, value in measured}
        step, epoch = state["step"], state["epoch"]
        return SavedRun(folder, config, model.eval(), step, epoch, metrics, checkpoint)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path}: not a run of this version ({_one_line(error)}).") from error


def _load(folder: Path, path: Path) -> tuple[dict[str, Any], Path]:
    """Load a checkpoint of a run; return it and its path."""
    try:
        return load_last(path.parent) if path.name == "last.pt" else (load_checkpoint(path), path)
    except UserError:
        if path.is_file():
            raise
        raise UserError(_what_is_missing(folder, path)) from None


def run_config(values: Mapping[str, Any]) -> RunConfig:
    """Build a run's configuration from a nested dict; check every range.

    Raises:
        UserError: names the key that this version does not know, or that is missing.
    """
    config: RunConfig = _settings(RunConfig, values)
    return config


def _settings(schema: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """Build a dataclass from a dict; keys with a default may be missing.

    Args:
        schema: the dataclass, or what all choices of its group have in common.
        values: by key; those of further dataclasses are dicts.
        prefix: of the keys, "" or "GROUP.", for errors.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"{prefix[:-1]} is no group of keys")
    group = prefix.rstrip(".").replace(".", "/")
    if known_choices := choices(group):  # its name says which of them
        name = values["name"]
        takes = f"one of {', '.join(known_choices)} in this version"
        require(name in known_choices, f"{prefix}name", name, takes)
        schema = known_choices[name]
    settings: dict[str, Any] = dict(values)
    for key, kind in get_type_hints(schema).items():
        if is_dataclass(kind) and key in values:
            settings[key] = _settings(kind, values[key], f"{prefix}{key}.")
    known = {field.name: field.default for field in fields(schema)}
    for key in sorted(values.keys() - known.keys()):
        raise UserError(f"{prefix}{key}: this version knows no such key.")
    for key in sorted(key for key in known.keys() - values.keys() if known[key] == MISSING):
        raise UserError(f"{prefix}{key}: is missing; an older version wrote this.")
    return schema(**settings)


def resolve_data_paths(data: DataConfig, run: Path) -> DataConfig:
    """Resolve relative data paths against the folder that the run was started in.

    Where that is gone (the run was moved to another machine), from the current one.
    """
    try:
        started_in = Path(read_yaml(run / ".hydra" / "hydra.yaml")["hydra"]["runtime"]["cwd"])
        there = started_in.is_dir()
    except Exception:  # no such file, or a damaged one: YAML and OmegaConf have many words for it
        return data
    if not there:
        return data
    moved: dict[str, Any] = {"root": str(started_in / data.root)}
    if getattr(data, "path", None):  # drawn faces have none
        moved["path"] = str(started_in / Path(data.path).expanduser())  # type: ignore[attr-defined]
    return replace(data, **moved)


def _overridden(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `KEY=VALUE` overrides to a run's configuration; paths are from the current folder."""
    changed = dict(values)
    for override in overrides:
        key, _, text = override.partition("=")
        group, _, name = key.partition(".")
        if key in PATH_KEYS:
            changed["data"] = {**changed["data"], name: str(Path(text).expanduser().absolute())}
            continue
        takes = f"{', '.join(PATH_KEYS)} or metrics.*, as KEY=VALUE: the rest is the run's own"
        require(group == "metrics" and "=" in override, "overrides", override, takes)
        try:
            typed = OmegaConf.merge(
                OmegaConf.structured(MetricsConfig),
                changed.get("metrics", {}),
                OmegaConf.from_dotlist([f"{name}={text}"]),
            )
            changed["metrics"] = OmegaConf.to_container(typed)
        except OmegaConfBaseException as error:
            known = ", ".join(f"metrics.{field.name}" for field in fields(MetricsConfig))
            raise UserError(f"{key}: got {text!r} ({_one_line(error)}). Known: {known}.") from error
    return changed


def _what_is_missing(folder: Path, path: Path) -> str:
    """Explain why a checkpoint is missing, and what to do."""
    if not folder.is_dir():
        return f"{folder}: there is no such folder. Give a run's: outputs/DATE/TIME."
    if (folder / "checkpoints").is_dir():
        status = read_json(folder / "summary.json").get("status", "never came to its end")
        return (
            f"{path}: there is no such checkpoint (the run: {status}). One is written at the end "
            f"of each epoch. Resume the run: python train.py resume={folder}"
        )
    runs = sorted(found.parents[1] for found in folder.glob("*/checkpoints/last.pt"))
    hint = f"It holds {len(runs)} runs; give one: {runs[0]}." if runs else "Give outputs/DATE/TIME."
    return f"{folder}: is no run's folder: there are no checkpoints in it. {hint}"


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
