"""Commands of `vae` as decorated functions, and the options that they share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from vae.runs.load import SavedRun

Result: TypeAlias = tuple[Any, Sequence[object]]  # for --json, and single lines for a person
Run: TypeAlias = Callable[[argparse.Namespace], Result]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
AddCommand: TypeAlias = Callable[[Commands], None]
Range: TypeAlias = tuple[float, float]  # the least and the largest value
Option: TypeAlias = tuple[tuple[str, ...], dict[str, Any], "Range | None"]

RUN_HELP = "the run's folder: outputs/DATE/TIME, or wandb:ENTITY/PROJECT/NAME:ALIAS"
OVERRIDE = re.compile(r"[a-z_]+\.[a-z_]+=")


def option(*names: str, within: Range | None = None, **settings: Any) -> Option:
    """Return an option: arguments of `argparse.ArgumentParser.add_argument`, a number's range."""
    return names, settings, within


JSON = option("--json", action="store_true", help="print one JSON object on stdout")
DEVICE = option("--device", default="auto", help="auto (the default), cpu, cuda or mps")
SEED = option(
    "--seed", type=int, default=0, within=(0, 2**32 - 1), help="of all that is drawn; default: 0"
)
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
        help="of photographs: auto (the default: the face is found, by OpenCV of the extra `app`, "
        "and framed as the training images are; else the largest centre square), none (the "
        "largest centre square), PIXELS (a centre square) or LEFT,TOP,SIDE. A model of CelebA "
        "(crop 148) or of drawn faces wants the eyes at 36 and 63 %% of the width and 51 %% of the "
        "height: a side of 3.8 times their distance",
    ),
)
REFINE = option(
    "--refine",
    type=int,
    default=0,
    within=(0, 100_000),
    metavar="STEPS",
    help="steps that optimise the latents of each face for its reconstruction, starting at the "
    "encoder's; 500 are enough; default: 0, none",
)


def command(
    *, help: str, description: str, example: str, options: Sequence[Option]
) -> Callable[[Run], AddCommand]:
    """Decorate a function of the parsed options: the result adds a command of its name to `vae`."""

    def decorate(run: Run) -> AddCommand:
        def add_to(commands: Commands) -> None:
            parser = commands.add_parser(
                run.__name__, help=help, description=description, epilog=f"example: {example}"
            )
            for names, settings, _ in options:
                parser.add_argument(*names, **settings)
            ranges = {names[0]: within for names, _, within in options if within}
            parser.set_defaults(run=run, ranges=ranges)

        return add_to

    return decorate


def run_command(
    *, options: Sequence[Option], inputs: str = "", **texts: str
) -> Callable[[Run], AddCommand]:
    """Return `command` for a function that calls `open_run`, with the options of that.

    Args:
        inputs: what may follow the folder, for the help: "IMAGE", "A B" ...; none if empty.
    """
    what = "images: files, or numbers of faces of the split; " if inputs else ""
    run_folder = option("run_folder", metavar="RUN", help=RUN_HELP)
    words = option(
        "inputs",
        nargs="*",
        metavar=f"{inputs} KEY=VALUE".strip(),
        help=f"{what}data.path=FOLDER where the images have moved",
    )
    return command(options=(run_folder, words, *RUN_OPTIONS, *options), **texts)


def open_run(options: argparse.Namespace, takes_inputs: bool = True) -> tuple[SavedRun, list[str]]:
    """Return the run that the options name, on its device, and the inputs but for KEY=VALUE."""
    from vae.runs.load import load_run
    from vae.utils.devices import pick_device
    from vae.utils.errors import require

    overrides = [word for word in options.inputs if OVERRIDE.match(word)]
    others = [word for word in options.inputs if word not in overrides]
    takes = "data.path, data.root, metrics.* or wandb.*"
    require(takes_inputs or not others, "KEY=VALUE", others, takes)
    device = pick_device(options.device)
    run = load_run(options.run_folder, options.checkpoint, overrides)
    run.model.to(device)
    options.run_folder = str(run.folder)  # of a run from W&B, known only now
    return run, others


def check_numbers(options: argparse.Namespace) -> None:
    """Raise a UserError if a number among the options is out of its range."""
    from vae.utils.errors import require_range

    for name, (least, most) in options.ranges.items():
        got = getattr(options, name.removeprefix("--").replace("-", "_"))
        if got is not None:
            require_range(name, got, least, most, integer=isinstance(got, int))


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
