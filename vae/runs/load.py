"""A finished run: load its model and data from its folder, evaluate it and record the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from vae.data import CelebAConfig, DataConfig, Packed
from vae.evaluation import TrainedModel
from vae.evaluation.counterfactual import EXAMPLE, Change
from vae.evaluation.evaluate import evaluate_model
from vae.evaluation.metrics_report import Report
from vae.generation.figures import draw_figures, write_table
from vae.models import build_model
from vae.runs.artifact_download import download_run, is_address
from vae.runs.artifacts import use_model
from vae.runs.checkpoint import read_checkpoint
from vae.runs.checkpoint_schema import validate_checkpoint
from vae.runs.compose import flatten, run_config
from vae.runs.config import RunConfig
from vae.runs.resume import PLACE_KEYS
from vae.runs.run_dir import RUN_ENTRIES, require_own_place
from vae.runs.wandb_run import WandbRun
from vae.runs.wandb_settings import fitting_name, resolve_mode, without_upload_target
from vae.utils.errors import UserError, require
from vae.utils.files import read_json, read_yaml, reject_unsafe_entries, write_json

METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class SavedRun(TrainedModel):
    """A trained model as one of the checkpoints of a run has it."""

    folder: Path
    config: RunConfig
    step: int
    epoch: float
    metrics: dict[str, float]  # val/* as it was last measured
    checkpoint: str = "last"
    given: frozenset[str] = frozenset()  # keys of the configuration that are not the run's own
    wandb_run_id: str | None = None  # of a run that has logged its model

    @property
    def directions_file(self) -> Path:
        """Where the attribute directions of this checkpoint are kept."""
        return self.folder / "directions" / f"{self.checkpoint}.npz"

    @property
    def flow_file(self) -> Path:
        """Where the flow that is fitted to the latents of this checkpoint is kept."""
        return self.folder / "priors" / f"{self.checkpoint}.npz"

    @cached_property
    def data(self) -> Packed:
        """The images that the run was trained on, and its test split.

        Raises:
            UserError: they are no longer where they were; says how to give their new place. Or
                they are to be packed, and only the run's folder says where.
        """
        if "data.root" not in self.given:
            require_own_place(Path(self.data_config.root))
        try:
            return super().data
        except UserError as error:
            moved = (
                " If it has moved: data.path=FOLDER." if hasattr(self.data_config, "path") else ""
            )
            raise UserError(f"{error} So it is in the run {self.folder}.{moved}") from error


def load_run(
    folder: Path | str, checkpoint: str = "last", overrides: Sequence[str] = ()
) -> SavedRun:
    """Load the model of a run from `checkpoints/CHECKPOINT.pt`.

    The file's names select this project's classes; no code in it, and none
    that it points to, is run. torch's random numbers stay as they were.

    Args:
        folder: the run's, or `wandb:ENTITY/PROJECT/NAME:ALIAS`, which is downloaded.
        checkpoint: `last`, or `best` (by val/bpd), or `ema`: the average of the weights. Where
            the last one is damaged it is the one before it, and a line is logged that says so.
        overrides: `data.path=FOLDER` or `data.root=FOLDER` where the images have moved,
            `metrics.*=...` for how to measure, `wandb.*=...` for where to report.

    Raises:
        UserError: there is no such run or checkpoint, it is damaged, or this version does
            not know its contents; its folder is not safe to write to; an override is invalid;
            it cannot be downloaded.
    """
    folder = download_run(str(folder)) if is_address(folder) else Path(folder)
    reject_unsafe_entries(folder, RUN_ENTRIES)
    average = checkpoint == "ema"  # is in the last one
    state, path = read_checkpoint(folder, "last" if average else checkpoint)
    changes = _parse(overrides)
    try:
        config = run_config(state.get("config"))
        if average:
            require(state.get("ema") is not None, "trainer.ema", None, "a decay: it has no average")
        weights = "ema" if average else "model"
        validate_checkpoint(state, config, weights, "step", "epoch", "final")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if changes:  # their errors are not the checkpoint's
        config = run_config(state["config"], changes)
    with torch.random.fork_rng(devices=[]):
        model = build_model(config.model, config.data.image_size)
    model.load_state_dict(state["ema"]["model"] if average else state["model"])
    prefix = "ema/" if average else "val/"
    run_id = state.get("run_id")
    measured = [(key, value) for key, value in state["final"].items() if key.startswith(prefix)]
    return SavedRun(
        model=model.eval(),
        model_config=config.model,
        data_config=resolve_data_paths(config.data, folder),
        loss_config=config.loss,
        metrics_config=config.metrics,
        folder=folder,
        config=config,
        step=state["step"],
        epoch=state["epoch"],
        metrics={key.replace(prefix, "val/"): value for key, value in measured},
        checkpoint=checkpoint,
        given=frozenset(flatten(changes)),
        wandb_run_id=run_id if config.wandb.log_model and isinstance(run_id, str) else None,
    )


def resolve_data_paths(data: DataConfig, run: Path) -> DataConfig:
    """Resolve relative data paths against the folder that the run was started in.

    Where that is gone (the run was moved to another machine), from the current one. Nothing is
    downloaded to them: they may come from somebody else.
    """
    if isinstance(data, CelebAConfig):
        data = replace(data, download=False)
    try:
        started_in = Path(read_yaml(run / ".hydra" / "hydra.yaml")["hydra"]["runtime"]["cwd"])
        if not started_in.is_dir():
            return data
    except Exception:  # no such file, or a damaged one: YAML and OmegaConf have many words for it
        return data
    moved: dict[str, Any] = {"root": str(started_in / data.root)}
    if getattr(data, "path", None):  # drawn faces have none
        moved["path"] = str(started_in / Path(data.path).expanduser())  # type: ignore[attr-defined]
    return replace(data, **moved)


def _parse(overrides: Sequence[str]) -> DictConfig:
    """Parse `KEY=VALUE` overrides of a run's configuration; paths are from the current folder."""
    changes = OmegaConf.create()
    for override in overrides:
        key, _, text = override.partition("=")
        if key in PLACE_KEYS:
            require(text != "", key, text, "a folder")
            OmegaConf.update(changes, key, str(Path(text).expanduser().absolute()))
            continue
        takes = f"{', '.join(PLACE_KEYS)}, metrics.* or wandb.*: the rest is the run's own"
        require(key.startswith(("metrics.", "wandb.")), "KEY=VALUE", override, takes)
        try:
            changes.merge_with_dotlist([override])
        except Exception as error:  # of YAML's or OmegaConf's
            raise UserError(f"{key}: {text} cannot be parsed ({type(error).__name__}).") from error
    return changes


def evaluate_and_record(
    run: SavedRun, split: str = "val", seed: int = 0, out: Path | None = None
) -> tuple[Report, dict[str, Path]]:
    """Evaluate a run and write metrics.json and the split's figures; report it to W&B.

    On W&B it is a run of its own, of the job type `evaluate`, in the group of the one that
    it measures and by that one's settings, except where they would upload to.

    Args:
        run, split, seed: as `evaluate_model`.
        out: the folder to write to; the run's own if None.

    Returns:
        The report, and the figures by their keys on W&B.
    """
    settings = without_upload_target(run.config.wandb, run.given)
    resolve_mode(settings.mode)  # before the work
    report, evaluation = evaluate_model(run, split, seed, run.directions_file, run.flow_file)
    folder = out or run.folder
    write_metrics(run, report, folder / METRICS_FILE)
    images, training = run.data.images[split], run.data.images["train"]
    figures = draw_figures(run.model, images, training, evaluation, folder / "figures" / split)
    if report.examples:
        rows, file = [*report.examples], folder / "figures" / split / "edits.png"
        pictures = torch.stack([*report.examples.values()])
        figures.files["edits"] = write_table(pictures, file, columns=EXAMPLE, rows=rows)
    name = fitting_name(f"{settings.name or run.folder.name} {split}")
    named = replace(settings, name=name)
    config = {**asdict(run.config), "checkpoint": run.checkpoint, "evaluated": str(run.folder)}
    with WandbRun(folder, named, config, job_type="evaluate") as wandb_run:
        wandb_run.send(
            "logging of the model as an input failed",
            lambda wb: use_model(wb, run.folder, run.wandb_run_id, run.checkpoint, run.step),
        )
        row = {name: figure["value"] for name, figure in report.figures.items()}
        wandb_run.report({"step": run.step, **row})
        keyed = {f"{split}/{key}": path for key, path in figures.files.items()}
        wandb_run.report({"step": run.step}, keyed)
    return report, figures.files


def read_edit_scores(run: SavedRun, method: str, split: str = "val") -> dict[str, Change]:
    """Return effect and leakage of edits by attribute, from the run's metrics.json.

    Empty if the run has not been evaluated since its last step, or its faces are not drawn.
    """
    record = read_json(run.folder / METRICS_FILE)
    if (record.get("checkpoint"), record.get("step")) != (run.checkpoint, run.step):
        return {}
    try:
        found = record["edits"][split]["value"]
        scores = {name: Change(**score["changes"][method]) for name, score in found.items()}
        finite = [math.isfinite(v) for one in scores.values() for v in (one.effect, one.leakage)]
        return scores if all(finite) else {}
    except (LookupError, TypeError, AttributeError):  # of an older version, or damaged
        return {}


def write_metrics(run: SavedRun, report: Report, file: Path) -> None:
    """Write metrics.json; keep the entries of the same checkpoint on other splits."""
    about: dict[str, Any] = {"checkpoint": run.checkpoint, "step": run.step}
    before = read_json(file)
    if any(before.get(key) != value for key, value in about.items()):
        before = {}
    parts: dict[str, dict[str, Any]] = {
        "metrics": report.figures,
        "kl_per_latent": {report.split: report.kl_per_latent},
        "attributes": {report.split: report.separability},
        "edits": {report.split: report.edits},
        "notes": {report.split: report.notes},
    }
    for key, part in parts.items():
        entries = before.get(key)
        others = entries.items() if isinstance(entries, dict) else ()
        kept = {name: entry for name, entry in others if name.partition("/")[0] != report.split}
        parts[key] = dict(sorted({**kept, **part}.items()))
    write_json(file, about | parts)
