"""Errors for the person at the terminal."""

from __future__ import annotations

import errno
import faulthandler
import io
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from types import TracebackType
from typing import Any, NoReturn

from vae.utils.text import printable, truncate

LONGEST_VALUE = 200  # characters of a refused value in a message


class UserError(Exception):
    """A mistake that the user can fix; only its text is shown.

    The text names the key or the file, the problem, and the remedy.
    `train.py` and the `vae` command print it without a traceback and exit with
    a code other than 0.
    """


def prepare_process() -> None:
    """Prepare the streams of this process, the environment of its children, and crash reports.

    - stdout and stderr: one that was closed (`2>&-`) is opened, and characters that the encoding
      lacks (cp1252 and ASCII have no β) are printed as their escapes.
    - PYTHONIOENCODING: child processes print them in the same way.
    - faulthandler: SIGBUS and SIGSEGV print a traceback, as a memory-mapped file, such as a
      cache, may have been truncated while it was read.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # tqdm, for one, would fail
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - to the end
            os.set_inheritable(stream.fileno(), True)  # or the next file gets its number
            setattr(sys, name, stream)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    encoding = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
    os.environ["PYTHONIOENCODING"] = f"{encoding}:backslashreplace"
    if not faulthandler.is_enabled():
        with suppress(OSError, ValueError):  # a stderr that is no file
            faulthandler.enable()


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


class ReportedExit(SystemExit):
    """The end of the process, with its reason, which has been printed."""

    def __init__(self, reason: str) -> None:
        super().__init__(1)
        self.reason = reason


def exit_with_error(text: str) -> NoReturn:
    """End the process with an error message, where an exception would not end it."""
    say_error(text)
    raise ReportedExit(text)


# In errors of torch's that have no class of their own: its allocator's on CPUs, mmap's, MPS's,
# CUDA's libraries' (cuBLAS and cuDNN want memory of their own), oneDNN's.
OUT_OF_MEMORY = (
    *("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory"),
    *("bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
    *("could not create a primitive", "could not create a memory object"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed: in Python, numpy or torch, on the CPU or on a GPU."""
    if isinstance(error, RuntimeError):  # torch.OutOfMemoryError is one
        text = str(error).lower()
        return any(each.lower() in text for each in OUT_OF_MEMORY)
    no_memory = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return no_memory or isinstance(error, MemoryError)


def require(holds: bool, key: str, got: Any, takes: str) -> None:
    """Raise a UserError that names the configuration key unless `holds`.

    >>> require(lr > 0, "optimizer.lr", lr, "a number > 0")
    """
    if not holds:
        raise UserError(f"{key}: got {truncate(repr(got), LONGEST_VALUE)}, but it takes {takes}.")


def require_range(
    key: str,
    got: Any,
    least: float,
    most: float,
    *,
    integer: bool,
    others: Sequence[Any] = (),
    takes: str = "",
) -> None:
    """Raise a UserError unless a value is a number in a range, or one of `others`.

    Args:
        key: of the value, for the message.
        integer: whether only an int is taken.
        others: further values, None among them.
        takes: describes the range, if there is more to say than its ends.
    """
    number = isinstance(got, int if integer else int | float) and not isinstance(got, bool)
    takes = takes or f"{'an int' if integer else 'a number'} from {least:.12g} to {most:.12g}"
    takes = " or ".join([*("null" if o is None else str(o) for o in others), takes])
    require((number and least <= got <= most) or got in others, key, got, takes)


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
        key, kind = f"{group}.{name}" if group else name, kinds[name]
        others = (None,) if "None" in kind else ()
        got = getattr(settings, name)
        require_range(key, got, least, most, integer="int" in kind, others=others)


def without_password(text: str) -> str:
    """Return `text` with the password of each URL hidden, for messages and records.

    A password may hold any character: databases take `:`, `/`, `@` and spaces in it.

    >>> without_password("postgresql://me:secret@host/db")
    'postgresql://me:***@host/db'
    >>> without_password("postgresql://host/db?user=me&password=secret")
    'postgresql://host/db?user=me&password=***'
    """
    text = re.sub(r"(?<=://)([^:/]*):.+@", r"\1:***@", text)
    text = re.sub(r":(?!//)\S+@", ":***@", text)  # of a mistyped URL
    return re.sub(r"([?&][^=?&\s]*passw[^=?&\s]*=)[^&\s]+", r"\1***", text, flags=re.IGNORECASE)
