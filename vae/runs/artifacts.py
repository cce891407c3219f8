"""Lineage on W&B: the artifacts that a run uses and logs.

    dataset  <name of the packed cache>   an input of each run on it: fingerprint, no image
    model    model-<id of the W&B run>    the output of a run: checkpoints, overrides, summary

An evaluation, and a run that resumes a downloaded one, have the model as their input.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae.data import Packed
from vae.data.integrity import read_index
from vae.runs.checkpoint_schema import BEST_METRIC
from vae.runs.resume import ACCEPTED, SWEEP_KEYS, key_of, provides_value, reaches_network
from vae.runs.run_dir import SUMMARY_FILE
from vae.runs.wandb_run import REACH_TIMEOUT
from vae.utils.compat import log_input_artifact
from vae.utils.files import read_json, read_yaml

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

CHECKPOINTS = ("checkpoints/last.pt", "checkpoints/best.pt")
OVERRIDES = ACCEPTED.as_posix()
ALIASES = ("best", "latest")  # of the newest version: its best.pt is the best of the whole run
ORIGIN_FILE = "artifact.json"  # in a run folder: the artifact that it was downloaded from
MODEL = re.compile(r"[^/:]+/[^/:]+/[^/:]+:[^/:]+")  # entity/project/name:alias


def use_data(run: wandb.Run, data: Packed) -> None:
    """Record the packed images as an input of a W&B run, online or offline.

    The artifact has metadata and no files: W&B would upload where a file, or the target of a
    `file://` reference, lies on this machine. The name of the cache ends in a digest of its
    fingerprint, so runs on the same images have the same input.
    """
    import wandb

    index = read_index(data.folder)
    images = {split: len(array) for split, array in data.images.items()}
    metadata = {"fingerprint": index["fingerprint"], "images": images, "labels": index["labels"]}
    log_input_artifact(run, wandb.Artifact(data.folder.name, type="dataset", metadata=metadata))


def log_model(
    run: wandb.Run,
    folder: Path,
    config: Mapping[str, Any],
    best: Mapping[str, float],
    step: int,
    data: Packed | None,
) -> None:
    """Log the checkpoints of a run, and the rest that `resume=` and `vae` need, as an artifact.

    Args:
        folder: the run's.
        config: nested, as on W&B.
        best: step and metrics of best.pt.
        step: of last.pt.
        data: the images that it was trained on.
    """
    import wandb

    metadata = {
        "step": best.get("step"),
        BEST_METRIC: best.get(BEST_METRIC),
        "loss.beta": config["loss"]["beta"],
        "model.latent_dim": config["model"]["latent_dim"],
        "data": data and data.folder.name,
        "data.fingerprint": data and read_index(data.folder)["fingerprint"],
        "steps": {"best": best.get("step"), "last": step},
    }
    artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=metadata)
    for name in (*CHECKPOINTS, SUMMARY_FILE):
        if (folder / name).is_file():
            artifact.add_file(str(folder / name), name)
    if (folder / ACCEPTED).is_file():
        with artifact.new_file(OVERRIDES) as file:
            json.dump([each for each in read_yaml(folder / ACCEPTED) if _is_shown(each)], file)
    run.log_artifact(artifact, aliases=list(ALIASES))


def _is_shown(override: str) -> bool:
    """Return whether an override is uploaded: plain values of the run, and no URL of a study."""
    others = ("resume", "sweep.storage", *SWEEP_KEYS)
    return (
        provides_value(override)
        and not reaches_network(override)
        and not key_of(override).startswith(others)
    )


def use_model(run: wandb.Run, folder: Path, run_id: str | None, checkpoint: str, step: int) -> None:
    """Record the artifact of a checkpoint as an input of a W&B run, if there is one.

    That is the one that the run in `folder` was downloaded from, or the one that it has logged.
    The step of the checkpoint tells whether it is still in it.

    Args:
        run: an evaluation. W&B offers nothing to do so offline.
        folder: of the run that is evaluated.
        run_id: of that run on W&B; None if it has logged no model.
        checkpoint, step: which, and its step.
    """
    import wandb

    own = run_id and f"{run.entity}/{run.project}/model-{run_id}:latest"
    names = [name for name in (origin_of(folder), own) if name]
    if run.offline or not names:
        return
    api = wandb.Api({"base_url": run.settings.base_url}, timeout=int(REACH_TIMEOUT))
    for name in names:
        try:
            artifact = api.artifact(name, type="model")
        except wandb.Error as error:
            if "not found" not in str(error):
                raise
            continue
        steps = artifact.metadata.get("steps") or {}
        if steps.get("best" if checkpoint == "best" else "last") == step:
            run.use_artifact(artifact)
            return
    log.info("W&B has no artifact of this checkpoint: its evaluation is linked to none")


def use_origin(run: wandb.Run, folder: Path) -> None:
    """Record the artifact that a resumed run was downloaded from as its input. Online alone."""
    import wandb

    name = origin_of(folder)
    if name and not run.offline:
        api = wandb.Api({"base_url": run.settings.base_url}, timeout=int(REACH_TIMEOUT))
        run.use_artifact(api.artifact(name, type="model"))


def origin_of(folder: Path) -> str | None:
    """Return the artifact that a run folder was downloaded from; None for any other folder."""
    name = read_json(folder / ORIGIN_FILE).get("artifact")
    return name if isinstance(name, str) and MODEL.fullmatch(name) else None
