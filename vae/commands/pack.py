"""`vae pack`: decode or draw a data set into its cache, ahead of training."""

from __future__ import annotations

import argparse

from vae.commands.common import Commands, show
from vae.errors import require


def add_pack(commands: Commands) -> None:
    """Add the command `pack` to those of `vae`."""
    parser = commands.add_parser(
        "pack",
        help="decode or draw a data set into its cache, ahead of training",
        description="Decode or draw a data set into its cache, ahead of training. Training does "
        "the same when it finds no cache.",
        epilog="example: vae pack celeba data.path=/datasets/celeba data.image_size=128",
    )
    parser.add_argument("data", metavar="DATA", help="synthetic, folder or celeba (conf/data/)")
    parser.add_argument(
        "words", nargs="*", metavar="KEY=VALUE", help="as for train.py: data.path=FOLDER ..."
    )
    parser.add_argument(
        "--verify", action="store_true", help="read what is packed against its checksums, and stop"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.set_defaults(run=_pack)


def _pack(options: argparse.Namespace) -> None:
    from vae.composing import CONF, compose
    from vae.data import open_or_pack, open_source, verify

    choices = sorted(path.stem for path in (CONF / "data").glob("*.yaml"))
    require(options.data in choices, "DATA", options.data, f"one of {', '.join(choices)}")
    config = compose([f"data={options.data}", *options.words])
    get = verify if options.verify else open_or_pack
    packed = get(open_source(config.data), config.data)
    counts = {split: len(images) for split, images in packed.images.items()}
    size = sum(file.stat().st_size for file in packed.folder.iterdir())
    skipped = len(packed.skipped())
    labels = packed.label_names()
    found = {"cache": str(packed.folder), "images": counts, "skipped": skipped, "bytes": size}
    lines = [f"cache  {packed.folder}"]
    lines += [f"{split:5}  {count:>9,} images" for split, count in counts.items()]
    lines += [f"with   {len(names):>9,} {kind}" for kind, names in labels.items()]
    if skipped:
        lines += [f"less   {skipped:>9,} that could not be read"]
    checked = ", every byte as it was written" * options.verify
    lines += [f"size   {size / 1e6:>9,.1f} MB{checked}"]
    show(options, found | {"labels": labels}, "\n".join(lines))
