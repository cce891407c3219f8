"""`vae reconstruct`, `interpolate`, `traverse` and `sample`: faces from a model."""

from __future__ import annotations

import argparse
from typing import Any

from vae.cli.options import (
    FACE_OPTIONS,
    REFINE,
    Result,
    open_run,
    option,
    output_folder,
    run_command,
)


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
            "Gaussians; flow: a sliced iterative flow, fitted once and kept in the run's folder",
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
