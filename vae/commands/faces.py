"""`vae reconstruct`, `vae interpolate` and `vae traverse`: what a model makes of given faces."""

from __future__ import annotations

import argparse

from vae.commands.common import (
    Commands,
    add_framing,
    add_run_command,
    open_run,
    out_folder,
    show,
)


def add_reconstruct(commands: Commands) -> None:
    """Add the command `reconstruct` to those of `vae`."""
    parser = add_run_command(
        commands,
        "reconstruct",
        _reconstruct,
        help="show faces beside what the model makes of them",
        description="Show faces beside what the model makes of them: photographs, or faces of "
        "the split.",
        example="vae reconstruct outputs/DATE/TIME face.jpg",
        words="[IMAGE ...]",
    )
    add_framing(parser)


def add_interpolate(commands: Commands) -> None:
    """Add the command `interpolate` to those of `vae`."""
    parser = add_run_command(
        commands,
        "interpolate",
        _interpolate,
        help="lead from one face to another",
        description="Lead from one face to another, along a straight line between their latents "
        "and along an arc: a strip of both, and an animation of each.",
        example="vae interpolate outputs/DATE/TIME a.jpg b.jpg",
        words="[A B]",
    )
    parser.add_argument("--steps", type=int, default=9, help="faces of the strip; default: 9")
    parser.add_argument("--method", default="both", help="linear, spherical or both (the default)")
    add_framing(parser)


def add_traverse(commands: Commands) -> None:
    """Add the command `traverse` to those of `vae`."""
    parser = add_run_command(
        commands,
        "traverse",
        _traverse,
        help="move one latent of a face at a time",
        description="Move one latent of a face at a time, those of most KL, over three standard "
        "deviations of the aggregate posterior either side: a sheet and an animation.",
        example="vae traverse outputs/DATE/TIME 3 --latents 12",
        words="[IMAGE]",
    )
    parser.add_argument("--latents", type=int, default=8, help="how many; default: 8")
    parser.add_argument("--steps", type=int, default=9, help="faces of a row; default: 9")
    add_framing(parser)


def _reconstruct(options: argparse.Namespace) -> None:
    from vae.generation.reconstruct import reconstruct

    run, words = open_run(options)
    made = reconstruct(run, words, options.split, options.crop, out_folder(options))
    faces = dict(zip(made.labels, made.metrics, strict=True))
    rows = {**faces, "mean": made.mean}
    width = max(map(len, rows))
    lines = [
        f"{face:{width}}  psnr {m['psnr']:5.2f} dB  ssim {m['ssim']:.3f}  mse {m['mse']:.5f}"
        for face, m in rows.items()
    ]
    found = {"files": [str(made.sheet)], "faces": faces, "mean": made.mean}
    show(options, found, "\n".join([*lines, str(made.sheet)]))


def _interpolate(options: argparse.Namespace) -> None:
    from vae.generation.interpolate import interpolate

    run, words = open_run(options)
    folder = out_folder(options)
    pair = words or ["0", "1"]
    made = interpolate(
        run, pair, options.steps, options.split, options.crop, folder, options.method
    )
    files = [str(file) for file in made]
    show(options, {"files": files}, "\n".join(files))


def _traverse(options: argparse.Namespace) -> None:
    from vae.errors import require
    from vae.generation.traverse import traverse

    run, words = open_run(options)
    require(len(words) <= 1, "IMAGE", words, "one face")
    made = traverse(
        run,
        words[0] if words else "0",
        options.latents,
        options.steps,
        options.split,
        options.crop,
        out_folder(options),
    )
    files = [str(file) for file in made.files]
    lines = [
        f"z{latent:<4} {kl:6.2f} nats{'' if active else '  inactive'}"
        for latent, kl, active in zip(made.latents, made.kl, made.active, strict=True)
    ]
    found = {"files": files, "latents": made.latents, "kl": made.kl, "active": made.active}
    show(options, found, "\n".join([*lines, *files]))
