"""One run, from a configuration to a finished folder."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vae.checkpoint import save_checkpoint
from vae.config import RunConfig
from vae.data import Packed, open_data
from vae.data.loader import to_float
from vae.devices import cpu_threads, pick_device
from vae.distributed import ALONE, World
from vae.errors import UserError
from vae.files import keep_as, naming, remove_unfinished
from vae.folders import claim_run_folder, require_writable
from vae.gallery import draw_figures
from vae.interrupts import InterruptedRun, Interrupts
from vae.metrics import EVALUATION_BATCH, Evaluation
from vae.parts import build_trainer, measure
from vae.resources import last_good, shortages_told
from vae.resuming import is_unmeasured, saved_state
from vae.skipping import NotFiniteError
from vae.sound import BEST_BY
from vae.state import checkpoint_of, place_of, record_of, summary_of
from vae.summary import write_summary
from vae.tracking import Tracker, check, truncate_metrics

log = logging.getLogger(__name__)

FACES_SHOWN = 16  # validation faces in the figures

KeepGoing = Callable[[int, Mapping[str, float]], bool]  # of (epochs done, validation metrics)


class PrunedRun(Exception):  # noqa: N818 - nothing is wrong with it
    """A run of a sweep was not worth going on with."""


def prepare(
    config: RunConfig,
    settings: Mapping[str, Any],
    folder: Path,
    *,
    go_on: bool = False,
    world: World = ALONE,
    keep_going: KeepGoing = lambda epochs, metrics: True,
) -> Run:
    """Make all that a run needs, in a folder of its own: `.train()` then trains.

    Args:
        config: checked.
        settings: the same configuration as a plain nested dict, for the records.
        folder: the run folder; empty but for Hydra's files, unless it is to go on.
        go_on: go on with the run that `folder` holds, if it does; so does `config.resume`.
        world: of several processes this is the first; the others are told to take part.
        keep_going: asked after each epoch; the run ends early where it says no.

    Returns:
        The run, ready to train.

    Raises:
        UserError: something that the user can mend; nothing but the packed cache
            and an empty folder of checkpoints has been created then.
    """
    check(config.wandb)
    device = world.device(pick_device(config.trainer.device))
    world.check(config.data.batch_size)
    if config.resume is not None and Path(config.resume).resolve() != folder.resolve():
        raise UserError(f"resume: {config.resume} is to go on in its own folder, not in {folder}.")
    with shortages_told(config, folder):
        if config.resume is None and not go_on:
            claim_run_folder(folder)
        state = saved_state(config, settings, folder)
        require_writable(folder / "checkpoints")
    data = open_data(config.data)
    world.broadcast((config, settings, folder))  # vae.follower: they go the same way from here
    with shortages_told(config, folder):
        return Run(config, settings, folder, data, device, state, world, keep_going)


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
        world: World,
        keep_going: KeepGoing,
    ) -> None:
        self.config = config
        self.settings = settings
        self.folder = folder
        self.device = device
        self.keep_going = keep_going
        self.validation = data.images["val"]
        self.best: dict[str, float] = {}
        self.final: dict[str, float] = {}
        self.seconds = 0.0  # of training before this process
        self.began = time.monotonic()
        self.run_id: str | None = None
        self.interrupts = Interrupts()
        self.measured = not is_unmeasured(state)
        self.reporting = config.wandb
        if state is not None:
            self.best, self.final, self.run_id = state["best"], state["final"], state["run_id"]
            before = state["config"]["wandb"]  # the same run there, in the same group
            self.reporting = replace(config.wandb, name=before["name"], group=before["group"])
            self.seconds = state["seconds"]
            if "file" in state:  # or what is damaged would be kept as the previous one
                keep_as(state["file"], "last.pt")
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
        self._tell_of_another_precision(state or {})
        # later rows will be written again
        truncate_metrics(folder / "metrics.jsonl", self.trainer.step, self.measured)
        remove_unfinished(folder)

    def _tell_of_another_precision(self, state: Mapping[str, Any]) -> None:
        """trainer.precision=auto is bf16 on one machine and fp32 on another."""
        now = self.record["precision"]
        before = state.get("precision")  # which older versions did not note
        if before not in (None, now):
            log.warning("resume: the run was computed in %s before, and is in %s now", before, now)

    def train(self) -> dict[str, float]:
        """To the end; whatever happens, the folder and W&B say how it ended.

        Returns:
            The validation metrics at the end of the run, by key; also of a pruned run.

        Raises:
            NotFiniteError: a loss, a gradient or a metric was infinite or NaN.
            InterruptedRun: Ctrl-C, SIGTERM or SIGUSR1; the state is saved.
        """
        record = self.record
        log.info(
            "%s: %d parameters, %.0fM multiply-adds an image, beta_elbo %.4g, %d steps in %s on %s",
            *(self.folder, record["parameters"], record["multiply_adds"] / 1e6),
            *(record["beta_elbo"], self.trainer.total_steps, record["precision"], place_of(self)),
        )
        status, reason = "failed", None
        with (
            self._shortages_told(),
            Tracker(self.folder, self.reporting, record, run_id=self.run_id) as self.tracker,
            self.interrupts,  # until all is saved
        ):
            self.run_id = self.tracker.run_id
            try:
                with self._shortages_told():
                    self._fit()
                status = "finished"
            except PrunedRun:
                status = "pruned"
                log.info("pruned at step %d: others were better by then", self.trainer.step)
            except InterruptedRun:
                status = "interrupted"
                log.warning("interrupted: go on by  python train.py resume=%s", self.folder)
                raise
            except NotFiniteError as error:
                reason = f"{error} {last_good(self.folder)}"
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
        """Train to the end, or to an interrupt, whose state is saved."""
        try:
            with cpu_threads(self.config.trainer.num_threads):
                if not self.measured:
                    self._end_epoch()
                self.trainer.fit(self.interrupts)
        except InterruptedRun:
            self._save("last")
            raise

    def _shortages_told(self, batch: int | None = None) -> AbstractContextManager[None]:
        return shortages_told(self.config, self.folder, self.trainer, batch)

    def _log(self, row: Mapping[str, float]) -> None:
        with naming(self.folder / "metrics.jsonl"):
            self.tracker.log(row)

    def _end_epoch(self) -> None:
        """Measure, draw, save."""
        trainer = self.trainer
        self.measured = False
        with self._shortages_told(EVALUATION_BATCH):
            self.final, evaluation = measure(trainer, self.validation, self.interrupts)
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
        if not self.best or self.final[BEST_BY] < self.best[BEST_BY]:
            self.best = {"step": trainer.step, **self.final}
            self._save("best")
        self._save("last")
        if not done and not self.keep_going(math.ceil(trainer.epoch), self.final):
            raise PrunedRun

    def _draw(self, evaluation: Evaluation) -> None:
        """The figures, unless they cannot be written: a run does not end for a picture."""
        faces = to_float(self.validation[:FACES_SHOWN].copy(), self.device)
        try:
            paths = draw_figures(self.model, faces, evaluation, self.folder / "figures")
        except OSError as error:
            log.warning("no figures of step %d: %s", self.trainer.step, error)
        else:
            self.tracker.log_pictures(self.trainer.step, paths)

    def _save(self, name: str) -> None:
        """checkpoints/NAME.pt: all that resuming needs, and nothing that runs.

        The last one before it is kept as previous.pt.
        """
        path = self.folder / "checkpoints" / f"{name}.pt"
        with naming(self.folder / "metrics.jsonl"):
            self.tracker.sync()  # the rows before it are to be there where it is
        save_checkpoint(path, checkpoint_of(self), "previous.pt" if name == "last" else None)

    def _write_summary(self, status: str, reason: str | None) -> None:
        try:
            write_summary(self.folder, summary_of(self, status, reason))
        except OSError:
            if status in ("finished", "pruned"):  # of the others it has been said why
                raise

    def elapsed(self) -> float:
        """Seconds of training, in all processes of the run."""
        return round(self.seconds + time.monotonic() - self.began, 1)
