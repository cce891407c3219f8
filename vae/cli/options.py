"""Commands of `vae` as decorated functions, and the options that they share.

Nothing heavy is imported before a command runs, since `vae --help` imports all of them.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from vae.runs.load import SavedRun

Run: TypeAlias = Callable[[argparse.Namespace], None]
Option: TypeAlias = tuple[tuple[str, ...], dict[str, Any]]  # arguments of `add_argument`

OVERRIDE = re.compile(r"[a-z_]+\.[a-z_]+=")


@dataclass(frozen=True)
class Command:
    """A command of `vae`: what argparse is told of it, and the function that it calls."""

    name: str
    run: Run
    texts: dict[str, Any]  # help, description, epilog
    options: Sequence[Option]

    def add_to(self, commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        """Add the command to the subparsers of `vae`."""
        parser = commands.add_parser(self.name, **self.texts)
        for names, settings in self.options:
            parser.add_argument(*names, **settings)
        parser.set_defaults(run=self.run)


def option(*names: str, **settings: Any) -> Option:
    """Return an option: the arguments of `argparse.ArgumentParser.add_argument`."""
    return names, settings


JSON = option("--json", action="store_true", help="print one JSON object on stdout")
DEVICE = option("--device", default="auto", help="auto (the default), cpu, cuda or mps")
SEED = option("--seed", type=int, default=0, help="of all that is drawn; default: 0")
RUN_OPTIONS = (
    option(
        "--checkpoint",
        choices=("last", "best", "ema"),
        default="last",
        help="default: last; ema: the average of the weights (trainer.ema)",
    ),
    *(DEVICE, SEED),
    option("--out", metavar="DIR", help="write there, not into the run's folder"),
    JSON,
)
FACE_OPTIONS = (
    option(
        "--split",
        choices=("train", "val", "test"),
        default="val",
        help="whose faces the numbers are; default: val",
    ),
    option(
        "--crop",
        default="auto",
        help="of photographs: auto (as the training images were, for pictures of CelebA's "
        "proportions; else the largest centre square), none (the largest centre square), PIXELS "
        "(a centre square) or LEFT,TOP,SIDE. A model of CelebA (crop 148) or of drawn faces wants "
        "the eyes at 36 and 63 %% of the width and 51 %% of the height: a side of 3.8 times their "
        "distance",
    ),
)


def command(
    name: str, *, help: str, description: str, example: str, options: Sequence[Option] = ()
) -> Callable[[Run], Command]:
    """Decorate a function of the parsed options so that it is a command of `vae`."""
    texts = {"help": help, "description": description, "epilog": f"example: {example}"}
    return lambda run: Command(name, run, texts, options)


def run_command(
    name: str,
    *,
    help: str,
    description: str,
    example: str,
    inputs: str = "",
    options: Sequence[Option] = (),
) -> Callable[[Run], Command]:
    """Decorate a function so that it is a command on a run's folder; it calls `open_run`.

    Args:
        inputs: what may follow the folder, for the help: "IMAGE", "A B" ...; none if empty.
    """
    what = "images: files, or numbers of faces of the split; " if inputs else ""
    run_folder = option("run_folder", metavar="RUN", help="the run's folder: outputs/DATE/TIME")
    words = option(
        "inputs",
        nargs="*",
        metavar=f"{inputs} KEY=VALUE".strip(),
        help=f"{what}data.path=FOLDER where the images have moved",
    )
    options = (run_folder, words, *RUN_OPTIONS, *options)
    return command(name, help=help, description=description, example=example, options=options)


def open_run(options: argparse.Namespace, takes_inputs: bool = True) -> tuple[SavedRun, list[str]]:
    """Return the run that the options name, on its device, and the inputs but for KEY=VALUE."""
    from vae.runs.load import load_run
    from vae.utils.devices import pick_device
    from vae.utils.errors import require

    overrides = [word for word in options.inputs if OVERRIDE.match(word)]
    others = [word for word in options.inputs if word not in overrides]
    require(takes_inputs or not others, "KEY=VALUE", others, "settings only")
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
