"""One run: training, validation at each epoch's end, checkpoints, the summary.

Under torchrun every rank has a `Run` of the same configuration and goes the same way; rank 0
alone writes to the run folder and to W&B.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vae.data import Packed
from vae.data.loader import TrainingBatches
from vae.generation.figures import draw_figures
from vae.losses import beta_elbo
from vae.models import build_model
from vae.models.base import multiply_adds
from vae.runs.checkpoint import check_last_step, save_checkpoint
from vae.runs.checkpoint_schema import BEST_METRIC
from vae.runs.config import RunConfig, objective_values
from vae.runs.failures import last_checkpoint_hint, require_memory, translate_resource_errors
from vae.runs.objectives import measure_objectives
from vae.runs.provenance import Provenance, Source
from vae.runs.run_dir import write_summary
from vae.runs.tracking import Tracker, truncate_metrics
from vae.training.base import NotFiniteError
from vae.training.metrics import EVALUATION_BATCH, Evaluation, validate
from vae.training.trainer import Trainer
from vae.utils import devices
from vae.utils.distributed import local_slice, on_rank_zero, rank
from vae.utils.errors import UserError
from vae.utils.files import backup_as, remove_unfinished
from vae.utils.signals import InterruptedRun, Interrupts, PrunedRun
from vae.utils.text import plural

log = logging.getLogger(__name__)

ShouldContinue = Callable[[int, Mapping[str, float]], bool]  # of (epochs done, validation metrics)


class Run:
    """A training run: model, trainer, validation at epoch ends, checkpoints, records.

    Args:
        config: checked.
        folder: the run folder.
        data: the packed splits.
        device: where to train; this rank's own.
        state: a checkpoint to resume from; None to start anew.
        should_continue: called after each epoch; the run ends early if it returns False.
        single: False in a sweep: WANDB_RUN_ID and the like do not apply.
        source: code and command that start the run; None: those of this process.

    Raises:
        UserError: the model is larger than the memory, or the run is past its end.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        data: Packed,
        device: torch.device,
        state: dict[str, Any] | None,
        should_continue: ShouldContinue,
        single: bool,
        source: Source | None = None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.device = device
        self.should_continue = should_continue
        self.validation = data.images["val"]
        self.interrupts = Interrupts()
        before = state or {}
        self.best: dict[str, float] = before.get("best", {})
        self.final: dict[str, float] = before.get("final", {})
        self.measured = before.get("measured", True)
        self.began: float = time.monotonic() - before.get("seconds", 0.0)  # as if not interrupted
        self.precision = devices.pick_precision(config.trainer.precision, device)
        self.trainer = self._build_trainer(data, state)
        self.model = self.trainer.model
        self.translate_errors = partial(translate_resource_errors, config, folder, self.trainer)
        reporting = config.wandb
        if state is not None:  # the same run there, in the same group
            there = state["config"].wandb
            reporting = replace(reporting, name=there.name, group=there.group)
        self._clean_up(before)
        self.provenance = Provenance(folder, source, data.folder, resumed=state is not None)
        self.record = {
            **config.as_dict(),
            "beta_elbo": beta_elbo(config.loss, config.data.image_size, self.model.latent_dim),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "multiply_adds": multiply_adds(self.model, config.data.image_size),  # of an image
            "precision": self.precision,
            "provenance": self.provenance.record,
        }
        self.tracker = Tracker(
            folder, reporting, self.record, run_id=before.get("run_id"), single=single, data=data
        )

    def _build_trainer(self, data: Packed, state: Mapping[str, Any] | None) -> Trainer:
        """Build model, optimizer and trainer; restore the state of a checkpoint."""
        config, device, images = self.config, self.device, data.images["train"]
        if device.type == "cpu":
            devices.keep_memory()
        require_memory(config)
        size, flip = config.data.batch_size, config.data.flip
        model = build_model(config.model, config.data.image_size, config.seed).to(device)
        trainer = Trainer(
            model,
            TrainingBatches(images, size, config.seed, flip, device, local_slice(size)),
            *(config.loss, config.optimizer, config.trainer),
            on_row=self._log,
            on_epoch=self._end_epoch,
            on_save=lambda: self._save("last"),
        )
        if state is not None:
            trainer.load_state(state)
            log.info("resuming at step %d", trainer.step)
            before = state.get("precision")
            if before not in (None, self.precision):  # None: an older version's
                log.warning("resume: computed in %s before, and in %s now", before, self.precision)
            check_last_step(state, config, self.folder, trainer.total_steps)
        return trainer

    @on_rank_zero
    def _clean_up(self, state: Mapping[str, Any]) -> None:
        """Remove what an interrupted run left after its last checkpoint, if it had one."""
        if state and state["file"].name != "last.pt":  # a damaged one is not to be the previous one
            backup_as(state["file"], "last.pt")
        truncate_metrics(self.folder / "metrics.jsonl", self.trainer.step, self.measured)
        remove_unfinished(self.folder)

    def train(self) -> dict[str, float]:
        """Train to the end; record in the folder and on W&B how the run ended.

        Returns:
            The validation metrics at the end of the run, by key; also of a pruned run.

        Raises:
            NotFiniteError: a loss, a gradient or a metric was infinite or NaN.
            InterruptedRun: Ctrl-C, SIGTERM or SIGUSR1; the state is saved.
        """
        log.info(
            "%s: %d parameters, %.0fM multiply-adds/image, beta_elbo %.4g, %d steps in %s on %s",
            *(self.folder, self.record["parameters"], self.record["multiply_adds"] / 1e6),
            *(self.record["beta_elbo"], self.trainer.total_steps, self.precision),
            devices.describe_device(self.device, self.config.trainer.num_threads),
        )
        log.info(
            "train/distortion: that of loss=%s; val/distortion and val/bpd: that of a Gaussian, "
            "in every run",
            self.config.loss.name,
        )
        status, reason = "failed", None
        with (
            self.translate_errors(),
            self.tracker if rank() == 0 else nullcontext(),
            self.interrupts,  # until all is saved
        ):
            try:
                with self.translate_errors(), devices.cpu_threads(self.config.trainer.num_threads):
                    on_rank_zero(self.provenance.write)(self.tracker)
                    try:
                        if not self.measured:
                            self._end_epoch()
                        self._stop_if_asked()
                        self.trainer.fit(self.interrupts)
                        self._measure_objectives()
                    except InterruptedRun:
                        self._save("last")
                        raise
                status = "finished"
            except PrunedRun:
                status = "pruned"
                log.info("stopped early by the search at step %d", self.trainer.step)
            except InterruptedRun:
                status = "interrupted"
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
            self.tracker.log_model(self.best, self.trainer.step)
        return self.final

    @on_rank_zero
    def _log(self, row: Mapping[str, float]) -> None:
        self.tracker.log(row)

    def _end_epoch(self) -> None:
        """Validate, draw figures, save checkpoints."""
        trainer = self.trainer
        self.measured = False
        with self.translate_errors(EVALUATION_BATCH):
            self.final, evaluation = validate(trainer, self.validation, self.interrupts)
        self.measured = True
        self._log({**trainer.position, **self.final})
        log.info(
            "epoch %.3g: bpd %.3f, psnr %.2f dB, rate %.1f nats, %s",
            trainer.epoch,
            *(self.final[f"val/{name}"] for name in ("bpd", "psnr", "rate")),
            plural(int(self.final["val/active_units"]), "active latent"),
        )
        done = trainer.step >= trainer.total_steps
        if done or round(trainer.epoch) % self.config.trainer.figures_every == 0:
            self._draw(evaluation)
        if not self.best or self.final[BEST_METRIC] < self.best[BEST_METRIC]:
            self.best = {"step": trainer.step, **self.final}
            self._save("best")
        self._save("last")
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        """End the run if the search stops it after this epoch (again, if it is resumed there)."""
        step, last = self.trainer.step, self.trainer.total_steps
        here = self.final and step < last and step % len(self.trainer.batches) == 0
        if here and not self.should_continue(round(self.trainer.epoch), self.final):
            raise PrunedRun

    def _measure_objectives(self) -> None:
        """Measure the objectives that validation does not, and keep them."""
        if found := measure_objectives(self.config, self.model, self.final, self.folder):
            self.final |= found
            self._log({**self.trainer.position, **found})
            self._save("last")

    @on_rank_zero
    def _draw(self, evaluation: Evaluation) -> None:
        """Draw the figures; a figure that cannot be written is only a warning."""
        training, folder = self.trainer.batches.images, self.folder / "figures"
        try:
            figures = draw_figures(self.model, self.validation, training, evaluation, folder)
        except OSError as error:
            log.warning("no figures of step %d: %s", self.trainer.step, error)
        else:
            self.tracker.report({"step": self.trainer.step}, {**figures.files, **figures.faces})

    @on_rank_zero
    def _save(self, name: str) -> None:
        """Write checkpoints/NAME.pt; keep the last one before it as previous.pt."""
        path = self.folder / "checkpoints" / f"{name}.pt"
        self.tracker.sync()  # the rows before it are to be there where it is
        path.parent.stat()  # removed meanwhile: an error, or half a run would look whole
        checkpoint = {
            **self.trainer.state(),
            "measured": self.measured,
            "seconds": self._elapsed(),
            "seed": self.config.seed,
            "precision": self.precision,
            "config": self.config.as_dict(),
            "best": self.best,
            "final": self.final,
            "run_id": self.tracker.run_id,
        }
        save_checkpoint(path, checkpoint, "previous.pt" if name == "last" else None)

    @on_rank_zero
    def _write_summary(self, status: str, error: str | None) -> None:
        """Write summary.json, and the summary on W&B: status, metrics, objective, time."""
        summary = {
            "status": status,
            "error": error,
            **self.trainer.position,
            "total_steps": self.trainer.total_steps,
            "seconds": self._elapsed(),
            "machine": devices.hardware_name(self.device, self.config.trainer.num_threads),
            **{key: self.record[key] for key in ("precision", "beta_elbo", "provenance")},
            "gpu_memory": devices.gpu_memory(self.device),
            "objective": objective_values(self.config.objective, self.final),
            "final": self.final,
            "best": self.best,
            "wandb_run_id": self.tracker.run_id,
        }
        try:
            (self.folder / "metrics.jsonl").stat()  # a folder that was removed is not made again
            write_summary(self.folder, summary)
        except OSError:
            if status in ("finished", "pruned"):  # of the others it has been said why
                raise
        self.tracker.summarise({key: summary[key] for key in ("status", "beta_elbo", "best")})
        self.tracker.report_failure(error)

    def _elapsed(self) -> float:
        """Return the seconds of training, including earlier sessions of the run."""
        return round(time.monotonic() - self.began, 1)
