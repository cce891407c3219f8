"""Errors for the person at the terminal."""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from types import TracebackType
from typing import Any

LONGEST_VALUE = 200  # characters of a refused value in a message


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
        print(f"error: {error}", file=sys.stderr)
    elif issubclass(kind, KeyboardInterrupt):
        print(f"interrupted{getattr(error, 'hint', '')}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


def require(holds: bool, key: str, got: Any, takes: str) -> None:
    """Raise a UserError that names the configuration key unless `holds`.

    >>> require(lr > 0, "optimizer.lr", lr, "a number > 0")
    """
    if not holds:
        text = repr(got)
        shown = text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
        raise UserError(f"{key}: got {shown}, but it takes {takes}.")


def require_ranges(group: str, settings: Any, **ranges: tuple[float, float]) -> None:
    """Raise a UserError unless fields of a dataclass of settings are in their ranges.

    A field of type `int | None` may be None. The limits are far beyond sensible values: they keep
    absurd ones from overflows, endless loops and exhausted memory.

    Args:
        group: of the settings, for the key in the message.
        ranges: the least and the largest value of a field, by its name.

    >>> require_ranges("optimizer", self, lr=(1e-12, 1e9))
    """
    kinds = {field.name: str(field.type) for field in fields(settings)}
    for name, (least, most) in ranges.items():
        got, kind = getattr(settings, name), kinds[name]
        takes = f"{'an int' if 'int' in kind else 'a number'} from {least:.12g} to {most:.12g}"
        if "None" in kind:
            takes = f"null or {takes}"
            if got is None:
                continue
        require(least <= got <= most, f"{group}.{name}" if group else name, got, takes)


def without_password(text: str) -> str:
    """Return `text` with the password of each URL hidden, for messages and records.

    >>> without_password("postgresql://me:secret@host/db")
    'postgresql://me:***@host/db'
    """
    return re.sub(r":[^:@/\s]+@", ":***@", text)
