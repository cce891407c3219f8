"""Calls in a separate process, where a hang, a crash or a lack of memory is a finding."""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

DEADLINE = 60  # seconds for a call, which take a fraction of one; starting takes a few
MEMORY = 3 << 30  # bytes that a call may take beyond what the process has: more is want of memory


class Outcome(NamedTuple):
    """How a call ended."""

    kind: str  # works; refused, with a message; raised, anything else; hung; died
    value: Any  # what it returned, its message, its traceback, what its process said last

    def __repr__(self) -> str:
        return f"{self.kind}: {self.value}"


class Apart:
    """A context manager that calls functions in one process and restarts it if it dies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder  # the current one of the first call, and its home
        self._process: Any = None

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Outcome:
        """`function(*arguments)`, all of it pickled."""
        if self._process is None:
            self._start()
        self._pipe.send((function, arguments))
        try:
            if self._pipe.poll(DEADLINE + 30):  # it ends itself before, and says where it hung
                return Outcome(*self._pipe.recv())
            kind = "hung"
        except (EOFError, ConnectionResetError):
            kind = "died"
        said = self._said.read_text(errors="replace")[-5000:]
        self.__exit__()
        return Outcome("hung" if "Timeout (" in said else kind, said)

    def _start(self) -> None:
        self._said = Path(tempfile.mkstemp(dir=self.folder, suffix=".said")[1])
        self._pipe, theirs = multiprocessing.get_context("spawn").Pipe()
        context = multiprocessing.get_context("spawn")
        arguments = (theirs, self.folder, self._said)
        self._process = context.Process(target=_answer, args=arguments, daemon=True)
        self._process.start()
        theirs.close()


def _answer(pipe: Connection, folder: Path, said: Path) -> None:
    """In the process: do what is asked."""
    output = os.open(said, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]  # as in conftest.py, which is not for this process
    home = {"HOME": str(folder / "home"), "NETRC": str(folder / "home" / ".netrc")}
    os.environ.update(home, WANDB_BASE_URL="http://127.0.0.1:1", TQDM_DISABLE="1")
    os.chdir(folder)
    import torch

    import train  # noqa: F401 - all that a run needs, before memory is limited

    torch.set_num_threads(1)
    _limit_memory()
    while True:
        function, arguments = pipe.recv()
        faulthandler.dump_traceback_later(DEADLINE, exit=True)
        outcome = _outcome(function, arguments)
        faulthandler.cancel_dump_traceback_later()
        pipe.send(outcome)


def _outcome(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[str, Any]:
    from vae.utils.errors import UserError

    logging.disable(logging.CRITICAL)
    try:
        return "works", function(*arguments)
    except UserError as error:
        return "refused", str(error)
    except (Exception, SystemExit):
        return "raised", traceback.format_exc()


def _limit_memory() -> None:
    """Limit memory, so that excessive allocations fail immediately."""
    if sys.platform != "linux":  # others do not heed it
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
