"""`vae evaluate`: what a run is worth, on images that it was not trained on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vae.commands.common import Commands, add_run_command, open_run, out_folder, show

if TYPE_CHECKING:
    from vae.evaluation.evaluate import Report


def add_evaluate(commands: Commands) -> None:
    """Add the command `evaluate` to those of `vae`."""
    parser = add_run_command(
        commands,
        "evaluate",
        _evaluate,
        help="measure a run on the validation or test split",
        description="Measure a run on the validation or test split: metrics.json, with the number "
        "of images and the seed beside each figure, and figures. What it takes is in "
        "`metrics` of conf/train.yaml; metrics.KEY=VALUE changes it.",
        example="vae evaluate outputs/DATE/TIME --split test",
    )
    parser.add_argument("--split", default="val", help="val (the default) or test")
    parser.add_argument("--wandb", metavar="MODE", help="wandb.mode; default: the run's own")


def _evaluate(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from vae.evaluation.record import FILE, evaluate_and_record

    run, _ = open_run(options)
    if options.wandb:
        reporting = replace(run.config.wandb, mode=options.wandb)
        run = replace(run, config=replace(run.config, wandb=reporting))
    folder = out_folder(options)
    report, pictures = evaluate_and_record(run, options.split, options.seed, folder)
    file = folder / FILE
    found = {
        "run": str(run.folder),
        "checkpoint": run.checkpoint,
        "step": run.step,
        "metrics": report.figures,
        "notes": report.notes,
        "files": [str(file), *map(str, pictures.values())],
    }
    show(options, found, _table(report) + f"\n\n{file}")


def _table(report: Report) -> str:
    """The figures, one a line; what is missing; how long each part took."""
    width = max(map(len, report.figures))
    lines = [
        f"{name:{width}}  {figure['value']:>12.5g}   n = {figure['n']:,}"
        for name, figure in report.figures.items()
    ]
    took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.seconds.items())
    return "\n".join([*lines, "", *report.notes, f"took: {took}"])
