"""`vae compare`: the runs of a sweep side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from vae.commands.common import Commands, show


def add_compare(commands: Commands) -> None:
    """Add the command `compare` to those of `vae`."""
    parser = commands.add_parser(
        "compare",
        help="put the runs of a sweep side by side",
        description="Put the runs of a sweep side by side: comparison.csv, comparison.png, "
        "reconstructions.png, samples.png and report.md. A sweep does so itself when it ends; "
        "this does it at any time, also while it runs.",
        epilog="example: vae compare multirun/beta",
    )
    parser.add_argument("sweep", metavar="SWEEP", help="the sweep's folder, multirun/NAME")
    parser.add_argument("--out", metavar="DIR", help="write there, not into the sweep's folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> None:
    from vae.sweeps.comparison import rows
    from vae.sweeps.report import FILES, overview, write_report
    from vae.sweeps.wandb_links import link_runs

    comparison = write_report(options.sweep, options.out)
    link_runs(comparison.folder)
    out = Path(options.out or options.sweep)
    files = [str(out / name) for name in FILES if (out / name).exists()]
    found = {"sweep": comparison.name, "runs": rows(comparison), "files": files}
    show(options, found, f"{overview(comparison)}\n\n{out / 'report.md'}")
