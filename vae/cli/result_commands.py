"""`vae evaluate`, `export`, `compare`, `dashboard` and `report`: results of runs and sweeps."""

from __future__ import annotations

import argparse
from pathlib import Path

from vae.cli.options import JSON, Result, command, open_run, option, output_folder, run_command
from vae.utils.errors import UserError


@run_command(
    help="measure a run on the validation or test split",
    description="Measure a run on the validation or test split: metrics.json, with the number "
    "of images and the seed beside each metric, and figures. Settings are in "
    "`metrics` of conf/train.yaml; metrics.KEY=VALUE changes it.",
    example="vae evaluate outputs/DATE/TIME --split test",
    options=[
        option("--split", default="val", help="val (the default) or test"),
        option("--wandb", metavar="MODE", help="wandb.mode; default: the run's own"),
    ],
)
def evaluate(options: argparse.Namespace) -> Result:
    from vae.runs.load import METRICS_FILE, evaluate_and_record
    from vae.utils.tables import format_table

    if options.wandb:
        options.inputs.append(f"wandb.mode={options.wandb}")
    run, _ = open_run(options, takes_inputs=False)
    folder = output_folder(options)
    report, pictures = evaluate_and_record(run, options.split, options.seed, folder)
    file = folder / METRICS_FILE
    found = {
        "run": str(run.folder),
        "checkpoint": run.checkpoint,
        "step": run.step,
        "metrics": report.figures,
        "notes": report.notes,
        "files": [file, *pictures.values()],
    }
    rows = [
        [name, f"{figure['value']:.5g}", f"n = {figure['n']:,}"]
        for name, figure in report.figures.items()
    ]
    took = ", ".join(f"{name} {cost}" for name, cost in report.costs.items())
    return found, [*format_table(rows).splitlines(), "", *report.notes, f"took: {took}", "", file]


@run_command(
    help="write a run's model for use elsewhere",
    description="Write a run's encoder and decoder as files that are used without this "
    "project, into RUN/export: torch (encoder.pt2, decoder.pt2, for torch.export.load), onnx "
    "(encoder.onnx, decoder.onnx) or safetensors (model.safetensors, the weights). Each is "
    "compared with the model first. All but torch want the extra: "
    'pip install -e ".[export]".',
    example="vae export outputs/DATE/TIME --format onnx",
    options=[
        option(
            "--format",
            action="append",
            choices=("torch", "onnx", "safetensors"),
            help="torch (the default), onnx or safetensors; may be given several times",
        ),
    ],
)
def export(options: argparse.Namespace) -> Result:
    from vae.generation.export import export_model
    from vae.utils.tables import format_table

    run, _ = open_run(options, takes_inputs=False)
    folder = output_folder(options, "export")
    exports = [
        made
        for name in dict.fromkeys(options.format or ["torch"])
        for made in export_model(run, name, folder, options.seed, step=run.step, epoch=run.epoch)
    ]
    found = {
        "run": str(run.folder),
        "checkpoint": run.checkpoint,
        "step": run.step,
        "files": [made.file for made in exports],
        "bytes": [made.size for made in exports],
        "largest_differences": [made.difference for made in exports],
    }
    table = [["file", "size", "largest difference"]]
    table += [
        [str(made.file), f"{made.size / 1e6:,.2f} MB", f"{made.difference:.1e}"] for made in exports
    ]
    return found, format_table(table).splitlines()


@command(
    help="put the runs of a sweep side by side",
    description="Put the runs of a sweep side by side: comparison.csv, comparison.png, "
    "reconstructions.png, samples.png and report.md. A sweep does so itself when it ends; "
    "this does it at any time, also while it runs.",
    example="vae compare multirun/beta",
    options=[
        option("sweep", metavar="SWEEP", help="the sweep's folder, multirun/NAME"),
        option("--out", metavar="DIR", help="write there, not into the sweep's folder"),
        JSON,
    ],
)
def compare(options: argparse.Namespace) -> Result:
    from vae.sweeps.comparison import rows
    from vae.sweeps.report import REPORT_FILES, overview, write_report
    from vae.sweeps.wandb_sweep import link_runs

    comparison = write_report(options.sweep, options.out)
    link_runs(comparison.folder)
    out = Path(options.out or options.sweep)
    files = [out / name for name in REPORT_FILES if (out / name).exists()]
    found = {"sweep": comparison.name, "runs": rows(comparison), "files": files}
    return found, [*overview(comparison).splitlines(), "", out / "report.md"]


@command(
    help="make the workspace or the report of a sweep on W&B",
    description="Make the workspace of a sweep on W&B and print its address: parallel "
    "coordinates, rate against distortion, learning curves, faces. With --report make a report "
    "of these panels, with the best runs, the commands that repeat them, and a table of all "
    "runs. Needs a login.",
    example="vae dashboard multirun/betas",
    options=[
        option("sweep", metavar="SWEEP", help="the sweep's folder, multirun/NAME"),
        option("--entity", help="user or team on W&B, if not that of the runs"),
        option("--project", help="project on W&B, if not that of the runs"),
        option("--report", action="store_true", help="make a report, not a workspace"),
        option("--json", action="store_true", help="print it as JSON; save and send nothing"),
    ],
)
def dashboard(options: argparse.Namespace) -> Result:
    from vae.runs.wandb_run import unreachable
    from vae.runs.wandb_settings import (
        DEFAULT_PROJECT,
        error_text,
        resolve_mode,
        run_group,
        wandb_settings,
        without_credentials,
    )
    from vae.sweeps.comparison import read_sweep
    from vae.sweeps.wandb_views import build_report, build_workspace, view_json

    comparison = read_sweep(options.sweep)
    settings = [run.config["wandb"] for run in comparison.runs if "wandb" in run.config]
    found = settings[0] if settings and isinstance(settings[0], dict) else {}
    reported = {key: value for key, value in found.items() if isinstance(value, str)}
    known = wandb_settings()
    entity = options.entity or reported.get("entity") or known.entity or ""
    project = options.project or reported.get("project") or known.project or DEFAULT_PROJECT
    group = run_group(reported.get("group"), comparison.name)
    if not found and not options.project:
        raise UserError(f"{options.sweep}: no run says its W&B project. Give --project NAME.")
    kind, build = ("report", build_report) if options.report else ("workspace", build_workspace)
    view = build(comparison, entity, project, group)
    if options.json:
        return view_json(view), []
    if resolve_mode("auto") != "online":
        raise UserError(
            "vae dashboard: there is no login on W&B, or W&B is switched off. Run `wandb login`; "
            f"with --json the {kind} is printed instead."
        )
    import wandb

    url = without_credentials(known.base_url)
    trouble = unreachable(url)  # wandb itself would try for long
    if trouble is None:
        try:
            view.entity = view.entity or wandb.Api().default_entity
            return None, [view.save().url]
        except Exception as error:
            trouble = error_text(error)
    raise UserError(
        f"vae dashboard: W&B at {url} refused the {kind}: {trouble}. "
        "With --json it is printed instead."
    )


@command(
    help="make the tables and pictures of a page in docs/experiments",
    description="Make the tables and pictures of a page in docs/experiments. With the folder "
    "of its sweep, from the runs in it: metrics that training does not measure are measured "
    "now, and all of it is kept in results/PAGE.csv. Without, from that file: no run is "
    "needed to make the tables again.",
    example="vae report docs/experiments/exp_03_beta.md multirun/exp_03_beta",
    options=[
        option("page", metavar="PAGE", type=Path, help="a page: docs/experiments/NAME.md"),
        option("sweep", metavar="SWEEP", nargs="?", help="its runs: multirun/NAME"),
        JSON,
    ],
)
def report(options: argparse.Namespace) -> Result:
    from vae.sweeps.pages import make_page

    if not options.page.is_file():
        raise UserError(f"{options.page}: there is no such page.")
    files = make_page(options.page, options.sweep)
    return {"page": options.page, "files": files}, files
