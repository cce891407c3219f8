"""`vae report`: the tables and pictures of an experiment's page, from its runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from vae.commands.common import Commands, show


def add_report(commands: Commands) -> None:
    """Add the command `report` to those of `vae`."""
    parser = commands.add_parser(
        "report",
        help="make the tables and pictures of a page in docs/experiments",
        description="Make the tables and pictures of a page in docs/experiments. With the folder "
        "of its sweep, from the runs in it: what they have not measured themselves is measured "
        "now, and all of it is kept in results/PAGE.csv. Without, from that file: no run is "
        "needed to make the tables again.",
        epilog="example: vae report docs/experiments/exp_03_beta.md multirun/exp_03_beta",
    )
    parser.add_argument("page", metavar="PAGE", type=Path, help="a page: docs/experiments/NAME.md")
    parser.add_argument("sweep", metavar="SWEEP", nargs="?", help="its runs: multirun/NAME")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from vae.errors import UserError
    from vae.experiments.report import make_page

    if not options.page.is_file():
        raise UserError(f"{options.page}: there is no such page.")
    files = make_page(options.page, options.sweep)
    found = {"page": str(options.page), "files": [str(file) for file in files]}
    show(options, found, "\n".join(map(str, files)))
