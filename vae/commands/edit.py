"""`vae edit`: faces with an attribute that they did not have."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vae.commands.common import (
    Commands,
    add_framing,
    add_run_command,
    open_run,
    out_folder,
    show,
)

if TYPE_CHECKING:
    from vae.saved import SavedRun

NOT_TOLD = "no held-out face has it, or all have"


def add_edit(commands: Commands) -> None:
    """Add the command `edit` to those of `vae`."""
    parser = add_run_command(
        commands,
        "edit",
        _edit,
        help="change an attribute of faces: Smiling, Eyeglasses, ...",
        description="Give faces an attribute, or take it away: photographs, or faces of the split. "
        "The directions are found once, on the training faces, and kept in the run's folder.",
        example="vae edit outputs/DATE/TIME face.jpg --attribute Smiling --strength 2",
        words="[IMAGE ...]",
    )
    parser.add_argument(
        "--attribute",
        default="",
        metavar="NAME[,NAME...]",
        help="one, shown at several strengths, or several",
    )
    parser.add_argument(
        "--strength",
        type=float,
        default=2.0,
        help="1 is from the average face without it to the average face with it; less than 0 "
        "takes it away; default: 2",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="the attributes, and how well each direction tells them on held-out faces",
    )
    parser.add_argument(
        "--method",
        default="normal",
        help="normal (the default): from faces without it to those with it that are alike in the "
        "other attributes, by a regularised linear regression on all of them; means: the "
        "difference of the two classes' means, with all that goes along",
    )
    parser.add_argument(
        "--keep-detail",
        action="store_true",
        help="keep of a photograph what the model cannot reconstruct",
    )
    add_framing(parser)


def _edit(options: argparse.Namespace) -> None:
    from vae.editing.edit import edit
    from vae.errors import require

    run, words = open_run(options)
    if options.list:
        _list(options, run)
        return
    require(math.isfinite(options.strength), "--strength", options.strength, "a number")
    attributes = [name.strip() for name in options.attribute.split(",") if name.strip()]
    edited = edit(
        run,
        words,
        attributes,
        options.strength,
        method=options.method,
        keep_detail=options.keep_detail,
        split=options.split,
        crop=options.crop,
        folder=out_folder(options),
    )
    files = [str(file) for file in (edited.sheet, *edited.files)]
    found = {"files": files, "attributes": attributes, "strength": options.strength}
    show(options, found, "\n".join(files))


def _list(options: argparse.Namespace, run: SavedRun) -> None:
    """The attributes by the balanced accuracy of the usual direction, the best first."""
    from vae.editing.directions import METHODS
    from vae.editing.learned import learn_directions

    accuracy = learn_directions(run).accuracy
    known = {name: row for name, row in accuracy.items() if not any(map(math.isnan, row.values()))}
    ordered = sorted(known, key=lambda name: -known[name][METHODS[0]])
    unknown = sorted(accuracy.keys() - known.keys())

    def line(cells: Iterable[str], name: str) -> str:
        return "  ".join([*(f"{cell:>6}" for cell in cells), name])

    lines = ["balanced accuracy of each direction on held-out faces (chance is 0.5):"]
    lines += [line(METHODS, "attribute")]
    lines += [line((f"{known[name][m]:.3f}" for m in METHODS), name) for name in ordered]
    lines += [line("?" * len(METHODS), f"{name}: {NOT_TOLD}") for name in unknown]
    nothing = dict.fromkeys(METHODS)
    found = {name: known.get(name, nothing) for name in [*ordered, *unknown]}
    show(options, {"balanced_accuracy": found}, "\n".join(lines))
