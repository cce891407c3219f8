"""`vae export`: a run's model as files that need nothing of this project."""

from __future__ import annotations

import argparse

from vae.commands.common import Commands, add_run_command, open_run, out_folder, show


def add_export(commands: Commands) -> None:
    """Add the command `export` to those of `vae`."""
    parser = add_run_command(
        commands,
        "export",
        _export,
        help="write a run's model for use elsewhere",
        description="Write a run's encoder and decoder as files that are used without this "
        "project, into RUN/export: torch (encoder.pt2, decoder.pt2, for torch.export.load), onnx "
        "(encoder.onnx, decoder.onnx) or safetensors (model.safetensors, the weights). Each is "
        "compared with the model first. All but torch want the extra: "
        'pip install -e ".[export]".',
        example="vae export outputs/DATE/TIME --format onnx",
    )
    # torch is the default as it is the one that needs nothing beside torch
    parser.add_argument(
        "--format",
        action="append",
        choices=("torch", "onnx", "safetensors"),
        help="torch (the default), onnx or safetensors; may be given several times",
    )


def _export(options: argparse.Namespace) -> None:
    from vae.export import export_run

    run, _ = open_run(options)
    folder = out_folder(options, "export")
    formats = dict.fromkeys(options.format or ["torch"])
    exports = [made for name in formats for made in export_run(run, name, folder, options.seed)]
    found = {
        "run": str(run.folder),
        "checkpoint": run.checkpoint,
        "step": run.step,
        "files": [str(made.file) for made in exports],
        "bytes": [made.size for made in exports],
        "largest_differences": [made.difference for made in exports],
    }
    width = max(len(str(made.file)) for made in exports)
    lines = [f"{'file':{width}}  {'size':>10}  largest difference"]
    lines += [
        f"{made.file!s:{width}}  {made.size / 1e6:>7,.2f} MB  {made.difference:.1e}"
        for made in exports
    ]
    show(options, found, "\n".join(lines))
