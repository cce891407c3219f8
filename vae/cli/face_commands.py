"""`vae reconstruct`, `interpolate`, `traverse`, `edit` and `sample`: faces from a model."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

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


@run_command(
    help="show faces beside their reconstructions",
    description="Show faces beside their reconstructions: photographs, or faces of the split.",
    example="vae reconstruct outputs/DATE/TIME face.jpg",
    inputs="[IMAGE ...]",
    options=[REFINE, *FACE_OPTIONS],
)
def reconstruct(options: argparse.Namespace) -> Result:
    from vae.generation.decode import reconstruct

    run, inputs = open_run(options)
    made = reconstruct(
        run,
        inputs,
        options.split,
        options.crop,
        refine=options.refine,
        seed=options.seed,
        folder=output_folder(options),
    )
    labels = [*made.labels, "mean"]
    lines = [f"{label:{max(map(len, labels))}}" for label in labels]
    found: dict[str, Any] = {"files": [made.sheet], "faces": made.faces, "mean": made.mean}
    versions = {"": made}
    if made.refined:
        versions["refined: "] = made.refined
        found["refined"] = {"faces": made.refined.faces, "mean": made.refined.mean}
    for name, version in versions.items():
        for row, m in enumerate([*version.metrics, version.mean]):
            text = f"psnr {m['psnr']:5.2f} dB  ssim {m['ssim']:.3f}  mse {m['mse']:.5f}"
            lines[row] += f"  {name}{text}"
    return found, [*lines, made.sheet]


@run_command(
    help="lead from one face to another",
    description="Lead from one face to another, along a straight line between their latents "
    "and along an arc: a strip of both, and an animation of each.",
    example="vae interpolate outputs/DATE/TIME a.jpg b.jpg",
    inputs="[A B]",
    options=[
        option("--steps", type=int, default=9, within=(2, 100), help="of the strip; default: 9"),
        option("--method", default="both", help="linear, spherical or both (the default)"),
        *FACE_OPTIONS,
    ],
)
def interpolate(options: argparse.Namespace) -> Result:
    from vae.generation.decode import interpolate

    run, inputs = open_run(options)
    pair = inputs or ["0", "1"]
    folder = output_folder(options)
    files = interpolate(
        run, pair, options.steps, options.split, options.crop, options.method, folder=folder
    )
    return {"files": files}, files


@run_command(
    help="move one latent of a face at a time",
    description="Move one latent of a face at a time, those of most KL, over three standard "
    "deviations of the aggregate posterior either side: a sheet and an animation.",
    example="vae traverse outputs/DATE/TIME 3 --latents 12",
    inputs="[IMAGE]",
    options=[
        option("--latents", type=int, default=8, within=(1, 65536), help="how many; default: 8"),
        option("--steps", type=int, default=9, within=(2, 100), help="of a row; default: 9"),
        *FACE_OPTIONS,
    ],
)
def traverse(options: argparse.Namespace) -> Result:
    from dataclasses import asdict

    from vae.generation.decode import traverse
    from vae.utils.errors import require

    run, inputs = open_run(options)
    require(len(inputs) <= 1, "IMAGE", inputs, "one face")
    (face,) = inputs or ["0"]
    folder = output_folder(options)
    made = traverse(
        run, face, options.latents, options.steps, options.split, options.crop, folder=folder
    )
    lines = [
        f"z{latent:<4} {kl:6.2f} nats{'' if active else '  inactive'}"
        for latent, kl, active in zip(made.latents, made.kl, made.active, strict=True)
    ]
    return asdict(made), [*lines, *made.files]


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
            help="the attributes, how well each direction tells them on held-out faces, and the "
            "limits of the strength",
        ),
        option(
            "--method",
            default="normal",
            help="normal (the default): from faces without it to those with it that are alike in "
            "the other attributes, by a regularized linear regression on all of them; means: the "
            "difference of the two classes' means, with all that goes along",
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

    learned = learn_directions(run, run.directions_file)
    accuracy, limits = learned.accuracy, learned.directions.strength_limits()
    known = {name: row for name, row in accuracy.items() if not any(map(math.isnan, row.values()))}
    ordered = sorted(known, key=lambda name: -known[name][METHODS[0]])
    unknown = sorted(accuracy.keys() - known.keys())

    rows = [[*METHODS, "without it", "with it", "attribute"]]
    for name in [*ordered, *unknown]:
        told = [f"{known[name][method]:.3f}" if name in known else "?" for method in METHODS]
        ranges = [f"{low:+.1f} to {high:+.1f}" for low, high in limits[name][METHODS[0]].values()]
        note = "" if name in known else ": no held-out face has it, or all have"
        rows.append([*told, *ranges, name + note])
    widths = [max(6, *map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "balanced accuracy of each direction on held-out faces (chance is 0.5), and the strengths",
        f"({METHODS[0]}) within the range of the training faces, from the average face without "
        "it and with it:",
    ]
    lines += ["  ".join([*map(str.rjust, cells, widths), name]) for *cells, name in rows]
    nothing = dict.fromkeys(METHODS)
    found = {name: known.get(name, nothing) for name in [*ordered, *unknown]}
    return {"balanced_accuracy": found, "strength_limits": limits}, lines


@run_command(
    help="draw new faces",
    description="Draw new faces: from the prior N(0, I), or from a density fitted to the latents "
    "of the training images (Ghosh et al. 2020), whose samples are mostly better. Where features "
    "are installed, the Fréchet distances of the samples are measured, too: to faces, and to "
    "reconstructions, which is the prior's own error.",
    example="vae sample outputs/DATE/TIME --prior mixture --num 64",
    options=[
        option("--num", type=int, default=64, within=(1, 1_000_000), help="how many; default: 64"),
        option(
            "--prior",
            help="standard: N(0, I); gaussian (the default where the training images are at hand): "
            "with the mean and covariance of the latents; mixture, also called fitted: of ten "
            "Gaussians; flow: a rectified flow, trained in a minute and kept in the run's folder",
        ),
        option(
            "--temperature",
            type=float,
            default=1.0,
            within=(0, 10),
            help="scales the noise about the prior's means: below 1 faces are more typical and "
            "vary less; default: 1",
        ),
        option("--split", choices=("val", "test"), default="val", help="for the distances"),
        option("--no-gain", action="store_true", help="do not measure distances: quicker"),
        option("--separate", action="store_true", help="also write each as a PNG"),
    ],
)
def sample(options: argparse.Namespace) -> Result:
    from dataclasses import asdict

    from vae.evaluation.priors import StandardPrior, fit_prior
    from vae.generation.sample import measure_gain, sample
    from vae.utils.errors import UserError
    from vae.utils.text import plural

    run, _ = open_run(options, takes_inputs=False)
    folder = output_folder(options)
    prior, temperature = options.prior or "gaussian", options.temperature
    notes = list[str]()
    try:
        fitted = fit_prior(run, prior, options.seed, flow_file=run.flow_file)
    except UserError as error:
        if options.prior:
            raise
        notes.append(f"Samples of N(0, I), as none can be fitted: {error}")
        prior, fitted = "standard", StandardPrior(run.model.latent_dim)
    files = sample(
        run,
        options.num,
        prior,
        options.seed,
        temperature,
        folder=folder,
        separate=options.separate,
        fitted=fitted,
    )
    gain = None
    if not options.no_gain:
        try:
            gain, missing = measure_gain(
                run, prior, fitted, options.split, options.seed, temperature
            )
            notes += missing
        except UserError as error:  # the images are missing
            notes.append(f"No distances: {error}")
    lines: list[object] = [files[0]]
    if len(files) > 1:
        lines += [f"{plural(len(files) - 1, 'PNG')} in {files[1].parent}"]
    if gain:
        lines += [f"Fréchet distances ({gain.features}, n = {gain.n:,}) of samples:"]
        for to, distances, limit in (
            ("to faces", gain.distances, f"floor {gain.floor:.4f}"),
            ("to reconstructions", gain.prior_errors, f"ceiling {gain.ceiling:.4f}"),
        ):
            found = ", ".join(f"{name} {value:.4f}" for name, value in distances.items())
            lines += [f"{to}: {found}; {limit}"]
    measured = asdict(gain) if gain else None
    result = {"files": files, "prior": prior, "temperature": temperature, "gain": measured}
    return {**result, "notes": notes}, [*lines, *notes]
