"""The record of a sweep (sweep.json), and the state of each run as its folder shows it."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vae.losses import LossConfig, beta_elbo
from vae.runs.resume import ACCEPTED
from vae.runs.run_dir import is_locked, read_summary
from vae.utils.errors import UserError
from vae.utils.files import read_rows, read_yaml

RECORD_FILE = "sweep.json"  # written by PrepareSweep
ENDED = ("finished", "pruned")  # the process may continue with the sweep's next run


@dataclass(frozen=True)
class SweepRun:
    """The state of one run of a sweep, read from its folder."""

    folder: Path
    status: str  # finished, pruned, failed, interrupted, running or cut (its process is gone)
    error: str | None  # why it failed
    arguments: list[str]  # overrides of the run, `loss.beta=1e-05`
    config: dict[str, Any]  # composed, nested
    metrics: dict[str, float]  # val/* as they last stood
    step: int
    total_steps: int | None
    seconds: float | None

    @property
    def name(self) -> str:
        """The run's name: its folder's name."""
        return self.folder.name

    @property
    def trial(self) -> int | None:
        """The number of the Optuna trial."""
        found = self.value("sweep.trial")
        return found if isinstance(found, int) else None

    @property
    def beta_elbo(self) -> float | None:
        """β relative to the ELBO; None if the configuration is damaged, or another version's."""
        config = self.config
        try:
            keys = ("name", "beta", "kl_reduction")
            loss = LossConfig(**{key: config["loss"][key] for key in keys})
            found = beta_elbo(loss, config["data"]["image_size"], config["model"]["latent_dim"])
        except (ArithmeticError, LookupError, TypeError, ValueError, UserError):
            return None
        return parse_number(found)

    @cached_property
    def overrides(self) -> dict[str, str]:
        """The arguments by key, `loss.beta` -> `1e-05`; the last of a repeated key."""
        pairs = (argument.partition("=") for argument in self.arguments)
        return {key.lstrip("+~"): value for key, _, value in pairs}

    def value(self, key: str) -> Any:
        """Return a key's value in this run: a number or a text, None if unknown."""
        found: Any = self.config
        for part in key.split("."):
            if not isinstance(found, dict) or part not in found:
                return self._override(key)  # such as experiment=NAME
            found = found[part]
        if isinstance(found, dict):  # a group, as in model=conv
            return self.overrides.get(key, found.get("name"))
        plain = isinstance(found, int | str | None) or parse_number(found) is not None
        return found if plain else str(found)  # inf too: JSON has no infinity

    def _override(self, key: str) -> Any:
        """Return an override's value, parsed: `80` is a number."""
        text = self.overrides.get(key)
        found = parse_number(text)
        if found is None:
            return text
        return int(found) if str(text).isdigit() else found


def parse_number(value: Any) -> float | None:
    """Parse a value, or a text such as `1e-05`, as a finite number; None otherwise."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (OverflowError, TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def read_run(folder: Path) -> SweepRun:
    """Read the state of a run from its folder; ignore missing and damaged files."""
    config = _read_yaml(folder / ".hydra" / "config.yaml", dict)
    # a run that was refused has only what Hydra noted
    accepted = ACCEPTED if (folder / ACCEPTED).exists() else Path(".hydra", "overrides.yaml")
    summary = read_summary(folder)
    status = summary.get("status")
    if status != "finished" and is_locked(folder):
        status, summary = "running", {}  # a summary would be from before it was resumed
    step, metrics = _progress(folder / "metrics.jsonl")
    resumable = status in ("interrupted", "pruned")
    if resumable and step > (parse_number(summary.get("step")) or 0):
        status, summary = "cut", {}  # it was resumed after that summary, and killed
    total = parse_number(summary.get("total_steps"))
    return SweepRun(
        folder=folder,
        status=str(status or "cut"),
        error=str(summary["error"]) if summary.get("error") else None,
        arguments=[str(argument) for argument in _read_yaml(folder / accepted, list)],
        config=config,
        metrics=_metrics(summary.get("final")) or metrics,
        step=int(parse_number(summary.get("step")) or step),
        total_steps=None if total is None else int(total),
        seconds=parse_number(summary.get("seconds")),
    )


def _read_yaml(path: Path, kind: type) -> Any:
    """Read a YAML file of Hydra as a plain dict or list; empty if unreadable."""
    try:
        found = read_yaml(path)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        return kind()
    return found if isinstance(found, kind) else kind()


def _progress(path: Path) -> tuple[int, dict[str, float]]:
    """Return the last step and the last validation in metrics.jsonl."""
    step = 0
    metrics: dict[str, float] = {}
    with suppress(OSError):
        for _, row in read_rows(path):
            step = int(parse_number(row.get("step")) or step)
            metrics = _metrics(row) or metrics
    return step, metrics


def metrics_at(folder: Path, epoch: int) -> dict[str, float]:
    """Return the validation metrics of a run at the end of an epoch; {} if there are none."""
    found: dict[str, float] = {}
    with suppress(OSError):
        for _, row in read_rows(folder / "metrics.jsonl"):
            if (metrics := _metrics(row)) and row.get("epoch") == epoch:
                found = metrics
    return found


def _metrics(row: Any) -> dict[str, float]:
    """Return the finite validation metrics of a row."""
    pairs = row.items() if isinstance(row, dict) else ()
    found = {key: parse_number(value) for key, value in pairs if key.startswith("val/")}
    return {key: value for key, value in found.items() if value is not None}
