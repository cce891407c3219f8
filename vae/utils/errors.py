"""Errors for the person at the terminal."""

from __future__ import annotations

import io
import os
import re
import sys
from types import TracebackType
from typing import Any

from vae.utils.text import printable


class UserError(Exception):
    """A mistake that the user can fix; only its text is shown.

    The text names the key or the file, the problem, and the remedy.
    `train.py` and the `vae` command print it without a traceback and exit with
    a code other than 0.
    """


def print_error(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Print a UserError as one message; keep the traceback of other errors (`sys.excepthook`)."""
    if issubclass(kind, UserError):
        say_error(str(error))
    elif issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


def say_error(text: str) -> None:
    """Print an error on stderr, without control characters."""
    print("\n".join(map(printable, f"error: {text}".split("\n"))), file=sys.stderr)


def escape_unencodable() -> None:
    """Print a character that the terminal's encoding lacks as its escape; in child processes, too.

    In cp1252 or ASCII there is no β: `--help` would end in a UnicodeEncodeError.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    encoding = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
    os.environ["PYTHONIOENCODING"] = f"{encoding}:backslashreplace"


def require(holds: bool, key: str, got: Any, takes: str) -> None:
    """Raise a UserError that names the configuration key unless `holds`.

    >>> require(lr > 0, "optimizer.lr", lr, "a number > 0")
    """
    if not holds:
        raise UserError(f"{key}: got {got!r}, but it takes {takes}.")


def without_password(text: str) -> str:
    """Return `text` with the password of each URL hidden, for messages and records.

    A password may hold any character but a space: databases take `:`, `/` and `@` in it.

    >>> without_password("postgresql://me:secret@host/db")
    'postgresql://me:***@host/db'
    >>> without_password("postgresql://host/db?user=me&password=secret")
    'postgresql://host/db?user=me&password=***'
    """
    text = re.sub(r":(?!//)\S+@", ":***@", text)
    return re.sub(r"([?&]\w*passw\w*=)[^&\s]+", r"\1***", text)
