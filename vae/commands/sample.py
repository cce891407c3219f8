"""`vae sample`: new faces."""

from __future__ import annotations

import argparse

from vae.commands.common import Commands, add_run_command, open_run, out_folder, show


def add_sample(commands: Commands) -> None:
    """Add the command `sample` to those of `vae`."""
    parser = add_run_command(
        commands,
        "sample",
        _sample,
        help="draw new faces",
        description="Draw new faces from the prior, or from a Gaussian mixture fitted to the "
        "latents of the training images (Ghosh et al. 2020), which are mostly better: the gain "
        "is measured where features are there to measure it.",
        example="vae sample outputs/DATE/TIME --prior fitted --num 64",
    )
    parser.add_argument("--num", type=int, default=64, help="how many; default: 64")
    parser.add_argument("--prior", default="standard", help="standard (the default) or fitted")
    parser.add_argument("--split", choices=("val", "test"), default="val", help="for the gain")
    parser.add_argument("--no-gain", action="store_true", help="do not measure it: quicker")
    parser.add_argument("--separate", action="store_true", help="also write each as a PNG")


def _sample(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from vae.generation.sample import fit, measure_gain, sample

    run, _ = open_run(options)
    folder = out_folder(options)
    density = fit(run, options.seed) if options.prior == "fitted" else None
    files = sample(run, options.num, options.prior, options.seed, folder, options.separate, density)
    gain, notes = None, list[str]()
    if options.prior == "fitted" and not options.no_gain:
        gain, notes = measure_gain(run, options.split, options.seed, density)
    lines = [str(files[0])]
    if len(files) > 1:
        lines += [f"{len(files) - 1:,} PNGs in {files[1].parent}"]
    if gain:
        lines += [
            f"Fréchet distance ({gain.features}, n = {gain.n:,}): {gain.standard:.4f} from the "
            f"prior, {gain.fitted:.4f} from the fitted density; floor {gain.floor:.4f}"
        ]
    found = {
        "files": [str(file) for file in files],
        "prior": options.prior,
        "gain": asdict(gain) if gain else None,
        "notes": notes,
    }
    show(options, found, "\n".join([*lines, *notes]))
