"""Options that commands on a run share: run folder, seed, output folder."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from vae.runs.load import SavedRun

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
OVERRIDE = re.compile(r"[a-z_]+\.[a-z_]+=")


def add_run_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], None],
    *,
    help: str,
    description: str,
    example: str,
    inputs: str = "",
) -> argparse.ArgumentParser:
    """Add a command that reads a run's folder.

    Args:
        run: called with the options; has them by `open_run`, `output_folder`.
        inputs: what may follow the folder, for the help: "IMAGE", "A B" ...; none if empty.
    """
    parser = commands.add_parser(
        name, help=help, description=description, epilog=f"example: {example}"
    )
    parser.add_argument("run_folder", metavar="RUN", help="the run's folder: outputs/DATE/TIME")
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar=f"{inputs} KEY=VALUE".strip(),
        help=f"{'images: files, or numbers of faces of the split; ' if inputs else ''}"
        "data.path=FOLDER where the images have moved",
    )
    parser.add_argument(
        "--checkpoint",
        choices=("last", "best", "ema"),
        default="last",
        help="default: last; ema: the average of the weights (trainer.ema)",
    )
    parser.add_argument("--device", default="auto", help="auto (the default), cpu, cuda or mps")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn; default: 0")
    parser.add_argument("--out", metavar="DIR", help="write there, not into the run's folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.set_defaults(run=run, takes_inputs=bool(inputs))
    return parser


def add_face_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that take faces."""
    parser.add_argument(
        "--split",
        choices=("train", "val", "test"),
        default="val",
        help="whose faces the numbers are; default: val",
    )
    parser.add_argument(
        "--crop",
        default="auto",
        help="of photographs: auto (as the training images were, for pictures of CelebA's "
        "proportions; else the largest centre square), none (the largest centre square), PIXELS "
        "(a centre square) or LEFT,TOP,SIDE. A model of CelebA (crop 148) or of drawn faces wants "
        "the eyes at 36 and 63 %% of the width and 51 %% of the height: a side of 3.8 times their "
        "distance",
    )


def open_run(options: argparse.Namespace) -> tuple[SavedRun, list[str]]:
    """Return the run that the options name, on its device, and the inputs but for KEY=VALUE."""
    from vae.runs.load import load_run
    from vae.utils.devices import pick_device
    from vae.utils.errors import require

    overrides = [word for word in options.inputs if OVERRIDE.match(word)]
    others = [word for word in options.inputs if word not in overrides]
    require(options.takes_inputs or not others, "KEY=VALUE", others, "settings only")
    require(0 <= options.seed < 2**32, "--seed", options.seed, "an int from 0 to 2**32 - 1")
    device = pick_device(options.device)
    run = load_run(options.run_folder, options.checkpoint, overrides)
    run.model.to(device)
    return run, others


def output_folder(options: argparse.Namespace, below: str = "") -> Path:
    """Return the folder for results; check that it is writable before anything is computed.

    Args:
        below: in the run's folder, where no other is given.

    Raises:
        UserError, OSError: why they cannot go there.
    """
    from vae.runs.run_dir import require_writable
    from vae.utils.errors import require

    folder = Path(options.out or Path(options.run_folder, below))
    require(not folder.is_file(), "--out", str(folder), "a folder, and that is a file")
    require_writable(folder)
    return folder


def print_result(options: argparse.Namespace, found: dict[str, Any], text: str) -> None:
    """Print a command's result: one JSON object, or text for a person."""
    print(json.dumps(found) if options.json else text)
