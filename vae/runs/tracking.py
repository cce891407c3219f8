"""Tracking of one run: `metrics.jsonl` on disk, and a run on Weights & Biases.

The local file is the record; W&B is the shop window, and stops no training run
(vae/runs/wandb_run.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vae.data import Packed
from vae.runs.artifacts import log_model, use_data, use_origin
from vae.runs.wandb_run import WandbRun
from vae.runs.wandb_settings import resolve_mode
from vae.utils.files import annotate_os_error, read_rows, write_atomically
from vae.utils.registry import run_metrics

if TYPE_CHECKING:
    import wandb


def summary_key(metric: str) -> str:
    """Return the key of a metric's last value in W&B's summary (the columns of its table).

    A metric whose best value is kept has two columns, `val/bpd.min` or `val/psnr.max` (the best)
    and `val/bpd.last` (as it ended); W&B writes no plain `val/bpd` then. Any other value has one
    plain column, its last.

    >>> summary_key("val/bpd"), summary_key("val/rate")
    ('val/bpd.last', 'val/rate')
    """
    found = run_metrics().get(metric)
    return f"{metric}.last" if found and found.best_on_wandb else metric


def truncate_metrics(path: Path, step: int, measured: bool = True) -> None:
    """Drop the rows of `metrics.jsonl` that come after `step`: a resumed run logs them again.

    So does the row of the validation at `step`, unless it is `measured`. A line that a killed
    run left torn goes too. The file is replaced whole or not at all; a missing file is left
    missing.
    """
    if not path.exists():
        return

    def write(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8") as file:
            for line, row in read_rows(path):
                at = row.get("step")
                again = at == step and not measured and "val/loss" in row
                if isinstance(at, int) and at <= step and not again:
                    file.write(line)

    write_atomically(path, write)


class Tracker(WandbRun):
    """The record of one run, as a context manager; a process may use several in sequence.

    `folder` is the run's folder: `metrics.jsonl` in it is appended to. `data`, the images that
    the run is trained on, are an input of the W&B run where `wandb.log_model` asks for lineage.
    The rest is as in WandbRun.
    """

    def __init__(self, *args: Any, data: Packed | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.data = data

    def __enter__(self) -> Tracker:
        resolve_mode(self.settings.mode)  # before anything is created
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "metrics.jsonl"
        with annotate_os_error(path), open(path, "a", encoding="utf-8"):
            super().__enter__()  # there is a run from now on, even without a row
        self.send("definition of the metrics failed", _define_metrics)
        self.send("logging of the origin failed", lambda run: use_origin(run, self.folder))
        data = self.data
        if data and self.settings.log_model:
            self.send("logging of the data failed", lambda run: use_data(run, data))
        return self

    @contextmanager
    def _open(self) -> Iterator[IO[str]]:
        """Open metrics.jsonl to append. Do not create it again: it, or its folder, was removed."""
        path = self.folder / "metrics.jsonl"
        with (
            annotate_os_error(path),
            open(path, "a", encoding="utf-8", opener=_open_existing) as file,
        ):
            yield file

    def log(self, row: Mapping[str, float]) -> None:
        """Record one row of finite numbers: `step`, `epoch`, `images`, metrics."""
        with self._open() as file:
            file.write(json.dumps(dict(row)) + "\n")
        self.report(row)

    def sync(self) -> None:
        """Flush the rows so far to the disk."""
        with self._open() as file:
            os.fsync(file.fileno())

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Put values into the run's summary on W&B, the columns of its table.

        Under the key of a metric, a value would replace what W&B keeps of it.
        """
        self.send("logging of the summary failed", lambda run: run.summary.update(dict(values)))

    def report_failure(self, reason: str | None) -> None:
        """Send an alert that the run failed, where there is a reason and `wandb.alert` asks."""
        if reason:
            name = self.settings.name or self.folder.name
            self.alert(f"Run failed: {name}", f"{name}: {reason}", "ERROR")

    def log_model(self, best: Mapping[str, float], step: int) -> None:
        """Upload the run's model as an artifact, where `wandb.log_model` asks for it.

        Args:
            best: step and metrics of best.pt.
            step: of last.pt.
        """
        if self.settings.log_model:
            self.send(
                "upload of the model failed",
                lambda run: log_model(run, self.folder, self.config, best, step, self.data),
            )


def _open_existing(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_CREAT)


def _define_metrics(run: wandb.Run) -> None:
    """Define `step` as x axis, and the best values for the summary."""
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    for key, metric in run_metrics().items():
        if metric.best_on_wandb:
            best = "max" if metric.higher_is_better else "min"
            run.define_metric(key, step_metric="step", summary=f"{best},last")
