"""One run, from a configuration to a finished folder."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vae.checkpoint import save_checkpoint
from vae.config import RunConfig
from vae.data import Packed, open_data
from vae.data.loader import TrainingBatches, evaluation_batches, to_float
from vae.devices import autocast, cpu_threads, pick_device
from vae.errors import UserError
from vae.folders import claim_run_folder
from vae.gallery import draw_figures
from vae.interrupts import InterruptedRun, Interrupts
from vae.losses import beta_elbo
from vae.metrics import EVALUATION_BATCH, evaluate
from vae.models import VAE, build_model
from vae.optimizers import build_optimizer, group_settings, learning_rate
from vae.resuming import saved_state
from vae.summary import write_summary
from vae.tracking import Tracker, check, truncate_metrics
from vae.training import NotFiniteError, Trainer

log = logging.getLogger(__name__)

FACES_SHOWN = 16  # validation faces in the figures
BEST_BY = "val/bpd"  # which epoch is kept as best.pt: the smallest


KeepGoing = Callable[[int, Mapping[str, float]], bool]  # of (epochs done, validation metrics)


class PrunedRun(Exception):  # noqa: N818 - nothing is wrong with it
    """A run of a sweep was not worth going on with."""


def prepare(
    config: RunConfig,
    settings: Mapping[str, Any],
    folder: Path,
    *,
    go_on: bool = False,
    keep_going: KeepGoing = lambda epochs, metrics: True,
) -> Run:
    """Make all that a run needs, in a folder of its own: `.train()` then trains.

    Args:
        config: checked.
        settings: the same configuration as a plain nested dict, for the records.
        folder: the run folder; empty but for Hydra's files, unless it is to go on.
        go_on: go on with the run that `folder` holds, if it does; so does `config.resume`.
        keep_going: asked after each epoch; the run ends early where it says no.

    Returns:
        The run, ready to train.

    Raises:
        UserError: something that the user can mend; nothing but the packed cache
            and an empty folder of checkpoints has been created then.
    """
    check(config.wandb)
    device = pick_device(config.trainer.device)
    if config.resume is not None and Path(config.resume).resolve() != folder.resolve():
        raise UserError(f"resume: {config.resume} is to go on in its own folder, not in {folder}.")
    if config.resume is None and not go_on:
        claim_run_folder(folder)
    state = saved_state(config, settings, folder)
    data = open_data(config.data)
    return Run(config, settings, folder, data, device, state, keep_going)


class Run:
    """The parts of a run, and what happens at its epochs' ends."""

    def __init__(
        self,
        config: RunConfig,
        settings: Mapping[str, Any],
        folder: Path,
        data: Packed,
        device: torch.device,
        state: dict[str, Any] | None,
        keep_going: KeepGoing,
    ) -> None:
        self.config = config
        self.settings = settings
        self.folder = folder
        self.device = device
        self.keep_going = keep_going
        self.validation = data.images["val"]
        self.autocast = autocast(config.trainer.precision, device)
        self.model = _seeded_model(config).to(device)
        self.optimizer = build_optimizer(config.optimizer, self.model.parameters())
        self.best: dict[str, float] = {}
        self.final: dict[str, float] = {}
        self.seconds = 0.0  # of training before this process
        self.began = time.monotonic()
        self.run_id: str | None = None
        self.reporting = config.wandb
        step = 0
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            for group in self.optimizer.param_groups:  # the moments are the old, these may be new
                group.update(group_settings(config.optimizer))
            self.best, self.final, self.run_id = state["best"], state["final"], state["run_id"]
            before = state["config"]["wandb"]  # the same run there, in the same group
            self.reporting = replace(config.wandb, name=before["name"], group=before["group"])
            step, self.seconds = state["step"], state["seconds"]
            log.info("going on at step %d", step)
        truncate_metrics(folder / "metrics.jsonl", step)  # later rows will be written again
        self.trainer = Trainer(
            self.model,
            self.optimizer,
            TrainingBatches(
                data.images["train"], config.data.batch_size, config.seed, config.data.flip, device
            ),
            config.loss,
            config.trainer,
            learning_rate=partial(learning_rate, config.optimizer),
            seed=config.seed,
            autocast=self.autocast,
            step=step,
            on_row=lambda row: self.tracker.log(row),
            on_epoch=lambda _: self._end_epoch(),
        )

    def train(self) -> dict[str, float]:
        """To the end; whatever happens, the folder and W&B say how it ended.

        Returns:
            The validation metrics at the end of the run, by key; also of a pruned run.

        Raises:
            NotFiniteError: a loss, a gradient or a metric was infinite or NaN.
            InterruptedRun: SIGINT or SIGTERM; the state is saved.
        """
        weight = beta_elbo(self.config.loss, self.config.data.image_size, self.model.latent_dim)
        parameters = sum(p.numel() for p in self.model.parameters())
        record = {**self.settings, "beta_elbo": weight, "parameters": parameters}
        threads = self.config.trainer.num_threads or torch.get_num_threads()
        on = f"cpu (threads: {threads})" if self.device.type == "cpu" else self.device
        log.info(
            "%s: %d parameters, beta_elbo %.4g, %d steps on %s",
            *(self.folder, parameters, weight, self.trainer.total_steps, on),
        )
        status, reason = "failed", None
        with (
            Tracker(self.folder, self.reporting, record, run_id=self.run_id) as self.tracker,
            Interrupts() as interrupts,  # until all is saved
        ):
            self.run_id = self.tracker.run_id
            try:
                with cpu_threads(self.config.trainer.num_threads):
                    self.trainer.fit(interrupts)
                status = "finished"
            except PrunedRun:
                status = "pruned"
                log.info("pruned at step %d: others were better by then", self.trainer.step)
            except InterruptedRun:
                status = "interrupted"
                self._save("last")
                log.warning("interrupted: go on by  python train.py resume=%s", self.folder)
                raise
            except NotFiniteError as error:
                reason = f"{error} {self._last_good()}"
                raise NotFiniteError(reason) from error
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise
            finally:
                write_summary(self.folder, self._summary(status, reason, weight))
                self.tracker.summarise({"status": status, "beta_elbo": weight, "best": self.best})
            self.tracker.log_model(self.folder / "checkpoints" / "best.pt")
        return self.final

    def _end_epoch(self) -> None:
        """Measure, draw, save."""
        trainer = self.trainer
        batches = evaluation_batches(self.validation, EVALUATION_BATCH, self.device)
        evaluation = evaluate(self.model, batches, self.config.loss, self.autocast)
        metrics = {f"val/{name}": value for name, value in evaluation.metrics.items()}
        if not all(map(math.isfinite, metrics.values())):  # keep the checkpoint before it
            raise NotFiniteError(f"validation at step {trainer.step} is not finite: {metrics}.")
        self.final = metrics
        self.tracker.log({**trainer.position, **self.final})
        log.info(
            "epoch %.3g: bpd %.3f, psnr %.2f dB, rate %.1f nats, %d active latents",
            trainer.epoch,
            *(self.final[f"val/{name}"] for name in ("bpd", "psnr", "rate", "active_units")),
        )
        done = trainer.step >= trainer.total_steps
        if done or round(trainer.epoch) % self.config.trainer.figures_every == 0:
            faces = to_float(self.validation[:FACES_SHOWN].copy(), self.device)
            paths = draw_figures(self.model, faces, evaluation, self.folder / "figures")
            self.tracker.log_pictures(trainer.step, paths)
        if not self.best or self.final[BEST_BY] < self.best[BEST_BY]:
            self.best = {"step": trainer.step, **self.final}
            self._save("best")
        self._save("last")
        if not done and not self.keep_going(math.ceil(trainer.epoch), self.final):
            raise PrunedRun

    def _save(self, name: str) -> None:
        """checkpoints/NAME.pt: all that resuming needs, and nothing that runs."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.trainer.step,
            "epoch": self.trainer.epoch,
            "seconds": self._elapsed(),
            "seed": self.config.seed,
            "config": dict(self.settings),
            "best": self.best,
            "final": self.final,
            "run_id": self.run_id,
        }
        save_checkpoint(self.folder / "checkpoints" / f"{name}.pt", state)

    def _last_good(self) -> str:
        last = self.folder / "checkpoints" / "last.pt"
        exists = last.exists()
        return f"The last good checkpoint is {last}." if exists else "No checkpoint is left."

    def _elapsed(self) -> float:
        """Seconds of training, in all processes of the run."""
        return round(self.seconds + time.monotonic() - self.began, 1)

    def _summary(self, status: str, error: str | None, weight: float) -> dict[str, Any]:
        objectives = [self.final.get(key) for key in self.config.objectives]
        return {
            "status": status,
            "error": error,
            "step": self.trainer.step,
            "total_steps": self.trainer.total_steps,
            "seconds": self._elapsed(),
            "beta_elbo": weight,
            "objective": objectives if isinstance(self.config.objective, list) else objectives[0],
            "final": self.final,
            "best": self.best,
            "wandb_run_id": self.run_id,
        }


def _seeded_model(config: RunConfig) -> VAE:
    """The model with weights that depend on the seed alone; torch's own stream stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_model(config.model, config.data.image_size)
