"""One run: training, validation at each epoch's end, checkpoints, the summary."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vae.data import Packed
from vae.data.loader import to_float
from vae.generation.figures import draw_figures
from vae.losses import beta_elbo
from vae.models.base import multiply_adds
from vae.runs.checkpoint import BEST_METRIC, needs_validation, save_checkpoint
from vae.runs.config import RunConfig
from vae.runs.failures import last_checkpoint_hint, translate_resource_errors
from vae.runs.run_dir import write_summary
from vae.runs.tracking import Tracker, truncate_metrics
from vae.runs.trainer_setup import build_trainer, validate
from vae.training.metrics import EVALUATION_BATCH, Evaluation
from vae.training.step_metrics import NotFiniteError
from vae.utils.devices import cpu_threads, device_name, pick_precision
from vae.utils.distributed import ProcessGroup
from vae.utils.errors import UserError
from vae.utils.files import annotate_os_error, backup_as, remove_unfinished
from vae.utils.signals import InterruptedRun, Interrupts

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)

FACES_SHOWN = 16  # validation faces in the figures

ShouldContinue = Callable[[int, Mapping[str, float]], bool]  # of (epochs done, validation metrics)


class PrunedRun(Exception):  # noqa: N818 - nothing is wrong with it
    """The pruner ended this run of a sweep."""


class Run:
    """A training run: trainer, validation at epoch ends, checkpoints, records."""

    def __init__(
        self,
        config: RunConfig,
        settings: Mapping[str, Any],
        folder: Path,
        data: Packed,
        device: torch.device,
        state: dict[str, Any] | None,
        world: ProcessGroup,
        should_continue: ShouldContinue,
    ) -> None:
        self.config = config
        self.settings = settings
        self.folder = folder
        self.device = device
        self.should_continue = should_continue
        self.validation = data.images["val"]
        self.best: dict[str, float] = {}
        self.final: dict[str, float] = {}
        self.seconds = 0.0  # of training before this process
        self.began = time.monotonic()
        self.run_id: str | None = None
        self.interrupts = Interrupts()
        self.measured = not needs_validation(state)
        self.reporting = config.wandb
        if state is not None:
            self.best, self.final, self.run_id = state["best"], state["final"], state["run_id"]
            before = state["config"]["wandb"]  # the same run there, in the same group
            self.reporting = replace(config.wandb, name=before["name"], group=before["group"])
            self.seconds = state["seconds"]
            if "file" in state:  # else a damaged file would be kept as the previous one
                backup_as(state["file"], "last.pt")
        self.trainer = build_trainer(
            config,
            data.images["train"],
            device,
            state,
            world,
            on_row=self._log,
            on_epoch=lambda _: self._end_epoch(),
            on_save=lambda: self._save("last"),
        )
        if self.trainer.step > self.trainer.total_steps:
            raise UserError(
                f"resume: the run in {folder} is at step {self.trainer.step} already, and with "
                f"these trainer.epochs and trainer.max_steps it would end at step "
                f"{self.trainer.total_steps}. Give it more, or leave them out."
            )
        self.model = self.trainer.model
        self.record = record_of(self)
        self._warn_if_precision_changed(state or {})
        # later rows will be written again
        truncate_metrics(folder / "metrics.jsonl", self.trainer.step, self.measured)
        remove_unfinished(folder)

    def _warn_if_precision_changed(self, state: Mapping[str, Any]) -> None:
        """Warn when trainer.precision=auto differs from the checkpoint's precision."""
        now = self.record["precision"]
        before = state.get("precision")  # which older versions did not note
        if before not in (None, now):
            log.warning("resume: the run was computed in %s before, and is in %s now", before, now)

    def train(self) -> dict[str, float]:
        """Train to the end; record in the folder and on W&B how the run ended.

        Returns:
            The validation metrics at the end of the run, by key; also of a pruned run.

        Raises:
            NotFiniteError: a loss, a gradient or a metric was infinite or NaN.
            InterruptedRun: Ctrl-C, SIGTERM or SIGUSR1; the state is saved.
        """
        record = self.record
        size, steps = record["multiply_adds"] / 1e6, self.trainer.total_steps
        log.info(
            "%s: %d parameters, %.0fM multiply-adds/image, beta_elbo %.4g, %d steps in %s on %s",
            *(self.folder, record["parameters"], size, record["beta_elbo"], steps),
            *(record["precision"], describe_device(self)),
        )
        status, reason = "failed", None
        with (
            self._translate_resource_errors(),
            Tracker(self.folder, self.reporting, record, run_id=self.run_id) as self.tracker,
            self.interrupts,  # until all is saved
        ):
            self.run_id = self.tracker.run_id
            try:
                with self._translate_resource_errors():
                    self._fit()
                status = "finished"
            except PrunedRun:
                status = "pruned"
                log.info("pruned by Optuna at step %d", self.trainer.step)
            except InterruptedRun:
                status = "interrupted"
                log.warning("interrupted: resume with  python train.py resume=%s", self.folder)
                raise
            except NotFiniteError as error:
                reason = f"{error} {last_checkpoint_hint(self.folder)}"
                raise NotFiniteError(reason) from error
            except Exception as error:
                told = isinstance(error, UserError)
                reason = str(error) if told else f"{type(error).__name__}: {error}"
                raise
            finally:
                self._write_summary(status, reason)
                ended = {"status": status, "beta_elbo": record["beta_elbo"], "best": self.best}
                self.tracker.summarise(ended)
            self.tracker.log_model(self.folder / "checkpoints" / "best.pt")
        return self.final

    def _fit(self) -> None:
        """Train to the end, or save a checkpoint at an interrupt."""
        try:
            with cpu_threads(self.config.trainer.num_threads):
                if not self.measured:
                    self._end_epoch()
                self.trainer.fit(self.interrupts)
        except InterruptedRun:
            self._save("last")
            raise

    def _translate_resource_errors(self, batch: int | None = None) -> AbstractContextManager[None]:
        return translate_resource_errors(self.config, self.folder, self.trainer, batch)

    def _log(self, row: Mapping[str, float]) -> None:
        with annotate_os_error(self.folder / "metrics.jsonl"):
            self.tracker.log(row)

    def _end_epoch(self) -> None:
        """Validate, draw figures, save checkpoints."""
        trainer = self.trainer
        self.measured = False
        with self._translate_resource_errors(EVALUATION_BATCH):
            self.final, evaluation = validate(trainer, self.validation, self.interrupts)
        self.measured = True
        self._log({**trainer.position, **self.final})
        log.info(
            "epoch %.3g: bpd %.3f, psnr %.2f dB, rate %.1f nats, %d active latents",
            trainer.epoch,
            *(self.final[f"val/{name}"] for name in ("bpd", "psnr", "rate", "active_units")),
        )
        done = trainer.step >= trainer.total_steps
        if done or round(trainer.epoch) % self.config.trainer.figures_every == 0:
            self._draw(evaluation)
        if not self.best or self.final[BEST_METRIC] < self.best[BEST_METRIC]:
            self.best = {"step": trainer.step, **self.final}
            self._save("best")
        self._save("last")
        if not done and not self.should_continue(math.ceil(trainer.epoch), self.final):
            raise PrunedRun

    def _draw(self, evaluation: Evaluation) -> None:
        """Draw the figures; a figure that cannot be written is only a warning."""
        faces = to_float(self.validation[:FACES_SHOWN].copy(), self.device)
        try:
            paths = draw_figures(self.model, faces, evaluation, self.folder / "figures")
        except OSError as error:
            log.warning("no figures of step %d: %s", self.trainer.step, error)
        else:
            self.tracker.log_pictures(self.trainer.step, paths)

    def _save(self, name: str) -> None:
        """Write checkpoints/NAME.pt.

        The last one before it is kept as previous.pt.
        """
        path = self.folder / "checkpoints" / f"{name}.pt"
        with annotate_os_error(self.folder / "metrics.jsonl"):
            self.tracker.sync()  # the rows before it are to be there where it is
        save_checkpoint(path, build_checkpoint(self), "previous.pt" if name == "last" else None)

    def _write_summary(self, status: str, reason: str | None) -> None:
        try:
            write_summary(self.folder, summary_of(self, status, reason))
        except OSError:
            if status in ("finished", "pruned"):  # of the others it has been said why
                raise

    def elapsed(self) -> float:
        """Return the seconds of training, including earlier sessions of the run."""
        return round(self.seconds + time.monotonic() - self.began, 1)


def build_checkpoint(run: Run) -> dict[str, Any]:
    """Build a checkpoint: weights, optimizer state, step, configuration, metrics."""
    trainer = run.trainer
    return {
        "model": trainer.model.state_dict(),
        "ema": trainer.ema.state() if trainer.ema else None,
        "optimizer": trainer.optimizer.state_dict(),
        "step": trainer.step,
        "skipped": trainer.guard.state(),
        "pending": trainer.pending,
        "epoch": trainer.epoch,
        "measured": run.measured,
        "seconds": run.elapsed(),
        "seed": run.config.seed,
        "precision": run.record["precision"],
        "config": dict(run.settings),
        "best": run.best,
        "final": run.final,
        "run_id": run.run_id,
    }


def summary_of(run: Run, status: str, error: str | None) -> dict[str, Any]:
    """Build summary.json: status, metrics, objective, time."""
    objectives = [run.final.get(key) for key in run.config.objectives]
    return {
        "status": status,
        "error": error,
        "step": run.trainer.step,
        "total_steps": run.trainer.total_steps,
        "seconds": run.elapsed(),
        "machine": hardware_name(run),
        "precision": run.record["precision"],
        "beta_elbo": run.record["beta_elbo"],
        "objective": objectives if isinstance(run.config.objective, list) else objectives[0],
        "final": run.final,
        "best": run.best,
        "wandb_run_id": run.run_id,
    }


def record_of(run: Run) -> dict[str, Any]:
    """Return the settings and derived values for W&B."""
    return {
        **run.settings,
        "beta_elbo": beta_elbo(run.config.loss, run.config.data.image_size, run.model.latent_dim),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "multiply_adds": multiply_adds(run.model, run.config.data.image_size),  # of an image
        "precision": pick_precision(run.config.trainer.precision, run.device),
    }


def hardware_name(run: Run) -> str:
    """Describe the hardware by name, for comparing times."""
    threads = run.config.trainer.num_threads or torch.get_num_threads()
    used = f", {threads} thread{'s' * (threads > 1)}" if run.device.type == "cpu" else ""
    return f"{device_name(run.device)}{used}, torch {torch.__version__.partition('+')[0]}"


def describe_device(run: Run) -> str:
    """Describe device and threads, for the log."""
    threads = run.config.trainer.num_threads or torch.get_num_threads()
    on = f"cpu (threads: {threads})" if run.device.type == "cpu" else str(run.device)
    world = run.trainer.world
    return f"{world.size} processes, each on {on}" if world.size > 1 else on
