"""Errors for the person at the terminal."""

from __future__ import annotations

import errno
import faulthandler
import os
import re
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any


class UserError(Exception):
    """A mistake that the user can fix; only its text is shown.

    The text names the key or the file, the problem, and the remedy.
    `train.py` and the `vae` command print it without a traceback and exit with
    a code other than 0.
    """


def prepare_streams() -> None:
    """Open a stdout or stderr that was closed (`2>&-`); print a traceback at SIGBUS or SIGSEGV.

    SIGBUS, mostly: a memory-mapped file, as a cache is one, was made shorter while it is read.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # tqdm, for one, would fail
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - to the end
            os.set_inheritable(stream.fileno(), True)  # or the next file gets its number
            setattr(sys, name, stream)
    if not faulthandler.is_enabled():
        with suppress(OSError, ValueError):  # a stderr that is no file
            faulthandler.enable()


def print_error(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Print a UserError as one message; keep the traceback of other errors (`sys.excepthook`)."""
    if issubclass(kind, UserError):
        print(f"error: {error}", file=sys.stderr)
    elif issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


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
        raise UserError(f"{key}: got {got!r}, but it takes {takes}.")


def without_password(text: str) -> str:
    """Return `text` with the password of each URL hidden, for messages and records.

    >>> without_password("postgresql://me:secret@host/db")
    'postgresql://me:***@host/db'
    """
    return re.sub(r":[^:@/\s]+@", ":***@", text)
