"""`vae edit`: attributes of faces, changed or listed."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from vae.cli.options import (
    FACE_OPTIONS,
    REFINE,
    Result,
    open_run,
    option,
    output_folder,
    run_command,
)

if TYPE_CHECKING:
    from vae.runs.load import SavedRun

EDIT_COLUMNS = ("effect", "leakage")  # of `Change`


@run_command(
    help="change an attribute of faces: Smiling, Eyeglasses, ...",
    description="Give faces an attribute, or take it away: photographs, or faces of the split. "
    "The directions are found once, on the training faces, and kept in the run's folder.",
    example="vae edit outputs/DATE/TIME face.jpg --attribute Smiling --strength 2",
    inputs="[IMAGE ...]",
    options=[
        option(
            "--attribute",
            default="",
            metavar="NAME[,NAME...]",
            help="one, shown at several strengths, or several",
        ),
        option(
            "--strength",
            type=float,
            default=2.0,
            within=(-100, 100),
            help="1 is from the average face without it to the average face with it; less than 0 "
            "takes it away; limited for each face to the range of the training faces; default: 2",
        ),
        option(
            "--list",
            action="store_true",
            help="the attributes, with the accuracy of each direction on held-out faces and the "
            "limits of the strength; after vae evaluate of drawn faces, effect and leakage",
        ),
        option(
            "--method",
            default="normal",
            help="normal (the default): from faces without it to those with it that are alike in "
            "the other attributes, by a regularized linear regression on all of them; means: the "
            "difference of the two classes' means, with all that goes along; conditional: the "
            "normal of a linear classifier, orthogonal to those of the other attributes (Shen et "
            "al. 2020)",
        ),
        option(
            "--keep-detail",
            action="store_true",
            help="keep the details of a photograph that the model cannot reconstruct",
        ),
        option(
            "--unbounded",
            action="store_true",
            help="apply the strength in full, beyond the range of the training faces too",
        ),
        REFINE,
        *FACE_OPTIONS,
    ],
)
def edit(options: argparse.Namespace) -> Result:
    from vae.evaluation.attributes import learn_directions
    from vae.evaluation.directions import require_method
    from vae.generation.edit import edit

    run, inputs = open_run(options)
    if options.list:
        return _list(run)
    require_method(options.method)
    attributes = [name.strip() for name in options.attribute.split(",") if name.strip()]
    folder = output_folder(options)
    edited = edit(
        run,
        learn_directions(run, run.directions_file),
        inputs,
        attributes,
        options.strength,
        method=options.method,
        keep_detail=options.keep_detail,
        unbounded=options.unbounded,
        refine=options.refine,
        seed=options.seed,
        split=options.split,
        crop=options.crop,
        folder=folder,
        tag="" if run.checkpoint == "last" else run.checkpoint,
    )
    files = [edited.sheet, *edited.files]
    found = {"files": files, "attributes": attributes, "strength": options.strength}
    found |= {"applied": edited.applied, "psnr": edited.psnr}
    width = max(map(len, edited.psnr))
    lines = [
        f"{face:{width}}  psnr {m['model']:5.2f} dB; refined: psnr {m['refined']:5.2f} dB"
        for face, m in edited.psnr.items()
        if options.refine
    ]
    return found, [*lines, *files]


def _list(run: SavedRun) -> Result:
    """Return the attributes by the balanced accuracy of the default direction, best first."""
    from vae.evaluation.attributes import learn_directions
    from vae.evaluation.directions import METHODS
    from vae.runs.load import read_edit_scores
    from vae.utils.registry import format_fixed

    learned = learn_directions(run, run.directions_file)
    accuracy, limits = learned.accuracy, learned.directions.strength_limits()
    known = {name: row for name, row in accuracy.items() if not any(map(math.isnan, row.values()))}
    ordered = sorted(known, key=lambda name: -known[name][METHODS[0]])
    unknown = sorted(accuracy.keys() - known.keys())

    edits = read_edit_scores(run, METHODS[0])
    rows = [[*METHODS, "without it", "with it", *(EDIT_COLUMNS if edits else ()), "attribute"]]
    for name in [*ordered, *unknown]:
        told = [f"{known[name][method]:.3f}" if name in known else "?" for method in METHODS]
        ranges = [f"{low:+.1f} to {high:+.1f}" for low, high in limits[name][METHODS[0]].values()]
        does = [format_fixed(getattr(edits[name], key), 2) for key in EDIT_COLUMNS if name in edits]
        does = does or ["?" for _ in EDIT_COLUMNS if edits]
        note = "" if name in known else ": no held-out face has it, or all have"
        rows.append([*told, *ranges, *does, name + note])
    widths = [max(6, *map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "balanced accuracy of each direction on held-out faces (chance is 0.5), and the strengths",
        f"({METHODS[0]}) within the range of the training faces, from the average face without "
        "it and with it:",
    ]
    if edits:
        lines[1] = lines[1].removesuffix(":") + ";"
        lines.append(f"effect and leakage of edits ({METHODS[0]}), relative to the redrawn faces:")
    lines += ["  ".join([*map(str.rjust, cells, widths), name]) for *cells, name in rows]
    nothing = dict.fromkeys(METHODS)
    found = {name: known.get(name, nothing) for name in [*ordered, *unknown]}
    scores = {name: {"effect": of.effect, "leakage": of.leakage} for name, of in edits.items()}
    return {"balanced_accuracy": found, "strength_limits": limits, "edits": scores}, lines
