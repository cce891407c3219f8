"""`vae app`: the web page of a run or a sweep."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from vae.cli.options import OVERRIDE, RUN_HELP, RUN_OPTIONS, Result, command, option

CHECKPOINT, DEVICE, *_ = RUN_OPTIONS


@command(
    help="open a web page that edits a photograph, samples, interpolates",
    description="Serve a web page on this machine: edit a photograph with sliders, move latents, "
    "sample, go from face to face, and see what β does in a sweep. Nothing is sent elsewhere.",
    example="vae app outputs/DATE/TIME",
    options=[
        option("run_folder", metavar="RUN", help=f"{RUN_HELP}; or a sweep: multirun/SWEEP"),
        option(
            "inputs",
            nargs="*",
            metavar="KEY=VALUE",
            help="data.path=FOLDER where the images have moved",
        ),
        CHECKPOINT,
        DEVICE,
        option(
            "--host",
            default="127.0.0.1",
            help="address to listen on; default: 127.0.0.1, this machine alone. 0.0.0.0: all",
        ),
        option(
            "--port",
            type=int,
            within=(1, 65535),
            help="default: the first free one from 7860 on",
        ),
        option(
            "--share",
            action="store_true",
            help="open a public link for a week, through the servers of Gradio's makers",
        ),
    ],
)
def app(options: argparse.Namespace) -> Result:
    import torch

    from vae.utils.devices import pick_device
    from vae.utils.errors import UserError, require

    if find_spec("gradio") is None:
        raise UserError('vae app needs Gradio: pip install -e ".[app]"')
    from vae.app.models import open_models
    from vae.app.server import serve

    takes = "data.path, data.root, metrics.* or wandb.*"
    others = [word for word in options.inputs if not OVERRIDE.match(word)]
    require(not others, "KEY=VALUE", others, takes)
    device = pick_device(options.device)
    models = open_models(options.run_folder, options.checkpoint, options.inputs, device)
    # Each visitor's request has a thread: several of torch's in each would wait for one another.
    torch.set_num_threads(1)
    serve(models, options.host, options.port, options.share)
