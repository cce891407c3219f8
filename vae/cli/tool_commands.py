"""`vae pack` and `vae benchmark`: data and speed."""

from __future__ import annotations

import argparse

from vae.cli.options import Commands, print_result
from vae.utils.errors import require


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
        "inputs", nargs="*", metavar="KEY=VALUE", help="as for train.py: data.path=FOLDER ..."
    )
    parser.add_argument(
        "--verify", action="store_true", help="only verify the cache against its checksums"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.set_defaults(run=_pack)


def _pack(options: argparse.Namespace) -> None:
    from vae.data import open_or_pack, verify
    from vae.runs.compose import CONF, compose

    choices = sorted(path.stem for path in (CONF / "data").glob("*.yaml"))
    require(options.data in choices, "DATA", options.data, f"one of {', '.join(choices)}")
    config = compose([f"data={options.data}", *options.inputs])
    get = verify if options.verify else open_or_pack
    packed = get(config.data.source(), config.data)
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
    print_result(options, found | {"labels": labels}, "\n".join(lines))


def add_benchmark(commands: Commands) -> None:
    """Add the command `benchmark` to those of `vae`."""
    parser = commands.add_parser(
        "benchmark",
        help="measure the speed of training on this machine",
        description="Measure on this machine, in turns and again and again: the training step "
        "against a plain twin, the upsampling layers in each form, the peak of matrix products, "
        "loading, evaluation. Takes some minutes.",
        epilog="example: vae benchmark --threads 1 --json",
    )
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's own choice")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--batch", type=int, default=32, help="images per step; default: 32")
    parser.add_argument("--image-size", type=int, default=64, help="pixels; default: 64")
    parser.add_argument(
        "--compile", action="store_true", help="also the compiled step: a minute more"
    )
    parser.add_argument(
        "--growth",
        action="store_true",
        help="also time and memory against image size, batch, latents and widths: minutes more",
    )
    parser.add_argument(
        "--quality",
        type=int,
        default=0,
        metavar="SEEDS",
        help="also how long training takes to the plain twin's quality, over so many seeds: "
        "half an hour each on one core; draws the default run's faces into data/",
    )
    parser.add_argument("--device", default="auto", help="auto (the default), cpu, cuda or mps")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn; default: 0")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.set_defaults(run=_benchmark)


def _benchmark(options: argparse.Namespace) -> None:
    require(options.rounds >= 1, "--rounds", options.rounds, "an int >= 1")
    require(options.quality >= 0, "--quality", options.quality, "an int >= 0")

    from vae.benchmark.steps import Setting
    from vae.benchmark.suite import format_benchmark, run_benchmark
    from vae.utils.devices import pick_device

    device = pick_device(options.device).type
    setting = Setting(
        batch=options.batch,
        image_size=options.image_size,
        device=device,
        threads=options.threads,
        seed=options.seed,
        # a GPU reaches its peak with larger matrices only
        matrix_side=2048 if device == "cpu" else 8192,
    )
    found = run_benchmark(setting, options.rounds, options.compile, options.growth, options.quality)
    print_result(options, found, "" if options.json else format_benchmark(found))
