"""The `vae` command: everything on data and runs but training."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from textwrap import shorten

from vae.cli.app_command import app
from vae.cli.edit_command import edit
from vae.cli.face_commands import interpolate, reconstruct, sample, traverse
from vae.cli.options import DEVICE, JSON, SEED, Result, check_numbers, command, option
from vae.cli.result_commands import compare, dashboard, evaluate, export, report
from vae.utils.errors import UserError, is_out_of_memory, prepare_process, require, say_error
from vae.utils.text import LineFormatter, printable


@command(
    help="decode or draw a data set into its cache, ahead of training",
    description="Decode or draw a data set into its cache, ahead of training. Training does "
    "the same when it finds no cache.",
    example="vae pack celeba data.path=/datasets/celeba data.image_size=128",
    options=[
        option("data", metavar="DATA", help="synthetic, folder or celeba (conf/data/)"),
        option(
            "inputs", nargs="*", metavar="KEY=VALUE", help="as for train.py: data.path=FOLDER ..."
        ),
        option("--verify", action="store_true", help="only verify the cache against its checksums"),
        JSON,
    ],
)
def pack(options: argparse.Namespace) -> Result:
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
    lines = [f"cache  {packed.folder}"]
    lines += [f"{split:5}  {count:>9,} images" for split, count in counts.items()]
    lines += [f"with   {len(names):>9,} {kind}" for kind, names in labels.items()]
    if skipped:
        lines += [f"less   {skipped:>9,} that could not be read"]
    checked = ", every byte as it was written" * options.verify
    lines += [f"size   {size / 1e6:>9,.1f} MB{checked}"]
    found = {"cache": packed.folder, "images": counts, "skipped": skipped, "bytes": size}
    return found | {"labels": labels}, lines


@command(
    help="measure the speed of training on this machine",
    description="Measure on this machine, in turns and again and again: the training step "
    "against a plain twin, the upsampling layers in each form, the peak of matrix products, "
    "loading, evaluation. Takes some minutes.",
    example="vae benchmark --threads 1 --json",
    options=[
        option("--threads", type=int, within=(1, 1024), help="CPU threads; default: torch's own"),
        option("--rounds", type=int, default=5, within=(1, 1000), help="default: 5"),
        option("--batch", type=int, default=32, within=(1, 65536), help="per step; default: 32"),
        option("--image-size", type=int, default=64, within=(8, 8192), help="default: 64"),
        option("--compile", action="store_true", help="also the compiled step: a minute more"),
        option(
            "--growth",
            action="store_true",
            help="also time and memory against image size, batch, latents and widths: minutes more",
        ),
        option(
            "--quality",
            type=int,
            default=0,
            within=(0, 100),
            metavar="SEEDS",
            help="also how long training takes to the plain twin's quality, over so many seeds: "
            "half an hour each on one core; draws the default run's faces into data/",
        ),
        DEVICE,
        SEED,
        JSON,
    ],
)
def benchmark(options: argparse.Namespace) -> Result:
    from vae.benchmark.steps import Setting
    from vae.benchmark.suite import format_benchmark, run_benchmark
    from vae.utils.devices import pick_device, require_compiler

    chosen = pick_device(options.device)
    device = chosen.type
    if options.compile:
        require_compiler(chosen, "--compile")
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
    return found, [] if options.json else format_benchmark(found).splitlines()


COMMANDS = (  # in the order of the help
    *(evaluate, sample, reconstruct, interpolate, traverse, edit, app, export),
    *(compare, dashboard, report, benchmark, pack),
)


def _explain_memory(error: Exception, options: argparse.Namespace) -> str:
    """Return a message for a command that ran out of memory: what takes less of it."""
    numbers = ("num", "steps", "latents", "batch", "image_size", "quality")
    ways = [f"a lower --{name.replace('_', '-')}" for name in numbers if name in options]
    if "crop" in options:
        ways.append("fewer or smaller images")
    if "device" in options:
        ways.append("another --device")
    cause = shorten(str(error) or type(error).__name__, 200)
    ways.append("more free memory")
    return f"vae {options.command}: out of memory ({cause}). Try {' or '.join(ways)}."


def main(arguments: list[str] | None = None) -> int:
    """Run a command; a user's mistake is one line on stderr and exit code 1."""
    prepare_process()
    parser = argparse.ArgumentParser(prog="vae", description="Data and runs of MiniFaceApp.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add_to in COMMANDS:
        add_to(commands)
    options, rest = parser.parse_known_args(arguments)
    # argparse takes no further words after an option: vae pack celeba --verify data.path=...
    if rest and not any(word.startswith("-") for word in rest) and "inputs" in options:
        options.inputs += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(LineFormatter("%(message)s"))
    try:
        check_numbers(options)
        found, lines = options.run(options)
        if options.json:
            print(json.dumps(found, default=os.fspath))
        else:
            print(*(printable(str(line)) for line in lines), sep="\n")
        sys.stdout.flush()
    except UserError as error:
        say_error(str(error))
        return 1
    except BrokenPipeError:  # its reader has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
        return 141  # as shells count
    except (OSError, MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            say_error(_explain_memory(error, options))
        elif isinstance(error, OSError):  # a full disk, somebody else's folder
            say_error(f"{error.filename}: {error.strerror}." if error.filename else str(error))
        else:
            raise
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130  # as shells count
    return 0


if __name__ == "__main__":
    sys.exit(main())
