"""The `vae` command: everything on data and runs but training."""

from __future__ import annotations

import argparse
import logging
import sys

from vae.cli.face_commands import (
    add_edit,
    add_interpolate,
    add_reconstruct,
    add_sample,
    add_traverse,
)
from vae.cli.result_commands import add_compare, add_dashboard, add_evaluate, add_export, add_report
from vae.cli.tool_commands import add_benchmark, add_pack
from vae.utils.errors import UserError

COMMANDS = (  # in the order of the help
    add_evaluate,
    add_sample,
    add_reconstruct,
    add_interpolate,
    add_traverse,
    add_edit,
    add_export,
    add_compare,
    add_dashboard,
    add_report,
    add_benchmark,
    add_pack,
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; a user's mistake is one line on stderr and exit code 1."""
    parser = argparse.ArgumentParser(prog="vae", description="Data and runs of MiniFaceApp.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    options, rest = parser.parse_known_args(arguments)
    # argparse takes no further words after an option: vae pack celeba --verify data.path=...
    if rest and not any(word.startswith("-") for word in rest) and "inputs" in options:
        options.inputs += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # what cannot be read or written: a full disk, somebody else's folder
        reason = f"{error.filename}: {error.strerror}." if error.filename else error
        print(f"error: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130  # as shells count
    return 0


if __name__ == "__main__":
    sys.exit(main())
