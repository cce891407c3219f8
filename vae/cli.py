"""The `vae` command: what is done with data and runs outside of training.

Each command imports what it needs when it runs, so that `vae --help` is immediate.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from vae.errors import UserError
from vae.sweeps.dashboard import add_dashboard


def main(arguments: list[str] | None = None) -> int:
    """Run a command; a user's mistake is one line on stderr and exit code 1."""
    parser = argparse.ArgumentParser(prog="vae", description="Data and runs of MiniFaceApp.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_pack(commands)
    _add_compare(commands)
    add_dashboard(commands)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _add_pack(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "pack",
        help="decode or draw a data set into its cache, ahead of training",
        description="Decode or draw a data set into its cache, ahead of training. Training does "
        "the same when it finds no cache.",
        epilog="example: vae pack folder data.path=photos data.image_size=128",
    )
    parser.add_argument("data", metavar="DATA", help="synthetic, folder or celeba (conf/data/)")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="as for train.py: data.path=FOLDER ..."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.set_defaults(run=_pack)


def _pack(options: argparse.Namespace) -> None:
    from vae.config import compose
    from vae.data import open_or_pack, open_source

    config = compose([f"data={options.data}", *options.overrides])
    packed = open_or_pack(open_source(config.data), config.data)
    counts = {split: len(images) for split, images in packed.images.items()}
    if options.json:
        print(json.dumps({"cache": str(packed.folder), "images": counts}))
        return
    print(f"cache  {packed.folder}")
    for split, count in counts.items():
        print(f"{split:5}  {count:>7} images")


def _add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
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
    if options.json:
        found = {"sweep": comparison.name, "runs": rows(comparison), "files": files}
        print(json.dumps(found))
        return
    print(overview(comparison))
    print(f"\n{out / 'report.md'}")


if __name__ == "__main__":
    sys.exit(main())
