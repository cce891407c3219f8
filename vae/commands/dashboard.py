"""`vae dashboard`: the workspace of a sweep on W&B, made in code instead of by hand.

Nothing heavy is imported before it is needed, as `vae --help` passes here.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from vae.commands.common import Commands
from vae.errors import UserError


def add_dashboard(commands: Commands) -> None:
    """Add the command `dashboard` to those of `vae`."""
    parser = commands.add_parser(
        "dashboard",
        help="make the workspace of a sweep on W&B",
        description="Make the workspace of a sweep on W&B and print its address: parallel "
        "coordinates, rate against distortion, learning curves, faces. Needs a login.",
        epilog="example: vae dashboard multirun/betas",
    )
    parser.add_argument("sweep", metavar="SWEEP", help="the sweep's folder, multirun/NAME")
    parser.add_argument("--entity", help="user or team on W&B, if not that of the runs")
    parser.add_argument("--project", help="project on W&B, if not that of the runs")
    parser.add_argument(
        "--json", action="store_true", help="print the workspace as JSON; save and send nothing"
    )
    parser.set_defaults(run=_dashboard)


def _dashboard(options: argparse.Namespace) -> None:
    from vae.sweeps.comparison import read_sweep
    from vae.sweeps.workspace import build_workspace

    comparison = read_sweep(options.sweep)
    found = [run.config["wandb"] for run in comparison.runs if "wandb" in run.config]
    reported = found[0] if found else {}
    entity = options.entity or reported.get("entity") or ""
    project = options.project or reported.get("project")
    group = reported.get("group") or comparison.name
    if not project:
        raise UserError(f"{options.sweep}: no run says its W&B project. Give --project NAME.")
    workspace = build_workspace(comparison, entity, project, group)
    if options.json:
        print(json.dumps(workspace._spec))  # the package has no public way to it
    else:
        print(save_workspace(workspace))


def save_workspace(workspace: Any) -> str:
    """Save a workspace on W&B as a new view of its project, and return its address.

    Where it names no entity, it is that of the account.

    Raises:
        UserError: there is no login, or the server does not take it.
    """
    from vae.wandb_mode import error_text, resolve_mode, unreachable

    if resolve_mode("auto") != "online":
        raise UserError(
            "vae dashboard: there is no login on W&B, or W&B is switched off. Run `wandb login`; "
            "with --json the workspace is printed instead."
        )
    import wandb

    url = wandb.setup().settings.base_url
    trouble = unreachable(url)  # wandb itself would try for long
    if trouble is None:
        try:
            workspace.entity = workspace.entity or wandb.Api().default_entity
            return str(workspace.save().url)
        except Exception as error:
            trouble = error_text(error)
    raise UserError(
        f"vae dashboard: W&B at {url} did not take the workspace: {trouble}. "
        "With --json it is printed instead."
    )
