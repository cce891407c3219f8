"""Errors for the person at the terminal."""

from __future__ import annotations

import errno
import faulthandler
import io
import os
import re
import sys
from contextlib import suppress
from dataclasses import fields
from types import TracebackType
from typing import Any, NoReturn

from vae.utils.text import printable

LONGEST_VALUE = 200  # characters of a refused value in a message


class UserError(Exception):
    """A mistake that the user can fix; only its text is shown.

    The text names the key or the file, the problem, and the remedy.
    `train.py` and the `vae` command print it without a traceback and exit with
    a code other than 0.
    """


def prepare_streams() -> None:
    """Make stdout and stderr fit for any text, in child processes too; report crashes.

    A stream that was closed (`2>&-`) is opened. Characters that the encoding lacks (cp1252 and
    ASCII have no β) are printed as their escapes. SIGBUS and SIGSEGV print a traceback: a
    memory-mapped file, such as a cache, may have been truncated while it was read.
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


def exit_with_error(text: str) -> NoReturn:
    """End the process with an error message, where an exception would not end it."""
    say_error(text)
    sys.exit(1)


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

    A password may hold any character but a space: databases take `:`, `/` and `@` in it.

    >>> without_password("postgresql://me:secret@host/db")
    'postgresql://me:***@host/db'
    >>> without_password("postgresql://host/db?user=me&password=secret")
    'postgresql://host/db?user=me&password=***'
    """
    text = re.sub(r":(?!//)\S+@", ":***@", text)
    return re.sub(r"([?&]\w*passw\w*=)[^&\s]+", r"\1***", text)
